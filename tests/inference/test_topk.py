"""The best of long rows: as torch ranks them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.inference.topk import top_k


@given(
    rows=st.integers(1, 4),
    n=st.one_of(st.integers(10, 200), st.integers(4000, 9000)),
    k=st.integers(1, 10),
    seed=st.integers(0, 2**16),
    closed=st.floats(0.0, 1.0),
)
def test_the_best_are_torch_s(rows, n, k, seed, closed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(rows * n, generator=generator).view(rows, n).double()  # no ties
    scores[:, : int(closed * (n - k))] = -torch.inf  # as the score filter leaves them
    values, indices = top_k(scores, k)
    expected = scores.topk(k)
    assert torch.equal(values, expected.values)
    finite = values > -torch.inf
    assert torch.equal(indices[finite], expected.indices[finite])
    assert torch.equal(scores.gather(1, indices), values)


@given(seed=st.integers(0, 2**16), k=st.integers(1, 8))
def test_equal_scores_are_taken_as_often_as_they_are_there(seed, k):
    scores = torch.randint(0, 3, (2, 6000), generator=torch.Generator().manual_seed(seed)).float()
    values, indices = top_k(scores, k)
    assert torch.equal(values, scores.topk(k).values)
    assert all(len(set(row)) == k for row in indices.tolist())
