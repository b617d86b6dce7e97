"""Laws 1 and 2 of the gated E-Branchformer: open gates are ESPnet, skipping is masking."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import INPUT, SIZE, VOCAB, ctc, decide_with, encoders, features, fixed_gates, masks

LENGTHS = (33, 26, 21)
EXACT = {"rtol": 0.0, "atol": 1e-12}
INPUT_LAYERS = ("linear", *(f"conv1d{n}" for n in (1, 2, 3)), "conv2d", *(f"conv2d{n}" for n in (1, 2, 6, 8)))
ATTENTIONS = {
    "abs_pos": {},
    "scaled_abs_pos": {"pos_enc_layer_type": "scaled_abs_pos"},
    "conv": {"pos_enc_layer_type": "conv", "output_size": 16},
    "qk_norm": {"qk_norm": True},
    "latest": {"attention_layer_type": "rel_selfattn", "pos_enc_layer_type": "rel_pos"},
    "zero_triu": {"attention_layer_type": "rel_selfattn", "pos_enc_layer_type": "rel_pos", "zero_triu": True},
    "legacy": {"attention_layer_type": "rel_selfattn", "pos_enc_layer_type": "rel_pos", "rel_pos_type": "legacy"},
    "fast": {"attention_layer_type": "fast_selfattn"},
}
SHAPES = {
    "macaron": {},
    "no_macaron": {"macaron_ffn": False},
    "no_ffn": {"use_ffn": False, "macaron_ffn": False},
    "cgmlp_linear": {"use_linear_after_conv": True, "gate_activation": "swish"},
    "wide_merge": {"merge_conv_kernel": 7},
}


def outputs(encoder, x, lengths, **options):
    """Everything an encoder returns, as a flat list of tensors."""
    out, olens, _ = encoder(x, lengths, **options)
    flat = [olens]
    if isinstance(out, tuple):
        out, intermediate = out
        for entry in intermediate:
            flat += [torch.tensor(entry[0]), entry[1]] if isinstance(entry, tuple) else [entry]
    return [out, *flat]


def assert_same(dense, gated, x, lengths, **options):
    expected, actual = outputs(dense, x, lengths, **options), outputs(gated, x, lengths, **options)
    assert len(expected) == len(actual)
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(b, a, **EXACT)


def opened(**options):
    dense, gated = encoders(**options)
    gated.gate_predictor.set_policy(0.0)
    return dense, gated


# -- law 1 --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_open_gates_are_espnet(attention, shape):
    assert_same(*opened(**ATTENTIONS[attention], **SHAPES[shape]), *features(*LENGTHS))


@pytest.mark.parametrize("attention", ["abs_pos", "latest", "legacy", "fast"])
@pytest.mark.parametrize("layer", INPUT_LAYERS)
def test_open_gates_are_espnet_behind_every_input_layer(layer, attention):
    assert_same(*opened(input_layer=layer, **ATTENTIONS[attention]), *features(*LENGTHS))


def test_open_gates_are_espnet_on_token_ids():
    dense, gated = opened(input_layer="embed", padding_idx=0)
    assert_same(dense, gated, torch.randint(1, INPUT, (2, 9)), torch.tensor([9, 7]))


@pytest.mark.parametrize("attention", ["abs_pos", "latest"])
def test_open_gates_are_espnet_without_an_input_layer(attention):
    x, lengths = features(9, 7, size=SIZE)
    assert_same(*opened(input_layer=None, input_size=SIZE, **ATTENTIONS[attention]), x, lengths)


def test_open_gates_are_espnet_with_a_projection_only():
    assert_same(*opened(input_layer=None), *features(9, 7))


@pytest.mark.parametrize("attention", ["abs_pos", "latest", "legacy"])
def test_open_gates_are_espnet_with_options_of_the_call(attention):
    dense, gated = opened(num_blocks=3, interctc_layer_idx=[1], **ATTENTIONS[attention])
    x, lengths = features(*LENGTHS)
    padding = torch.arange(LENGTHS[0]) >= (lengths - 3)[:, None]
    for options in ({"max_layer": 1}, {"max_layer": 0}, {"return_all_hs": True}, {"masks": padding}):
        assert_same(dense, gated, x, lengths, **options)


@pytest.mark.parametrize("attention", ["abs_pos", "latest"])
@pytest.mark.parametrize("conditioning", [False, True])
def test_open_gates_are_espnet_with_intermediate_ctc(attention, conditioning):
    options = {"num_blocks": 3, "interctc_layer_idx": [1, 2], "interctc_use_conditioning": conditioning}
    dense, gated = opened(**options, **ATTENTIONS[attention])
    if conditioning:  # the model adds this layer
        dense.conditioning_layer = gated.conditioning_layer = torch.nn.Linear(VOCAB, SIZE).double()
    expected = outputs(dense, *features(*LENGTHS), ctc=ctc())
    assert len(expected) == 2 + 2 * 2  # output, lengths, and (layer, output) of two intermediate layers
    assert_same(dense, gated, *features(*LENGTHS), ctc=ctc())


def test_open_gates_train_like_espnet_with_gradient_checkpointing():
    """In training mode, with every module open: the same output and the same gradients."""
    x, lengths = features(*LENGTHS)
    gradients = []
    for layers in ([], [0, 1, 2]):
        dense, gated = encoders({"target_sparsity": 0.0}, gradient_checkpoint_layers=layers)
        assert_same(dense.train(), gated.train(), x, lengths)
        for encoder in (dense, gated):
            outputs(encoder, x, lengths)[0].square().sum().backward()
            gradients.append({k: p.grad for k, p in encoder.named_parameters() if "gate_predictor" not in k})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, **EXACT, msg=name)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_open_gates_drop_layers_like_espnet(rate):
    # This sampler draws nothing, so both encoders see the same random numbers.
    gating = {"target_sparsity": 0.0, "sampler": "budget", "noise": [0.0, 0.0]}
    dense, gated = encoders(gating, num_blocks=6, layer_drop_rate=rate)
    x, lengths = features(*LENGTHS)
    results = []
    for encoder in (dense.train(), gated.train()):
        torch.manual_seed(5)
        results.append(outputs(encoder, x, lengths)[0])
    torch.testing.assert_close(results[1], results[0], **EXACT)
    assert not torch.allclose(results[0], outputs(dense.eval(), x, lengths)[0])
    assert_same(dense.eval(), gated.eval(), x, lengths)


def test_open_gates_are_espnet_in_float32():
    dense, gated = opened(num_blocks=4)
    x, lengths = features(*LENGTHS)
    expected = outputs(dense.float(), x.float(), lengths)[0]
    torch.testing.assert_close(outputs(gated.float(), x.float(), lengths)[0], expected, rtol=0, atol=1e-5)


def test_too_short_audio_is_refused_like_espnet():
    dense, gated = opened(input_layer="conv2d")
    messages = []
    for encoder in (dense, gated):
        with pytest.raises(Exception, match="too short for subsampling") as error:
            encoder(*features(5))
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]


# -- law 2 --------------------------------------------------------------------------------------------
def masked(gated, mask, x, lengths, **options):
    """Outputs with the mask multiplied in, and with closed modules skipped."""
    results = []
    for soft in (True, False):
        decide_with(gated, fixed_gates(gated, mask, soft))
        results.append(outputs(gated, x, lengths, **options))
    return results


PAIRS = {name: encoders(**options)[1] for name, options in ATTENTIONS.items()}
PAIRS |= {name: encoders(**options, **ATTENTIONS["latest"])[1] for name, options in SHAPES.items()}


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
def test_skipping_is_masking(name, data):
    gated = PAIRS[name]
    batch = data.draw(st.integers(1, 4))
    mask = data.draw(masks(gated, batch))
    soft, hard = masked(gated, mask, *features(*range(12, 12 - batch, -1)))
    torch.testing.assert_close(hard[0], soft[0], **EXACT)


@given(data=st.data())
def test_skipping_is_masking_with_intermediate_ctc(data):
    gated = encoders(num_blocks=3, interctc_layer_idx=[1, 2])[1]
    soft, hard = masked(gated, data.draw(masks(gated, 2)), *features(12, 9))
    for a, b in zip(soft, hard, strict=True):
        torch.testing.assert_close(b, a, **EXACT)


def test_a_row_does_not_see_the_gates_of_another():
    gated = encoders()[1]
    x, lengths = features(12, 12)
    one, other = torch.zeros(2, 8), torch.zeros(2, 8)
    one[0], other[0] = 1.0, 1.0
    other[1, ::2] = 1.0
    results = [masked(gated, mask, x, lengths)[1][0] for mask in (one, other)]
    torch.testing.assert_close(results[0][0], results[1][0], **EXACT)
    assert not torch.allclose(results[0][1], results[1][1])


def test_both_branches_closed_skip_the_merge():
    """With every module closed a layer is only its final norm."""
    gated = encoders(num_blocks=1)[1]
    x, lengths = features(9)
    hard = masked(gated, torch.zeros(1, 4), x, lengths)[1][0]
    embedded = gated.embed(x)
    torch.testing.assert_close(hard, gated.after_norm(gated.encoders[0].norm_final(embedded)), **EXACT)


def test_masking_gives_every_gate_a_gradient():
    gated = encoders({"target_sparsity": 0.5})[1].train()
    values = torch.ones(2, 8, dtype=torch.float64)
    values[0, :4] = 0.0
    values.requires_grad_()
    decide_with(gated, fixed_gates(gated, values, soft=True))
    outputs(gated, *features(12, 9))[0].square().sum().backward()
    assert (values.grad.abs() > 0).all()
