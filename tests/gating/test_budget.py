"""Law 6: a budget is a promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gated.gating.budget import TOLERANCE, _knapsack, exact_budget, thresholds
from espnet_gated.gating.config import GatingConfig
from espnet_gated.gating.context import GatingContext
from espnet_gated.gating.costs import shares
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.gating.sampler import budget_gates

ROUNDING = 0.005  # costs are rounded up to bins of 1/200 of a mean module


@st.composite
def problems(draw, most=24):
    """Logits and shares of some modules."""
    count = draw(st.integers(1, most))
    costs = draw(st.lists(st.floats(1e-3, 1e3), min_size=count, max_size=count))
    logits = draw(st.lists(st.floats(-50, 50), min_size=count, max_size=count))
    return logits, [c / sum(costs) for c in costs]


def skipped(opened, costs):
    return sum(c for c, is_open in zip(costs, opened, strict=True) if not is_open)


@given(problem=problems(), sparsity=st.floats(0, 1))
@settings(max_examples=200)
def test_no_utterance_exceeds_its_budget(problem, sparsity):
    logits, costs = problem
    assert skipped(exact_budget(logits, costs, sparsity), costs) >= sparsity - 1e-6


@given(problem=problems(), sparsity=st.floats(0, 1))
@settings(max_examples=200)
def test_the_budget_is_used(problem, sparsity):
    """What is left of it is within the tolerance, or would not pay for the cheapest module that is closed."""
    logits, costs = problem
    opened = exact_budget(logits, costs, sparsity)
    closed = [c for c, is_open in zip(costs, opened, strict=True) if not is_open]
    if closed and sparsity > 0:
        assert skipped(opened, costs) - sparsity < max(TOLERANCE, min(closed)) + 2 * ROUNDING


@given(problem=problems(most=8), sparsity=st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_it_is_the_best_choice(problem, sparsity):
    """Near the budget no other subset has a greater sum of margins; far from it none would be nearer."""
    logits, costs = problem
    opened = exact_budget(logits, costs, sparsity)
    border = thresholds(np.array([logits]), np.array(costs), np.array([sparsity]))[0]

    def value(chosen):
        return sum(v - border for v, is_open in zip(logits, chosen, strict=True) if is_open)

    others = [[bool(code >> i & 1) for i in range(len(costs))] for code in range(2 ** len(costs))]
    fitting = [other for other in others if skipped(other, costs) >= sparsity + ROUNDING]
    near = [other for other in fitting if skipped(other, costs) <= sparsity + TOLERANCE - ROUNDING]
    for other in near:
        assert value(other) <= value(opened) + 1e-6
    for other in fitting:
        assert skipped(opened, costs) <= max(sparsity + TOLERANCE, skipped(other, costs)) + 2 * ROUNDING


@given(problem=problems())
def test_zero_opens_everything_and_one_closes_it(problem):
    logits, costs = problem
    assert all(exact_budget(logits, costs, 0.0))
    assert not any(exact_budget(logits, costs, 1.0))


def test_equal_modules_are_ranked_by_logit():
    assert exact_budget([3.0, 1.0, 2.0, 0.0], [0.25] * 4, 0.5) == [True, False, True, False]


@given(problem=problems(), sparsity=st.floats(0.05, 0.95), shift=st.sampled_from([-8.0, -1.0, 1.0, 8.0]))
@settings(max_examples=100)
def test_what_is_added_to_all_logits_changes_nothing(problem, sparsity, shift):
    logits, costs = problem
    logits = [round(v, 2) for v in logits]
    moved = exact_budget([v + shift for v in logits], costs, sparsity)
    opened = exact_budget(logits, costs, sparsity)

    def value(chosen):
        return sum(v for v, is_open in zip(logits, chosen, strict=True) if is_open)

    # Equally good sets may swap by a rounding error.
    assert moved == opened or value(moved) == pytest.approx(value(opened), abs=1e-6)


@given(sparsity=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_bins_of_costs_find_what_the_list_of_sets_finds(sparsity, seed):
    """Few costs: all sets are listed. Many: they are searched in bins, which may leave a rounding unused."""
    generator = np.random.default_rng(seed)
    costs = np.array([0.057, 0.061, 0.049] * 6)
    costs /= costs.sum()
    logits = generator.normal(size=18)
    listed = np.array(exact_budget(logits.tolist(), costs.tolist(), sparsity))
    margins = logits - thresholds(logits[None], costs, np.array([sparsity]))
    binned = _knapsack(margins, costs, sparsity)
    assert (margins * binned).sum() <= (margins * listed).sum() + 1e-9
    assert skipped(binned, costs) <= skipped(listed, costs) + TOLERANCE + ROUNDING


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_masks_are_those_of_training(sparsity):
    generator = torch.Generator().manual_seed(0)
    costs = torch.tensor([0.057, 0.061, 0.049] * 6)
    logits = 2.0 * torch.randn(40, 18, generator=generator)
    trained, _ = budget_gates(logits, costs, torch.full((40,), sparsity), 1.0, 0.0)
    for row, gates in zip(logits, trained, strict=True):
        assert exact_budget(row.tolist(), costs.tolist(), sparsity) == gates.bool().tolist()


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_impossible_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\]"):
        exact_budget([0.0], [1.0], sparsity)


# -- the predictor's promise --------------------------------------------------------------------------
def make_predictor(costs, **config):
    names = [(i // 3, ("self_attn", "src_attn", "feed_forward")[i % 3]) for i in range(len(costs))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        predictor = GatePredictor("decoder", 5, names, shares(costs), GatingConfig(hidden_units=7, **config))
        for parameter in predictor.parameters():
            torch.nn.init.normal_(parameter)
    return predictor.eval()


tenths = st.integers(1, 9).map(lambda n: n / 10)


@given(
    costs=st.lists(st.floats(0.1, 10), min_size=2, max_size=24),
    sparsity=st.one_of(tenths, st.floats(0.01, 0.99)),
    rows=st.integers(1, 5),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_utterance_of_a_batch_meets_the_budget(costs, sparsity, rows, seed, dtype):
    predictor = make_predictor(costs).to(dtype)
    predictor.set_policy(sparsity)
    gates = predictor(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)).to(dtype))
    assert not gates.soft and gates.host == gates.values.tolist()
    assert (gates.skipped() >= sparsity - 1e-5).all()
    smallest = torch.where(gates.values > 0, torch.inf, gates.costs.to(dtype)).amin(-1)
    assert (gates.skipped() - sparsity < smallest.clamp(min=TOLERANCE) + 2 * ROUNDING).all()


@given(asked=st.lists(st.one_of(st.just(0.0), tenths), min_size=1, max_size=5))
def test_every_utterance_has_its_own_budget(asked):
    predictor = make_predictor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    predictor.current = GatingContext(sparsity={"decoder": torch.tensor(asked), "encoder": torch.rand(len(asked))})
    gates = predictor(torch.randn(len(asked), 5))
    assert (gates.skipped() >= torch.tensor(asked) - 1e-5).all()
    for row, sparsity in enumerate(asked):
        assert bool(gates.values[row].all()) == (sparsity == 0.0)


@pytest.mark.parametrize("modules", [2, 3, 4, 6, 7, 8, 9, 10, 12, 18, 24, 30, 36])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_modules_meet_the_budget_exactly(modules, dtype):
    """The rounding of costs, or of an asked 2/3, must not cost a module."""
    predictor = make_predictor([1.0] * modules)
    asked = torch.arange(modules, dtype=dtype) / modules
    predictor.current = GatingContext(sparsity={"decoder": asked})
    opened = predictor(torch.randn(modules, 5)).values.sum(-1)
    assert opened.tolist() == [modules - k for k in range(modules)]
