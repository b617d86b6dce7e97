"""Gates decided on the way (levels ``layer`` and ``token``) and layer gates above module gates."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import decoders, encoders, features, nudge

from espnet_gated.encoder import GatedTransformerEncoder
from espnet_gated.gating.config import GatingConfig
from espnet_gated.gating.costs import shares
from espnet_gated.gating.hierarchy import Scores
from espnet_gated.gating.local import Tally, best_within
from espnet_gated.gating.predictor import GatePredictor

MODULES = ("self_attn", "src_attn", "feed_forward")
NAMES = [(layer, name) for layer in range(4) for name in MODULES]
COSTS = shares([3.0, 2.0, 1.0] * 4)


def make(stack="decoder", level="token", lively=True, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GatingConfig(level=level, hidden_units=6, **options)
        predictor = GatePredictor(stack, 5, NAMES, COSTS, config)
        if lively:
            for parameter in predictor.parameters():
                torch.nn.init.normal_(parameter)
    return predictor.eval()


def inputs(rows=3, tokens=4, seed=0):
    return torch.randn(rows, tokens, 5, generator=torch.Generator().manual_seed(seed))


def go(predictor, x, mask=None):
    """Walk through all layers, each with the same input; its gates, (B, T, M) values."""
    walk = predictor(x.mean(1)).walk()
    ones = torch.ones(x.shape[:2])
    found = []
    for layer, name in NAMES:
        gates = walk.layer(layer, x, mask) if name == MODULES[0] else gates  # noqa: F821
        gate = gates[name]
        value = ones if gate.is_open else 0 * ones if gate.closed else gate.value
        found.append(value.reshape(len(x), -1).expand(*x.shape[:2]))
    return torch.stack(found, dim=-1)


# -- within a budget ----------------------------------------------------------------------------------
@given(
    logits=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    bounds=st.tuples(st.floats(-0.2, 1.0), st.floats(0.0, 1.1)),
)
def test_the_best_set_between_two_bounds(logits, bounds):
    costs = [0.5, 0.3, 0.2]
    lowest, highest = bounds
    values = best_within(*(torch.tensor(x, dtype=torch.double) for x in (logits, costs, lowest, highest))).tolist()
    sets = list(itertools.product([0.0, 1.0], repeat=3))

    def cost(chosen):
        return sum(c * v for c, v in zip(costs, chosen, strict=True))

    def worth(chosen):
        return sum(x * v for x, v in zip(logits, chosen, strict=True))

    fitting = [s for s in sets if cost(s) <= highest + 1e-6]
    least = min(lowest, max(map(cost, fitting)))
    assert values in [list(s) for s in fitting] and cost(values) >= least - 2e-6
    assert worth(values) == pytest.approx(max(worth(s) for s in fitting if cost(s) >= least - 1e-6))


@pytest.mark.parametrize("hierarchy", [False, True])
@pytest.mark.parametrize("level", ["layer", "token"])
def test_every_utterance_and_every_token_keeps_its_budget(level, hierarchy):
    predictor = make("encoder" if level == "layer" else "decoder", level, hierarchy=hierarchy)
    for sparsity in (0.05, 0.3, 0.5, 0.75, 0.95):
        predictor.set_policy(sparsity, "exact")
        values = go(predictor, inputs(20))
        skipped = 1.0 - (values * COSTS.float()).sum(-1)
        assert (skipped >= sparsity - 1e-6).all()
        assert (skipped <= sparsity + 0.25).all()  # at most the last layer is not used up
        if level == "token" and sparsity == 0.5:
            assert not torch.equal(values[:, 0], values[:, 1])
        torch.testing.assert_close(predictor.last.skipped(), skipped.mean(1))


def test_a_budget_may_be_spent_where_the_predictor_wants_it():
    """Layers that want everything take from those that want nothing, but never all."""
    predictor = make(lively=False)
    for layer, logit in enumerate((5.0, 5.0, -5.0, -5.0)):
        predictor.heads[str(layer)].output.bias.data.fill_(logit)
    predictor.set_policy(0.5, "exact")
    values = go(predictor, inputs(1, 1))[0, 0].view(4, 3)
    assert values[0].all() and 0 < values[1:].sum() < 9


def test_no_sparsity_needs_no_look():
    predictor = make()
    predictor.heads = None
    for sparsity, budget in ((0.0, "learned"), (0.0, None), (0.5, "open")):
        predictor.set_policy(sparsity, budget)
        assert go(predictor, inputs()).all()
    mask = tuple(float(i % 2) for i in range(len(NAMES)))
    predictor.set_policy(0.5, "fixed", mask=mask)
    assert go(predictor, inputs())[1, 2].tolist() == list(mask)


def test_random_masks_are_for_whole_utterances():
    predictor = make()
    predictor.set_policy(0.5, "random")
    with pytest.raises(ValueError, match=r"with gating.level: token, got 'random' \(decoder\)"):
        go(predictor, inputs())


# -- what it is decided from --------------------------------------------------------------------------
def test_each_layer_looks_at_its_own_input():
    predictor = make()
    predictor.set_policy(0.5, "learned")
    walk = predictor(inputs().mean(1)).walk()
    told = [walk.layer(layer, inputs(seed=layer)) for layer in range(4)]
    assert told[2].keys() == set(MODULES)
    other = predictor(inputs(seed=7).mean(1)).walk()  # what the whole utterance is like does not matter
    for layer in range(4):
        again = other.layer(layer, inputs(seed=layer))
        for name in MODULES:
            assert again[name].is_open == told[layer][name].is_open
            if told[layer][name].value is not None:
                assert torch.equal(again[name].value, told[layer][name].value)


def test_an_untrained_predictor_opens_the_asked_share():
    for hierarchy in (False, True):
        predictor = make(lively=False, hierarchy=hierarchy).train()
        for asked in (0.2, 0.5, 0.8):
            predictor.policy = type(predictor.policy)(sparsity=asked)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                go(predictor, inputs(1, 400))
            assert float(predictor.last.skipped().detach()) == pytest.approx(asked, abs=0.05)


def test_shares_are_of_the_tokens_that_count():
    predictor = make()
    predictor.set_policy(0.5, "learned")
    x, mask = inputs(2, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    values = go(predictor, x, mask)
    expected = torch.stack([values[0].mean(0), values[1, :2].mean(0)])
    torch.testing.assert_close(predictor.last.values, expected)
    assert predictor.last.host == predictor.last.values.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_a_long_search(dtype):
    """Where one more token is lost in rounding: from 256 in bfloat16, from 2,048 in float16."""
    tally = Tally(1, [(0, "self_attn"), (0, "src_attn")], torch.tensor([0.4, 0.6]), torch.zeros(1, dtype=dtype))
    one = torch.ones(1, dtype=dtype)
    for token in range(3000):
        opened = torch.tensor([[token < 300, token >= 600]]).to(dtype)
        tally.add(0, torch.zeros(1, dtype=torch.long), opened, opened, one)
    gates = tally.gates(soft=False)
    assert gates.values[0].tolist() == pytest.approx([0.1, 0.8])
    assert gates.skipped().tolist() == pytest.approx([1 - 0.04 - 0.48])


def test_padding_is_not_looked_at():
    """Law 3 with unequal lengths, where the encoder itself does not see the padding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 3, "input_layer": "linear"}
        encoder = GatedTransformerEncoder(20, **sizes, gating={"level": "layer", "hidden_units": 6})
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    nudge(encoder.double().eval().gate_predictor)
    torch.nn.init.zeros_(encoder.gate_predictor.sparsity.weight)  # only the features tell utterances apart
    for head in encoder.gate_predictor.heads.values():
        torch.nn.init.zeros_(head.output.bias)
    encoder.gate_predictor.set_policy(0.5, "learned")
    x, lengths = features(12, 7, 9)
    together, _, _ = encoder(x, lengths)
    gates = encoder.gate_predictor.last.values
    assert len({tuple(row) for row in gates.tolist()}) > 1
    for row, length in enumerate(lengths.tolist()):
        alone, _, _ = encoder(x[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row, :length], rtol=0.0, atol=1e-12)
        assert torch.equal(encoder.gate_predictor.last.values[0], gates[row])


def test_gates_of_a_token_do_not_see_later_ones():
    gated = decoders({"level": "token"})[1]
    gated.gate_predictor.set_policy(0.5)
    memory, lengths = features(6, size=8)
    ys = torch.tensor([[18, 4, 7, 12, 13, 14]])
    whole, _ = gated(memory, lengths, ys, torch.tensor([6]))
    for length in range(1, 6):
        part, _ = gated(memory, lengths, ys[:, :length], torch.tensor([length]))
        torch.testing.assert_close(part, whole[:, :length], rtol=0.0, atol=1e-12)


def test_dropped_layers_are_still_decided():
    """The sparsity loss is about all layers, whichever this update leaves out; a layer cut off counts as closed."""
    gated = encoders({"level": "layer", "target_sparsity": 0.5}, num_blocks=4, layer_drop_rate=1.0)[1].train()
    gated(*features(12, 9))
    kept = gated.gate_predictor.last.skipped()
    assert kept.requires_grad and (kept < 1.0).all()
    gated.eval()(*features(12, 9), max_layer=0)
    assert gated.gate_predictor.last.skipped().tolist() == pytest.approx([1.0, 1.0])


# -- hierarchy ----------------------------------------------------------------------------------------
def test_joint_log_odds():
    modules, layers = torch.randn(5, 6) * 4, torch.randn(5, 2) * 4
    layer_of = torch.tensor([0, 0, 0, 1, 1, 1])
    scores = Scores.split(torch.cat([modules, layers], dim=1).double(), layer_of)
    probability = modules.double().sigmoid() * layers.double().sigmoid()[:, layer_of]
    torch.testing.assert_close(scores.joint.sigmoid(), probability)
    assert torch.equal(scores.both > 0, (modules > 0) & (layers > 0)[:, layer_of])
    flat = Scores.split(modules, None)
    assert flat.joint is flat.modules and flat.both is flat.modules


@pytest.mark.parametrize("level", ["utterance", "token"])
def test_a_layer_gate_closes_its_layer(level):
    predictor = make(level=level, hierarchy=True, lively=False)
    for layer in range(4):
        bias = predictor.heads[str(layer)].output.bias.data if level == "token" else predictor.output.bias.data
        bias[:] = 5.0
    if level == "token":
        predictor.heads["1"].output.bias.data[-1] = -50.0
    else:
        predictor.output.bias.data[len(NAMES) + 1] = -50.0
    predictor.set_policy(0.5, "learned")
    expected = [float(layer != 1) for layer, _ in NAMES]
    for train in (False, True):
        predictor.train(train)
        x = inputs(2, 3)
        predictor(x.mean(1)) if level == "utterance" else go(predictor, x)
        for row in predictor.last.values.detach():
            assert row[3:6].tolist() == [0.0] * 3
            assert train or row.tolist() == expected


# -- what makes no sense is refused -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stack", "gating", "message"),
    [
        ("encoder", {"level": "token"}, "gating.level must be utterance or layer in the encoder, got 'token'"),
        ("decoder", {"level": "layer"}, "gating.level must be utterance or token in the decoder, got 'layer'"),
        ("decoder", {"level": "word"}, "gating.level must be one of utterance, layer, token, got 'word'"),
        ("encoder", {"level": "layer", "sampler": "budget"}, "gating.sampler: budget ranks all modules .* gumbel"),
        ("encoder", {"hierarchy": True, "modules": ["attn"]}, "gating.hierarchy closes whole layers, gating.modules"),
    ],
)
def test_what_makes_no_sense_is_refused(stack, gating, message):
    with pytest.raises(ValueError, match=message):
        (encoders if stack == "encoder" else decoders)(gating)
