"""The sparsity loss is the published one, and its gradient pulls towards the target."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.loss import sparsity_loss

shares = st.floats(0, 1)
pairs = st.lists(st.tuples(shares, shares), min_size=1, max_size=5)


@given(pairs)
def test_value(rows):
    skipped, target = torch.tensor(rows, dtype=torch.float64).T
    each = [abs(s - t) + (s - t) ** 2 for s, t in rows]
    assert float(sparsity_loss(skipped, target)) == pytest.approx(sum(each) / len(each), abs=1e-12)
    gap = sum(s - t for s, t in rows) / len(rows)
    assert float(sparsity_loss(skipped, target, "batch")) == pytest.approx(abs(gap) + gap**2, abs=1e-12)


@pytest.mark.parametrize("level", ["utterance", "batch"])
def test_gradient_pulls_towards_the_target(level):
    skipped = torch.tensor([0.2, 0.3], requires_grad=True)
    sparsity_loss(skipped, torch.tensor([0.5, 0.6]), level).backward()
    assert (skipped.grad < 0).all()
    assert float(sparsity_loss(torch.tensor([0.5]), torch.tensor([0.5]), level)) == 0.0


def test_unknown_level():
    with pytest.raises(ValueError, match="level must be 'utterance' or 'batch', got 'layer'"):
        sparsity_loss(torch.zeros(1), torch.zeros(1), "layer")
