"""The sparsity loss is the published one, and its gradient pulls towards the target."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.loss import logit_variance, sparsity_loss

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


asked_and_logits = st.tuples(st.sampled_from([0.0, 0.3, 0.5]), st.floats(-3, 3), st.floats(-3, 3))


@given(st.lists(asked_and_logits, min_size=1, max_size=6))
def test_variance_is_among_utterances_asked_for_the_same(rows):
    target, logits = torch.tensor([r[0] for r in rows]), torch.tensor([r[1:] for r in rows], dtype=torch.float64)
    each = []
    for asked, *own in rows:
        alike = [r[1:] for r in rows if r[0] == asked]
        each += [(value - sum(a[m] for a in alike) / len(alike)) ** 2 for m, value in enumerate(own)]
    assert float(logit_variance(logits, target)) == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_variance_draws_utterances_together():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [9.0, 9.0]], requires_grad=True)
    logit_variance(logits, torch.tensor([0.5, 0.5, 0.3])).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[1, 0]
    assert not logits.grad[2].any() and not logits.grad[:, 1].any()
