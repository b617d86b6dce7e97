"""From gate logits to gates at inference: threshold, or the best modules within an exact budget."""

from collections.abc import Sequence

import numpy as np

_BINS_PER_MODULE = 200  # costs are rounded up to bins: at most 1/200 of a mean module is lost on each


def exact_budget(logits: Sequence[float], costs: Sequence[float], sparsity: float) -> list[bool]:
    """Open the modules of the greatest total logit whose cost stays within ``1 − sparsity``.

    A 0/1 knapsack; costs are rounded up to bins, so the budget is never exceeded (law 6). Logits are shifted
    to be positive, so that what is left of the budget is used.

    Args:
        logits: (M,) gate logits of one utterance.
        costs: (M,) shares of the stack's cost; their sum is one.
        sparsity: share to skip, in [0, 1].

    Returns:
        (M,) True where the module runs.

    Raises:
        ValueError: if ``sparsity`` is outside [0, 1].
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity}")
    if sparsity == 0.0:
        return [True] * len(logits)
    total = float(sum(costs))
    bins = _BINS_PER_MODULE * len(costs)
    weights = [int(np.ceil(c / total * bins - 1e-6)) for c in costs]
    budget = int(np.floor((1.0 - sparsity) * bins + 1e-6))
    return _knapsack(_positive(np.asarray(logits, dtype=np.float64)), weights, budget)


def _positive(logits: np.ndarray) -> np.ndarray:
    spread = float(logits.max() - logits.min()) if len(logits) else 0.0
    return logits - logits.min() + 0.1 * spread + 1e-6


def _knapsack(values: np.ndarray, weights: Sequence[int], budget: int) -> list[bool]:
    best = np.zeros(budget + 1)
    taken = np.zeros((len(values), budget + 1), dtype=bool)
    for i, (value, weight) in enumerate(zip(values, weights, strict=True)):
        if weight > budget:
            continue
        with_item = best[: budget + 1 - weight] + value
        better = with_item > best[weight:]
        taken[i, weight:] = better
        best[weight:] = np.where(better, with_item, best[weight:])
    chosen = [False] * len(values)
    left = budget
    for i in range(len(values) - 1, -1, -1):
        if taken[i, left]:
            chosen[i] = True
            left -= weights[i]
    return chosen
