"""Laws 1 and 2 of the gated Transformer decoder: open gates are ESPnet, skipping is masking."""

from functools import cache

import pytest
import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.beam_search import BeamSearch
from espnet.nets.pytorch_backend.transformer.embedding import ScaledPositionalEncoding
from espnet.nets.pytorch_backend.transformer.mask import subsequent_mask
from espnet.nets.scorers.ctc import CTCPrefixScorer
from espnet.nets.scorers.length_bonus import LengthBonus
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, INPUT, SIZE, SOS, VOCAB, ctc, decide_with, decoders, features, fixed_gates, masks

EXACT = {"rtol": 0.0, "atol": 1e-12}
OPTIONS = {
    "pre_norm": {},
    "post_norm": {"normalize_before": False},
    "concat_after": {"concat_after": True},
    "post_norm_concat": {"normalize_before": False, "concat_after": True},
    "qk_norm": {"qk_norm": True},
    "no_output_layer": {"use_output_layer": False},
    "scaled_positions": {"pos_enc_class": ScaledPositionalEncoding},
    "layer_drop": {"layer_drop_rate": 0.5},  # read and ignored by ESPnet's decoder
}
every_option = pytest.mark.parametrize("name", OPTIONS)


@cache
def pair(name):
    """Dense decoder and its twin with every gate open."""
    dense, gated = decoders(**OPTIONS[name])
    gated.gate_predictor.set_policy(0.0)
    return dense, gated


def batch(rows=3, tokens=7, frames=11, seed=0):
    """Arguments of ``forward``: unequal memories and unequal prefixes."""
    memory, hlens = features(*range(frames, frames - rows, -1), seed=seed, size=SIZE)
    generator = torch.Generator().manual_seed(seed)
    ys = torch.randint(0, VOCAB, (rows, tokens), generator=generator)
    ys[:, 0] = SOS
    return memory, hlens, ys, torch.arange(tokens, tokens - rows, -1)


def flat(result):
    """Every tensor of a nested result, in order."""
    if torch.is_tensor(result):
        return [result]
    return [t for part in result for t in flat(part)]


def assert_same(expected, actual):
    a, b = flat(expected), flat(actual)
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(other, one, **EXACT)


# -- law 1 --------------------------------------------------------------------------------------------
@every_option
@pytest.mark.parametrize("returned", [{}, {"return_hs": True}, {"return_all_hs": True}])
def test_open_gates_are_espnet(name, returned):
    dense, gated = pair(name)
    assert_same(dense(*batch(), **returned), gated(*batch(), **returned))


def test_open_gates_are_espnet_on_feature_inputs():
    """``input_layer: linear`` takes vectors in place of tokens."""
    dense, gated = decoders(input_layer="linear", vocab_size=INPUT)
    gated.gate_predictor.set_policy(0.0)
    memory, hlens, _, ylens = batch()
    ys = features(7, 6, 5)[0]
    assert_same(dense(memory, hlens, ys, ylens), gated(memory, hlens, ys, ylens))


def test_open_gates_train_like_espnet_with_gradient_checkpointing():
    gradients = []
    for layers in ([], [1, 2]):
        dense, gated = decoders({"target_sparsity": 0.0}, gradient_checkpoint_layers=layers)
        assert_same(dense.train()(*batch()), gated.train()(*batch()))
        for decoder in (dense, gated):
            decoder(*batch())[0].square().sum().backward()
            gradients.append({k: p.grad for k, p in decoder.named_parameters() if "gate_predictor" not in k})
    for other in gradients[1:]:
        for key, gradient in gradients[0].items():
            torch.testing.assert_close(other[key], gradient, **EXACT, msg=key)


@every_option
def test_forward_one_step_is_espnet(name):
    """With and without ESPnet's cache, with a memory mask, hidden states on request."""
    dense, gated = pair(name)
    memory, hlens, ys, _ = batch()
    mask = (torch.arange(memory.size(1)) < hlens[:, None])[:, None]
    caches = [None, None]
    for length in range(1, 5):
        causal = subsequent_mask(length).unsqueeze(0)
        results = []
        for i, decoder in enumerate((dense, gated)):
            result = decoder.forward_one_step(ys[:, :length], causal, memory, mask, cache=caches[i], return_hs=True)
            whole, _ = decoder.forward_one_step(ys[:, :length], causal, memory, mask)
            torch.testing.assert_close(whole, result[0][0], **EXACT)
            caches[i] = result[1]
            results.append(result)
        assert_same(*results)


@every_option
def test_score_is_espnet(name):
    dense, gated = pair(name)
    memory, _, ys, _ = batch()
    state = dense_state = None
    for length in range(1, 6):
        expected, expected_hs, dense_state = dense.score(ys[0, :length], dense_state, memory[0], return_hs=True)
        actual, hs, new_state = gated.score(ys[0, :length], state, memory[0], return_hs=True)
        assert_same((expected, expected_hs), (actual, hs))
        assert_same(expected, gated.score(ys[0, :length], state, memory[0])[0])
        state = new_state


@every_option
def test_batch_score_is_espnet(name):
    """Hypotheses of one utterance: reordered, repeated and dropped between the steps."""
    dense, gated = pair(name)
    memory = batch()[0][0]
    ys = torch.tensor([[SOS, 4, 7]])
    states, dense_states = [None], [None]
    for picked in ([0, 0, 0], [2, 0, 0], [1, 2], [0], [0, 0]):
        xs = memory.expand(len(ys), *memory.shape)
        expected, dense_states = dense.batch_score(ys, dense_states, xs, return_hs=True)
        actual, states = gated.batch_score(ys, states, xs, return_hs=True)
        assert_same(expected, actual)
        ys = torch.cat([ys[picked], torch.arange(len(picked))[:, None] + ys[picked, -1:] % 5], dim=1)
        states = [gated.select_state(states, i) for i in picked]
        dense_states = [dense.select_state(dense_states, i) for i in picked]


def test_batch_score_hears_what_a_streaming_encoder_adds():
    """ESPnet's online search keeps the hypotheses' states while the encoder output grows, or its window moves on."""
    dense, gated = pair("pre_norm")
    memory = batch()[0][0]
    ys = torch.tensor([[SOS, 4, 7], [SOS, 4, 5]])
    states, dense_states = [None] * 2, [None] * 2
    for heard in (memory[:3], memory, memory[:3].clone(), memory[1:4]):
        xs = heard.expand(len(ys), *heard.shape)
        expected, dense_states = dense.batch_score(ys, dense_states, xs)
        actual, states = gated.batch_score(ys, states, xs)
        assert_same(expected, actual)
        ys = torch.cat([ys, ys[:, -1:] - 1], dim=1)


def test_batch_score_refuses_several_utterances_that_grow():
    _, gated = pair("pre_norm")
    memory, _, ys, _ = batch(rows=2)
    _, states = gated.batch_score(ys[:, :2], [None, None], memory[:, :3])
    with pytest.raises(ValueError, match=f"grew from 3 to {memory.size(1)} frames"):
        gated.batch_score(ys[:, :3], states, memory)


def test_batch_score_of_several_utterances_is_espnet():
    dense, gated = pair("pre_norm")
    memory, _, ys, _ = batch()
    states, dense_states = [None] * 3, [None] * 3
    for length in (2, 3, 4):
        expected, dense_states = dense.batch_score(ys[:, :length], dense_states, memory)
        actual, states = gated.batch_score(ys[:, :length], states, memory)
        assert_same(expected, actual)


def test_batch_score_refuses_states_of_different_calls():
    _, gated = pair("pre_norm")
    memory, _, ys, _ = batch(rows=2)
    _, one = gated.batch_score(ys[:, :2], [None, None], memory)
    _, other = gated.batch_score(ys[:, :2], [None, None], memory)
    with pytest.raises(ValueError, match="one earlier call"):
        gated.batch_score(ys[:, :3], [one[0], other[1]], memory)


def search(cls, decoder, ctc_weight, beam_size=3):
    scorers = {"decoder": decoder, "ctc": CTCPrefixScorer(ctc(), EOS), "length_bonus": LengthBonus(VOCAB)}
    return cls(
        scorers,
        {"decoder": 1.0 - ctc_weight, "ctc": ctc_weight, "length_bonus": 0.1},
        beam_size=beam_size,
        vocab_size=VOCAB,
        sos=SOS,
        eos=EOS,
        pre_beam_score_key="full",
    )


@pytest.mark.parametrize("name", ["pre_norm", "post_norm", "concat_after", "qk_norm"])
@pytest.mark.parametrize("cls", [BeamSearch, BatchBeamSearch])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@torch.no_grad()
def test_espnet_searches_give_the_same_nbest(name, cls, ctc_weight):
    memory = batch(seed=1)[0][0]
    expected, actual = (search(cls, decoder, ctc_weight)(memory) for decoder in pair(name))
    assert len(expected) == len(actual) > 0
    for a, b in zip(expected, actual, strict=True):
        assert a.yseq.tolist() == b.yseq.tolist()
        assert float(b.score) == pytest.approx(float(a.score), abs=1e-10)


# -- law 2 --------------------------------------------------------------------------------------------
@cache
def gated_decoder(name):
    """One of its own for each option, whose gates the tests set."""
    return decoders(**OPTIONS[name])[1]


@every_option
@given(data=st.data())
def test_skipping_is_masking(name, data):
    gated = gated_decoder(name)
    rows = data.draw(st.integers(1, 4))
    mask = data.draw(masks(gated, rows))
    results = []
    for soft in (True, False):
        decide_with(gated, fixed_gates(gated, mask, soft))
        results.append(gated(*batch(rows), return_hs=True))
    assert_same(*results)


@every_option
@given(data=st.data())
@torch.no_grad()
def test_scores_with_gates_are_the_masked_graph_s(name, data):
    """``score``, ``batch_score`` and ``forward_one_step`` under gates: the last position of the masked graph."""
    gated = gated_decoder(name)
    mask = data.draw(masks(gated, 2))
    memory, _, ys, _ = batch(2, tokens=4)
    lengths = torch.tensor([memory.size(1)] * 2)
    decide_with(gated, fixed_gates(gated, mask, soft=True))
    whole, _ = gated(memory, lengths, ys, torch.tensor([4, 4]))
    expected = whole if gated.output_layer is None else whole.log_softmax(-1)

    decide_with(gated, fixed_gates(gated, mask))
    states, cache_, single = [None, None], None, None
    for length in range(1, 5):
        scores, states = gated.batch_score(ys[:, :length], states, memory)
        torch.testing.assert_close(scores, expected[:, length - 1], **EXACT)
        causal = subsequent_mask(length).unsqueeze(0)
        scores, cache_ = gated.forward_one_step(ys[:, :length], causal, memory, cache=cache_)
        torch.testing.assert_close(scores, expected[:, length - 1], **EXACT)
    decide_with(gated, fixed_gates(gated, mask[1:]))
    for length in range(1, 5):
        score, single = gated.score(ys[1, :length], single, memory[1])
        torch.testing.assert_close(score, expected[1, length - 1], **EXACT)


def test_masking_gives_every_gate_a_gradient():
    gated = decoders()[1].train()
    values = torch.ones(2, 6, dtype=torch.float64)
    values[0, :3] = 0.0
    values.requires_grad_()
    decide_with(gated, fixed_gates(gated, values, soft=True))
    gated(*batch(2))[0].square().sum().backward()
    assert (values.grad.abs() > 0).all()


def test_closed_source_attention_never_projects_the_memory():
    gated = decoders()[1]
    mask = torch.tensor([[float(name != "src_attn") for _, name in gated.gate_predictor.names]])
    decide_with(gated, fixed_gates(gated, mask))
    for layer in gated.decoders:
        layer.src_attn.forward = layer.src_attn.linear_k.forward = None
    memory, _, ys, _ = batch(1)
    state = None
    for length in range(1, 4):
        _, state = gated.score(ys[0, :length], state, memory[0])
