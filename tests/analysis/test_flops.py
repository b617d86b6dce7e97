"""Law 5: FLOPs are measured, agree with the cost model within 1 %, and fall when gates close."""

from functools import cache

import pytest
import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS, SOS, VOCAB, decide_with, decoders, encoders, features, fixed_gates, masks

from espnet_gated.analysis.flops import measure_flops
from espnet_gated.gating.costs import attention_flops, linear_flops
from espnet_gated.inference.search import CachedBeamSearch

SIZE, FRAMES, TOKENS = 32, 45, 9
PERCENT = 0.01
REL = {"attention_layer_type": "rel_selfattn", "pos_enc_layer_type": "rel_pos"}
ENCODERS = {
    "abs_pos": {},
    "latest": REL,
    "legacy": REL | {"rel_pos_type": "legacy"},
    "fast": {"attention_layer_type": "fast_selfattn"},
    "no_macaron": {"macaron_ffn": False},
    "no_ffn": REL | {"use_ffn": False, "macaron_ffn": False},
    "cgmlp_linear": {"use_linear_after_conv": True, "merge_conv_kernel": 7},
}
DECODERS = {"pre_norm": {}, "post_norm": {"normalize_before": False}, "concat_after": {"concat_after": True}}


@cache
def encoder(name):
    wide = {"output_size": SIZE, "linear_units": 48, "cgmlp_linear_units": 40}
    return encoders(**wide | ENCODERS[name])[1]


@cache
def decoder(name):
    made = decoders(encoder_output_size=SIZE, linear_units=48, **DECODERS[name])[1]
    made.output_layer.bias.data[EOS] = -1e4  # no hypothesis ends early
    return made


def closed_cost(stack, mask, layers, *sizes):
    """What the cost model says the closed modules of a mask (1, M) would have cost."""
    costs = [layer.module_costs(*sizes) for layer in layers]
    gates = zip(stack.gate_predictor.names, mask[0].tolist(), strict=True)
    return sum(costs[index][name] for (index, name), value in gates if not value)


@torch.no_grad()
def measure(stack, mask, *inputs):
    decide_with(stack, fixed_gates(stack, mask))
    return measure_flops(lambda: stack(*inputs))[1]


@pytest.mark.parametrize("name", ENCODERS)
@given(data=st.data())
@settings(max_examples=10)
def test_encoder_flops_fall_by_the_cost_of_what_is_closed(name, data):
    stack, inputs = encoder(name), features(FRAMES)
    mask = data.draw(masks(stack, 1))
    fallen = measure(stack, torch.ones_like(mask), *inputs) - measure(stack, mask, *inputs)
    expected = closed_cost(stack, mask, stack.encoders, FRAMES)
    assert fallen == pytest.approx(expected, rel=PERCENT, abs=1.0)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_closed_encoder_computes_only_its_input_layer(name):
    stack = encoder(name)
    mask = torch.zeros(1, len(stack.gate_predictor.names))
    assert measure(stack, mask, *features(FRAMES)) == pytest.approx(linear_flops(stack.embed, FRAMES), rel=PERCENT)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
@settings(max_examples=10)
def test_decoder_flops_fall_by_the_cost_of_what_is_closed(name, data):
    stack = decoder(name)
    inputs = (*features(FRAMES, size=SIZE), torch.full((1, TOKENS), SOS), torch.tensor([TOKENS]))
    mask = data.draw(masks(stack, 1))
    fallen = measure(stack, torch.ones_like(mask), *inputs) - measure(stack, mask, *inputs)
    expected = closed_cost(stack, mask, stack.decoders, TOKENS, FRAMES)
    assert fallen == pytest.approx(expected, rel=PERCENT, abs=1.0)
    if not mask.any():
        assert measure(stack, mask, *inputs) == pytest.approx(linear_flops(stack.output_layer, TOKENS), rel=PERCENT)


# A search pays less than ``module_costs`` of whole sequences: keys and values are kept.
def cached_attention_flops(rows, prefix):
    """One step of self-attention: ``rows`` hypotheses, ``prefix`` positions."""
    return rows * (8.0 * SIZE * SIZE + 4.0 * SIZE * prefix)


def cached_source_flops(rows):
    """One step of source attention, whose keys and values are projected already."""
    return rows * (4.0 * SIZE * SIZE + 4.0 * SIZE * FRAMES)


def memory_projection_flops():
    """The encoder output's keys and values, once an utterance and layer."""
    return 4.0 * SIZE * SIZE * FRAMES


def step_cost(layer, name, rows, new, prefix):
    """Cost of a module in one cached step: ``new`` positions of each of ``rows`` hypotheses."""
    extra = linear_flops(layer.concat_linear1, rows * new) if layer.concat_after else 0.0
    if name == "feed_forward":
        return linear_flops(layer.feed_forward, rows * new)
    if name == "src_attn":
        return extra + cached_source_flops(rows * new)
    if new > 1:
        return extra + rows * attention_flops(layer.self_attn, new)
    return extra + cached_attention_flops(rows, prefix)


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data(), beam=st.integers(1, 4), primer=st.integers(1, 4), steps=st.integers(1, 6))
@settings(max_examples=10)
@torch.no_grad()
def test_a_decode_costs_what_the_model_says(name, data, beam, primer, steps):
    """A whole cached search of known length: every open module, each step, and the memory projected once."""
    stack = decoder(name)
    mask = data.draw(masks(stack, 1))
    decide_with(stack, fixed_gates(stack, mask))
    weights = {"decoder": 1.0}
    search = BatchBeamSearch({"decoder": stack}, weights, beam, VOCAB, SOS, EOS, hyp_primer=[SOS] * primer)
    search.__class__ = CachedBeamSearch
    memory = features(FRAMES, size=SIZE)[0][0]
    found, measured = measure_flops(lambda: search(memory, maxlenratio=-steps))
    assert len(found[0].yseq) == primer + steps + 1

    expected = linear_flops(stack.output_layer, 1 + (steps - 1) * beam)
    for (index, module), value in zip(stack.gate_predictor.names, mask[0].tolist(), strict=True):
        layer = stack.decoders[index]
        if value:
            expected += step_cost(layer, module, 1, primer, primer)
            expected += sum(step_cost(layer, module, beam, 1, primer + n) for n in range(1, steps))
            expected += memory_projection_flops() if module == "src_attn" else 0.0
    assert measured == pytest.approx(expected, rel=PERCENT)


@pytest.mark.parametrize("rows", [[0], [0, 2]])
@torch.no_grad()
def test_rows_that_are_closed_cost_nothing(rows):
    """In a batch of three only the rows that want a module pay for it."""
    stack = encoder("abs_pos")
    x, lengths = features(FRAMES, FRAMES, FRAMES)
    mask = torch.zeros(3, len(stack.gate_predictor.names))
    mask[rows] = 1.0
    some = measure(stack, mask, x, lengths) - linear_flops(stack.embed, 3 * FRAMES)
    one = measure(stack, torch.ones_like(mask[:1]), x[:1], lengths[:1]) - linear_flops(stack.embed, FRAMES)
    assert some == pytest.approx(len(rows) * one, rel=PERCENT)


def test_products_convolutions_and_attention_are_counted():
    x = torch.randn(2, 3, 5, 4)
    result, flops = measure_flops(lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x))
    assert result.shape == x.shape
    assert flops == 2 * 2 * 2 * 3 * 5 * 5 * 4  # two products of (5, 4, 5), two operations a multiply-add
    assert measure_flops(lambda: torch.nn.functional.linear(x, torch.randn(7, 4)))[1] == 2 * x.numel() * 7
    conv = torch.nn.Conv1d(4, 6, 3, padding=1)
    assert measure_flops(lambda: conv(torch.randn(1, 4, 10)))[1] == linear_flops(conv, 10)
