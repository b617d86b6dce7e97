"""From gate logits to gates at inference: the best modules within an exact budget."""

from collections.abc import Sequence

import numpy as np

_BINS = 20000  # costs are rounded up to this resolution, and to 1/400 of a mean module in large stacks
TOLERANCE = 0.02
"""A budget should be used up to this share, where the modules' costs allow it."""


def exact_budget(logits: Sequence[float], costs: Sequence[float], sparsity: float) -> list[bool]:
    """Open the modules of the greatest total logit whose cost is within ``1 − sparsity``, and close to it.

    A 0/1 knapsack over exact costs: among the sets that cost between ``1 − sparsity − 0.02`` and ``1 − sparsity`` the
    one of the
    greatest total logit; where there is none, the costliest that fits. Costs are rounded up to bins, so the budget is
    never exceeded (law 6).

    Args:
        logits: (M,) gate logits of one utterance.
        costs: (M,) shares of the stack's cost.
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
    # A multiple of the number of modules: equal costs are whole bins, and k of them fit where k are asked for.
    bins = len(costs) * max(400, -(-_BINS // len(costs)))
    weights = [int(np.ceil(c / total * bins - 1e-6)) for c in costs]
    budget = int(np.floor((1.0 - sparsity + 1e-6) * bins))  # 2/3 may come as 0.666667
    # Rounding the costs up took some of the tolerance already.
    return _knapsack(np.asarray(logits, dtype=np.float64), weights, budget, int(0.95 * TOLERANCE * bins))


def budget_in_order(order: Sequence[int], costs: Sequence[float], sparsity: float) -> list[bool]:
    """Open modules in a given order, each that still fits: with a random order, random masks within the budget.

    (The knapsack of random values would keep the cheap modules of every utterance.)

    Args:
        order: the M modules, first come first served.
        costs: (M,) shares of the stack's cost.
        sparsity: share to skip, in [0, 1].

    Returns:
        (M,) True where the module runs.
    """
    left = (1.0 - sparsity) * float(sum(costs)) + 1e-6
    chosen = [False] * len(costs)
    for i in order:
        if costs[i] <= left:
            chosen[i] = True
            left -= costs[i]
    return chosen


def _knapsack(values: np.ndarray, weights: Sequence[int], budget: int, tolerance: int) -> list[bool]:
    """The set of the greatest value that weighs between ``budget − tolerance`` and ``budget``."""
    best = np.full(budget + 1, -np.inf)  # best[w]: greatest value of a set that weighs exactly w
    best[0] = 0.0
    taken = np.zeros((len(values), budget + 1), dtype=bool)
    for i, (value, weight) in enumerate(zip(values, weights, strict=True)):
        if weight > budget:
            continue
        with_item = best[: budget + 1 - weight] + value
        better = with_item > best[weight:]
        taken[i, weight:] = better
        best[weight:] = np.where(better, with_item, best[weight:])
    start = max(0, budget - tolerance)
    left = start + int(best[start:].argmax())
    if np.isneginf(best[left]):
        left = int(np.flatnonzero(~np.isneginf(best)).max())
    chosen = [False] * len(values)
    for i in range(len(values) - 1, -1, -1):
        if taken[i, left]:
            chosen[i] = True
            left -= weights[i]
    return chosen
