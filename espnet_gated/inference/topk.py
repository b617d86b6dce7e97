"""The best tokens of long rows (``torch.topk`` on a CPU copies every score with its index)."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
_SHORTEST = 4096  # below, torch.topk is as fast


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)`` of each row; which of equal scores is taken is open, as in ``torch.topk``.

    The k best of a row lie in the k blocks with the greatest maxima, so only those are ranked.

    Args:
        scores: (rows, n).
        k: how many, at most n.

    Returns:
        values and indices (rows, k), best first.
    """
    rows, n = scores.shape
    if scores.device.type != "cpu" or n < _SHORTEST or k * _BLOCK * 4 > n:
        return scores.topk(k)
    blocks = n // _BLOCK
    body = scores[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    best = body.amax(-1).topk(k).indices
    chosen = body.gather(1, best[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    rest = n - blocks * _BLOCK
    if rest:
        chosen = torch.cat([chosen, scores[:, n - rest :]], dim=1)
    values, places = chosen.topk(k)
    inside = places < k * _BLOCK
    block = best.gather(1, places.div(_BLOCK, rounding_mode="floor").clamp(max=k - 1))
    indices = torch.where(inside, block * _BLOCK + places % _BLOCK, places + (n - rest - k * _BLOCK))
    return values, indices
