"""Thresholds of the learned budget give the asked share on average."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.costs import shares
from espnet_gated.gating.policy import THRESHOLD_SPARSITIES, interpolated, threshold_for

COSTS = shares([3.0, 2.0, 1.0] * 3)


@given(st.integers(0, 999), st.integers(1, 40), st.floats(0.05, 0.95))
def test_a_threshold_skips_the_asked_share_on_average(seed, utterances, sparsity):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(utterances, len(COSTS), generator=generator)
    threshold = threshold_for(logits, COSTS, sparsity)
    opened = (logits.double() > threshold).double()
    skipped = 1.0 - (opened * COSTS.double()).sum(-1).mean()
    # No threshold is nearer than half of one module of one utterance.
    assert abs(float(skipped) - sparsity) <= float(COSTS.max()) / 2 / utterances + 1e-6


@given(st.integers(0, 999), st.floats(0.02, 0.98))
def test_a_threshold_does_not_part_equal_logits(seed, sparsity):
    """Where all utterances have the same logits, a whole module opens or closes: the nearest such share is met."""
    logits = torch.randn(len(COSTS), generator=torch.Generator().manual_seed(seed))
    threshold = threshold_for(logits.expand(7, -1), COSTS, sparsity)
    reached = float((COSTS.double() * (logits.double() <= threshold)).sum())
    closed = [0.0, *COSTS.double()[logits.argsort()].cumsum(0).tolist()]
    assert abs(reached - sparsity) == pytest.approx(min(abs(share - sparsity) for share in closed), abs=1e-6)


def test_a_threshold_for_all_modules_closes_them():
    logits = torch.tensor([[1.0, -1.0]])
    threshold = threshold_for(logits, torch.tensor([0.5, 0.5]), 0.95)
    assert not (logits > threshold).any()


def test_thresholds_are_interpolated_between_their_sparsities():
    table = torch.linspace(-3.0, 6.0, len(THRESHOLD_SPARSITIES)) ** 2
    tables, at_knots = torch.stack([table, -table]), torch.tensor(THRESHOLD_SPARSITIES)
    torch.testing.assert_close(interpolated(tables, at_knots), table, rtol=1e-4, atol=1e-4)
    between = interpolated(tables, torch.tensor([0.0, 0.06, 0.975]))
    expected = torch.stack([table[0], 0.8 * table[0] + 0.2 * table[1], table[-1]])
    torch.testing.assert_close(between, expected, rtol=1e-4, atol=1e-4)


def test_thresholds_depend_on_what_the_stack_in_front_skips():
    """From those behind a whole one to those behind one that skips as much (or more)."""
    tables = torch.stack([torch.zeros(len(THRESHOLD_SPARSITIES)), torch.ones(len(THRESHOLD_SPARSITIES))])
    for before, expected in ((0.0, [0.0, 0.0]), (0.2, [0.5, 0.25]), (0.4, [1.0, 0.5]), (0.9, [1.0, 1.0])):
        found = interpolated(tables, torch.tensor([0.4, 0.8]), before)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)
