"""Samplers: binary forwards, a gradient backwards, and the sparsity that was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.budget import TOLERANCE
from espnet_gated.gating.sampler import budget_gates, gumbel_gates, logistic_noise

COSTS = torch.tensor([1.0, 2.0, 3.0, 1.5, 2.5, 2.0] * 4) / 48


def sample(name, logits, sparsity=0.5, temperature=1.0, noise=1.0):
    if name == "gumbel":
        return gumbel_gates(logits, temperature)
    return budget_gates(logits, COSTS, torch.full((len(logits),), sparsity), temperature, noise)


def random_logits(rows=2, scale=2.0, seed=0):
    return scale * torch.randn(rows, len(COSTS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["gumbel", "budget"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
@given(seed=st.integers(0, 999), scale=st.floats(0, 20))
def test_forward_is_binary_and_backward_is_not_flat(name, temperature, seed, scale):
    logits = random_logits(scale=scale, seed=seed).requires_grad_()
    values, probability = sample(name, logits, temperature=temperature)
    assert (torch.minimum(values.abs(), (values - 1).abs()) < 1e-5).all()
    assert ((probability >= 0) & (probability <= 1)).all()
    slopes = torch.autograd.functional.jacobian(
        lambda v: sample(name, v, temperature=temperature, noise=0.0)[0], logits
    )
    assert slopes.isfinite().all()
    own = torch.stack([torch.stack([slopes[i, j, i, j] for j in range(len(COSTS))]) for i in range(len(logits))])
    assert (own >= 0).all()
    if temperature >= 1.0 and scale < 3.0:
        assert (own > 0).all()


@given(seed=st.integers(0, 999))
def test_raising_all_logits_gains_nothing_under_a_budget(seed):
    """The mask stays the same, so the gradient along that direction is zero."""
    logits = random_logits(seed=seed).requires_grad_()
    values, _ = sample("budget", logits)
    (gradient,) = torch.autograd.grad((values * torch.arange(1.0, len(COSTS) + 1)).sum(), logits)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(len(logits)), rtol=0, atol=1e-4)


def test_gumbel_gates_open_with_the_probability_of_their_logit():
    logits = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0]).expand(20000, -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values, probability = gumbel_gates(logits, 0.7)
    torch.testing.assert_close(values.mean(0), torch.sigmoid(logits[0]), rtol=0, atol=0.02)
    torch.testing.assert_close(probability[0], torch.sigmoid(logits[0]))


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_budget_gates_meet_every_budget(sparsity):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values, _ = sample("budget", torch.zeros(2000, len(COSTS)), sparsity)
    skipped = 1.0 - values @ COSTS
    assert float(skipped.min()) >= sparsity - 1e-5
    assert float(skipped.max()) <= sparsity + TOLERANCE + 1e-5
    assert len(values.round().unique(dim=0)) > 100


@given(sparsity=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_budget_gates_keep_the_best(sparsity, seed):
    """Without noise, and where modules cost the same: no closed module has a better logit than an open one."""
    logits = random_logits(seed=seed)
    costs = torch.full_like(COSTS, 1 / len(COSTS))
    values, _ = budget_gates(logits, costs, torch.full((len(logits),), sparsity), 1.0, 0.0)
    kept = torch.where(values > 0.5, logits, torch.inf).amin(-1)
    dropped = torch.where(values > 0.5, -torch.inf, logits).amax(-1)
    assert (kept >= dropped).all()
    if sparsity == 0.0:
        assert (values > 0.5).all()


def test_budget_gates_follow_each_row_s_own_budget():
    values, _ = budget_gates(random_logits(3), COSTS, torch.tensor([0.0, 0.5, 0.95]), 1.0, 0.0)
    opened = (values > 0.5).sum(-1)
    assert opened[0] == len(COSTS) > opened[1] > opened[2]


def test_noise_is_logistic():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noise = logistic_noise(torch.zeros(200000))
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(torch.pi / 3**0.5, abs=0.02)
    assert noise.isfinite().all()
