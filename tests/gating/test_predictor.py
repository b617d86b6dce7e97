"""The gate predictor: what it sees, how it anneals, how it decides, and that it is small."""

import pytest
import torch

from espnet_gated.gating.config import GatingConfig
from espnet_gated.gating.context import GatingContext, parse_fields
from espnet_gated.gating.costs import shares
from espnet_gated.gating.heads import spread_layers
from espnet_gated.gating.policy import THRESHOLD_SPARSITIES
from espnet_gated.gating.predictor import GatePredictor, pool

NAMES = [(layer, name) for layer in range(3) for name in ("self_attn", "src_attn", "feed_forward")]
COSTS = shares([3.0, 2.0, 1.0] * 3)
POOLED = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
HALF = (torch.bfloat16, torch.float16)


def make(lively=True, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        predictor = GatePredictor("decoder", 5, NAMES, COSTS, GatingConfig(hidden_units=6, **options))
        predictor.declare_context(parse_fields({"device": {"category": ["phone", "server"]}}), dropout=0.0)
        if lively:
            for parameter in predictor.parameters():
                torch.nn.init.normal_(parameter)
    return predictor.eval()


def context(device=1, rows=4, **sparsity):
    asked = {name: torch.full((rows,), value) for name, value in sparsity.items()}
    return GatingContext({"device": torch.full((rows,), device)}, sparsity=asked)


# -- deciding -----------------------------------------------------------------------------------------
def test_an_untrained_predictor_opens_the_asked_share():
    predictor = make(lively=False).train()
    for asked in (0.2, 0.5, 0.8):
        predictor.current = context(rows=400, decoder=asked)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            skipped = predictor(POOLED[:1].expand(400, -1)).skipped()
        assert float(skipped.mean()) == pytest.approx(asked, abs=0.05)


@pytest.mark.parametrize("seen", ["features", "context", "sparsity"])
def test_conditions_can_be_left_out(seen):
    """``condition_on`` names all that can change the logits (the asked share itself stays in their prior)."""
    predictor = make(condition_on=(seen,))

    def logits(pooled=POOLED, device=1, sparsity=0.3):
        predictor.current = context(device)
        asked = torch.full((4,), sparsity)
        return predictor.logits(pooled, asked) - torch.logit(1.0 - asked)[:, None]

    changes = {
        "features": not torch.allclose(logits(), logits(pooled=POOLED.flip(0))),
        "context": not torch.allclose(logits(), logits(device=2)),
        "sparsity": not torch.allclose(logits(), logits(sparsity=0.6), atol=1e-5),
    }
    assert changes == {name: name == seen for name in changes}


def test_budgets_of_the_policy():
    predictor = make(target_sparsity=0.5)
    logits = predictor.logits(POOLED, torch.full((4,), 0.5))
    predictor.set_policy(0.5, "learned")
    assert torch.equal(predictor(POOLED).values, (logits > 0).float())
    predictor.set_policy(0.5, "open")
    assert predictor(POOLED).values.all()
    mask = tuple(float(i % 2) for i in range(len(NAMES)))
    predictor.set_policy(0.5, "fixed", mask=mask)
    assert predictor(POOLED).values.tolist() == [list(mask)] * 4
    predictor.set_policy(0.5, "loose")
    with pytest.raises(ValueError, match="budget must be .* got 'loose'"):
        predictor(POOLED)


def test_only_the_learned_budget_knows_thresholds():
    predictor = make(target_sparsity=0.5)
    before = {}
    for budget in ("learned", "exact", "random"):
        predictor.set_policy(0.3, budget)
        before[budget] = predictor(POOLED).values
    logits = predictor.logits(POOLED, torch.full((4,), 0.3))
    threshold = float(logits.median())
    predictor.thresholds[:, THRESHOLD_SPARSITIES.index(0.3)] = threshold
    for budget, values in before.items():
        predictor.set_policy(0.3, budget)
        assert torch.equal(predictor(POOLED).values, values) is (budget != "learned"), budget
    predictor.set_policy(0.3, "learned")
    assert torch.equal(predictor(POOLED).values, (logits > threshold).float())
    predictor.set_policy(0.0, "learned")
    assert predictor(POOLED).values.all()


def test_thresholds_of_utterances_that_ask_for_different_shares():
    predictor = make()
    for index, sparsity in ((0, 0.2), (1, 0.7)):
        predictor.thresholds[0, THRESHOLD_SPARSITIES.index(sparsity)] = 1.0 + index
    asked = torch.tensor([0.2, 0.7, 0.2, 0.7])
    predictor.current = context()
    expected = predictor.logits(POOLED, asked) - torch.tensor([1.0, 2.0, 1.0, 2.0])[:, None]
    torch.testing.assert_close(predictor.margins(POOLED, asked), expected, rtol=0, atol=1e-5)


def test_checkpoints_without_thresholds_load():
    state = make().state_dict()
    del state["thresholds"]
    other = make(lively=False)
    other.thresholds.fill_(0.0)
    assert other.load_state_dict(state).missing_keys == []
    assert "thresholds" not in state and not other.thresholds.any()
    del state["num_updates"]
    with pytest.raises(RuntimeError, match="num_updates"):
        other.load_state_dict(state)


def test_random_masks_meet_the_budget_and_spare_no_module():
    predictor, opened = make(), []
    for seed in range(50):
        predictor.set_policy(0.5, "random", seed=seed)
        gates = predictor(POOLED)
        assert (gates.skipped() >= 0.5 - 1e-5).all()
        for row in range(4):  # the same alone and in a batch
            assert torch.equal(predictor(POOLED[row : row + 1]).values[0], gates.values[row])
        opened.append(gates.values)
    share = torch.cat(opened).mean(0)
    assert (share > 0.2).all() and (share < 0.8).all()


def test_no_sparsity_is_dense_whatever_the_logits():
    predictor = make()
    predictor.output.bias.data.fill_(-100.0)
    for budget in ("exact", "learned", "random"):
        predictor.set_policy(0.0, budget)
        assert predictor(POOLED).values.all()


def test_who_asks_first():
    """A context's sparsity, else the caller's, else the model's default."""
    predictor = make(target_sparsity=0.5)
    assert predictor.asked(POOLED).tolist() == pytest.approx([0.5] * 4)
    predictor.set_policy(0.25)
    assert predictor.asked(POOLED).tolist() == pytest.approx([0.25] * 4)
    predictor.current = context(encoder=0.9)
    assert predictor.asked(POOLED).tolist() == pytest.approx([0.25] * 4)
    predictor.current = context(decoder=0.75)
    assert predictor.asked(POOLED).tolist() == pytest.approx([0.75] * 4)
    for wrong in (1.0, -0.1, 1.3):
        with pytest.raises(ValueError, match=rf"got {wrong} \(--sparsity of the decoder\)"):
            predictor.set_policy(wrong)


def ten_equal_modules(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = [(layer, name) for layer in range(5) for name in ("self_attn", "feed_forward")]
        return GatePredictor("decoder", 5, names, shares([1.0] * 10), GatingConfig(hidden_units=6, **options)).eval()


@pytest.mark.parametrize("told", ["by the caller", "by the context"])
@pytest.mark.parametrize("asked", [0.3, 0.7])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_keeps_the_budget_of_float32(dtype, asked, told):
    """In bfloat16 0.3 is 0.30078, which leaves six modules of ten; and a tenth is 0.10010."""
    predictor = ten_equal_modules()
    predictor.set_policy(asked if told == "by the caller" else None, "exact")
    predictor.current = context(decoder=asked) if told == "by the context" else None
    expected = predictor(POOLED).values.sum(-1)
    gates = predictor.to(dtype)(POOLED.to(dtype))
    assert gates.values.dtype == dtype and predictor.asked(POOLED.to(dtype)).tolist() == pytest.approx([asked] * 4)
    assert gates.values.sum(-1).tolist() == expected.tolist() == [round(10 * (1 - asked))] * 4
    assert gates.skipped().tolist() == pytest.approx([asked] * 4, abs=1e-6)


@pytest.mark.parametrize("asked", [0.3, 0.7])
@pytest.mark.parametrize("freeze_steps", [0, 1])
def test_mixed_precision_trains_under_the_budget_of_float32(asked, freeze_steps):
    """Drawn masks and final ones: the features come in bfloat16."""
    predictor = ten_equal_modules(sampler="budget", freeze_steps=freeze_steps).train()
    predictor.num_updates.fill_(1)
    predictor.current = context(decoder=asked)
    with torch.autocast("cpu", torch.bfloat16):
        gates = predictor(POOLED.bfloat16())
    assert gates.soft is not bool(freeze_steps)
    assert (gates.values > 0.5).sum(-1).tolist() == [round(10 * (1 - asked))] * 4
    assert gates.skipped().tolist() == pytest.approx([asked] * 4, abs=1e-6)


def test_mixed_precision_changes_no_logit():
    """Masks of a training in bfloat16 are those that float32 decodes with."""
    predictor = make()
    predictor.current = context()
    pooled = POOLED.bfloat16().float()
    expected = predictor(pooled).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predictor(pooled).logits, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_long_audio_is_not_too_much_for_float16(masked):
    x = torch.full((2, 1000, 3), 100.0, dtype=torch.float16)
    mask = torch.ones(2, 1000, dtype=torch.bool) if masked else None
    assert pool(x, mask).tolist() == [[100.0] * 3] * 2


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_does_not_round_the_predictor(dtype):
    predictor = make()
    predictor.thresholds.fill_(0.3)
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    layers = torch.nn.ModuleList([predictor, torch.nn.Linear(2, 2)]).to(dtype)
    assert layers[1].weight.dtype == dtype
    for name, value in predictor.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert predictor.double().thresholds.dtype == predictor.output.weight.dtype == torch.float64
    assert predictor.to("meta").thresholds.is_meta


def test_the_last_decision_is_kept():
    predictor = make()
    assert predictor.last is None
    assert predictor(POOLED) is predictor.last


def test_pooling_leaves_the_padding_out():
    x = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    expected = torch.stack([x[0].mean(0), x[1, :2].mean(0)])
    torch.testing.assert_close(pool(x, mask), expected)
    torch.testing.assert_close(pool(x, mask[:, None]), expected)
    torch.testing.assert_close(pool(x), x.mean(1))


# -- training -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("sampler", ["gumbel", "budget"])
def test_training_gates_reach_every_parameter(sampler):
    predictor = make(sampler=sampler).train()
    predictor.current = context(decoder=0.5)
    gates = predictor(POOLED)
    assert gates.soft and gates.soft_open is not None and gates.host is None
    (gates.values * torch.arange(1.0, len(NAMES) + 1)).sum().backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_utterances_with_target_zero_train_dense():
    for sampler in ("gumbel", "budget"):
        predictor = make(sampler=sampler).train()
        predictor.current = GatingContext(sparsity={"decoder": torch.tensor([0.0, 0.9, 0.0, 0.9])})
        opened = (predictor(POOLED).values > 0.5).all(-1)
        assert opened.tolist() == [True, False, True, False]


def test_temperature_falls_geometrically_and_noise_linearly():
    predictor = make(temperature=(4.0, 0.25), noise=(1.0, 0.2), anneal_steps=100)
    schedule = {}
    for updates in (0, 25, 50, 100, 500):
        predictor.num_updates.fill_(updates)
        schedule[updates] = (
            predictor._anneal(predictor.config.temperature, geometric=True),
            predictor._anneal(predictor.config.noise),
        )
    expected = {0: (4.0, 1.0), 25: (2.0, 0.8), 50: (1.0, 0.6), 100: (0.25, 0.2), 500: (0.25, 0.2)}
    for updates, (temperature, noise) in expected.items():
        assert schedule[updates] == (pytest.approx(temperature), pytest.approx(noise)), updates


def test_updates_are_counted_in_training_and_saved():
    predictor = make(anneal_steps=10)
    predictor(POOLED)
    assert int(predictor.num_updates) == 0
    for _ in range(3):
        predictor.train()(POOLED)
    other = make(lively=False)
    other.load_state_dict(predictor.state_dict())
    assert int(other.num_updates) == 3
    assert torch.equal(other.eval()(POOLED).logits, predictor.eval()(POOLED).logits)


def test_an_average_of_checkpoints_has_had_their_mean_number_of_updates():
    """ESPnet averages what is no integer, and sums up what is."""
    states = []
    for updates in (40, 50, 60):
        predictor = make()
        predictor.num_updates.fill_(updates)
        states.append(predictor.state_dict())
    total = {k: sum(state[k] for state in states) for k in states[0]}
    average = {k: v if str(v.dtype).startswith("torch.int") else v / 3 for k, v in total.items()}
    other = make(freeze_steps=100)
    other.load_state_dict(average)
    assert int(other.num_updates) == 50 and not other.frozen
    other.load_state_dict({**average, "num_updates": torch.tensor(7)})  # of earlier versions
    assert int(other.num_updates) == 7


def test_targets_are_drawn_from_their_range_after_a_ramp():
    predictor = make(target_sparsity=(0.2, 0.6), dense_prob=0.25, warmup_steps=10).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert (predictor.draw_targets(100) == 0).all()
        predictor.num_updates.fill_(5)
        half = predictor.draw_targets(4000)
        predictor.num_updates.fill_(10)
        whole = predictor.draw_targets(4000)
    for targets, share in ((half, 0.5), (whole, 1.0)):
        assert float((targets == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
        drawn = targets[targets > 0] / share
        assert float(drawn.min()) >= 0.2 - 1e-6 and float(drawn.max()) <= 0.6 + 1e-6
        assert float(drawn.mean()) == pytest.approx(0.4, abs=0.02)
    assert make(target_sparsity=0.5).train().draw_targets(3).tolist() == pytest.approx([0.5] * 3)
    assert predictor.eval().draw_targets(3).tolist() == pytest.approx([0.4] * 3)  # validation: the middle


def test_anchors_are_drawn_more_often():
    predictor = make(target_sparsity=(0.2, 0.6), dense_prob=0.2, anchors=(0.3, 0.5), anchor_prob=0.5).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        targets = predictor.draw_targets(8000)
        pruned = predictor.draw_pruned(8000)
    for anchor in (0.3, 0.5):
        assert float(torch.isclose(targets, torch.tensor(anchor)).float().mean()) == pytest.approx(0.2, abs=0.02)
        assert float(torch.isclose(pruned, torch.tensor(anchor)).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(pruned.min()) >= 0.2 - 1e-6
    assert float((targets == 0).float().mean()) == pytest.approx(0.2, abs=0.02)


def test_a_prior_keeps_layers_far_from_each_other():
    order = spread_layers([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    kept = sorted({layer // 2 for layer in range(12) if order[layer] > 0})
    assert kept == [0, 2, 5] and float(order.max()) == 1.0 and float(order.min()) == -1.0
    assert spread_layers([3, 3]).tolist() == [1.0, 1.0]
    predictor = make(lively=False, prior=5.0)
    predictor.current = context(decoder=1 / 3)
    opened = predictor(POOLED).values[0].bool().tolist()
    assert [name for name, is_open in zip(NAMES, opened, strict=True) if not is_open] == NAMES[3:6]  # the middle layer


@pytest.mark.parametrize("hierarchy", [False, True])
@pytest.mark.parametrize(("level", "sampler"), [("utterance", "budget"), ("token", "gumbel")])
def test_modules_of_a_name_may_start_apart(hierarchy, level, sampler):
    """``module_prior`` moves the first outputs of the modules of its name, whatever the layer, and no layer's."""
    options = {"hierarchy": hierarchy, "level": level, "sampler": sampler, "gate_speed": 0.5, "prior": 1.0}
    plain, moved = (make(lively=False, **options, module_prior=prior) for prior in ({}, {"src_attn": 1.5}))

    def biases(predictor):
        if level == "token":
            return torch.cat([head.output.bias for head in predictor.heads.values()]).tolist()
        return predictor.output.bias.tolist()

    per_layer = [0.0, 3.0, 0.0] + [0.0] * (hierarchy and level == "token")
    expected = per_layer * 3 + [0.0] * (3 * (hierarchy and level == "utterance"))
    differences = [b - a for a, b in zip(biases(plain), biases(moved), strict=True)]
    assert differences == pytest.approx(expected, abs=1e-6)


def test_a_prior_for_a_module_that_is_not_there():
    message = "module_prior: the decoder has no gated module 'cgmlp'; it has feed_forward, self_attn, src_attn"
    with pytest.raises(ValueError, match=message):
        make(module_prior={"cgmlp": 0.5})


def test_slow_gates_start_alike_and_move_less():
    moved = []
    for speed in (1.0, 0.1):
        predictor = make(lively=False, prior=2.0, gate_speed=speed)
        before = predictor.logits(POOLED, torch.full((4,), 0.5)).detach()
        optimizer = torch.optim.Adam(predictor.parameters(), lr=0.1)
        predictor.logits(POOLED, torch.full((4,), 0.5)).sum().backward()
        optimizer.step()
        moved.append((predictor.logits(POOLED, torch.full((4,), 0.5)) - before).abs().mean())
        assert float(before.max() - before.min()) == pytest.approx(4.0, abs=0.5)
    assert 0 < moved[1] < 0.3 * moved[0]


@pytest.mark.parametrize("sampler", ["gumbel", "budget"])
def test_frozen_masks_are_those_of_inference_and_skip_for_real(sampler):
    predictor = make(sampler=sampler, freeze_steps=10).train()
    predictor.current = context(decoder=0.5)
    assert predictor(POOLED).soft
    predictor.num_updates.fill_(10)
    frozen = predictor(POOLED)
    assert not frozen.soft and not frozen.values.requires_grad
    decided = predictor.eval()(POOLED)
    assert torch.equal(frozen.values, decided.values)


@pytest.mark.parametrize("sampler", ["gumbel", "budget"])
def test_the_sampler_anneals(sampler):
    """The backward slope at an undecided gate is 1 / (4 · temperature)."""
    predictor = make(lively=False, sampler=sampler, temperature=(50.0, 0.5), anneal_steps=10).train()
    predictor.current = context(decoder=0.5)
    slopes = []
    for updates in (0, 5, 10):
        predictor.num_updates.fill_(updates)
        gates = predictor(POOLED)
        (slope,) = torch.autograd.grad(gates.values[0, 0], gates.logits, retain_graph=True)
        slopes.append(float(slope[0, 0]))
    assert 0 < slopes[0] <= 0.25 / 50 + 1e-6
    assert slopes[0] < slopes[1]
