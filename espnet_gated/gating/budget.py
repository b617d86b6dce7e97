"""From gate logits to the gates that an exact budget allows, in training and at inference."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

TOLERANCE = 0.02
"""A budget should be used up to this share, where the modules' costs allow it."""
_ROUNDING = 1e-6  # 2/3 may come as 0.666667
_MOST_SETS = 200_000  # more sizes of sets than this are not listed but searched in bins of costs
_BINS = 20000  # … of this resolution, and of 1/400 of a mean module in large stacks


def exact_budget(logits: Sequence[float], costs: Sequence[float], sparsity: float) -> list[bool]:
    """:func:`exact_budgets` of one utterance: (M,) logits → M times whether the module runs."""
    chosen = exact_budgets(np.asarray(logits, dtype=np.float64)[None], costs, np.array([sparsity]))
    opened: list[bool] = chosen[0].tolist()
    return opened


def exact_budgets(logits: np.ndarray, costs: Sequence[float], sparsity: np.ndarray) -> np.ndarray:
    """Open the modules of the greatest logits whose cost is within ``1 − sparsity``, and close to it.

    Keeping modules in the order of their logits until the budget is spent (:func:`thresholds`) misses a budget by up
    to half a module. This moves that set as little as exact costs allow, by a 0/1 knapsack: among the sets that cost
    between ``1 − sparsity − 0.02`` and ``1 − sparsity`` the one of the greatest Σ (logit − threshold), and where there
    is none, the costliest that fits. Without the threshold, a number added to all logits would change the masks: many
    cheap modules where logits are positive, few expensive ones where they are negative.

    Args:
        logits: (B, M).
        costs: (M,) shares of the stack's cost.
        sparsity: (B,) shares to skip, in [0, 1].

    Returns:
        (B, M) True where the module runs. The budget is never exceeded (law 6).

    Raises:
        ValueError: if a sparsity is outside [0, 1].
    """
    for value in sparsity:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"sparsity must be in [0, 1], got {value}")
    shares = np.asarray(costs, dtype=np.float64)
    shares = shares / shares.sum()
    margins = logits - thresholds(logits, shares, sparsity)[:, None]
    kinds, kind_of = np.unique(shares.round(9), return_inverse=True)
    if np.prod(np.bincount(kind_of) + 1.0) > _MOST_SETS:
        chosen = np.array([_knapsack(m, shares, s) for m, s in zip(margins, sparsity, strict=True)])
    else:
        chosen = _best_sets(margins, tuple(kinds), tuple(kind_of), sparsity)
    chosen[sparsity == 0.0] = True
    return chosen


def thresholds(logits: np.ndarray, costs: np.ndarray, sparsity: np.ndarray) -> np.ndarray:
    """Logits between modules that run and modules that do not, kept in order until the budget is spent, (B,).

    A module is kept when the middle of its cost lies within the budget. Arguments as in :func:`exact_budgets`.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    ordered, each = np.take_along_axis(logits, order, axis=1), costs[order]
    kept = (np.cumsum(each, axis=1) - 0.5 * each <= 1.0 - sparsity[:, None]).sum(1)
    padded = np.concatenate([ordered[:, :1] + 2.0, ordered, ordered[:, -1:] - 2.0], axis=1)
    rows = np.arange(len(logits))
    between: np.ndarray = 0.5 * (padded[rows, kept] + padded[rows, kept + 1])
    return between


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
    left = (1.0 - sparsity) * float(sum(costs)) + _ROUNDING
    chosen = [False] * len(costs)
    for i in order:
        if costs[i] <= left:
            chosen[i] = True
            left -= costs[i]
    return chosen


def _best_sets(
    margins: np.ndarray, kinds: tuple[float, ...], kind_of: tuple[int, ...], sparsity: np.ndarray
) -> np.ndarray:
    """Modules of one cost are taken in order, so a set is known by how many it takes of each kind: list them all."""
    sizes, weights = _sizes_of_sets(kinds, kind_of)
    values = np.zeros((len(margins), len(sizes)))
    rank = np.empty(margins.shape, dtype=int)  # place of a module within its kind
    for kind in range(len(kinds)):
        members = np.flatnonzero(np.asarray(kind_of) == kind)
        order = np.argsort(-margins[:, members], axis=1, kind="stable")
        gained = np.cumsum(np.take_along_axis(margins[:, members], order, axis=1), axis=1)
        values += np.pad(gained, ((0, 0), (1, 0)))[:, sizes[:, kind]]
        rank[:, members] = np.argsort(order, axis=1, kind="stable")
    left = (1.0 - sparsity)[:, None] + _ROUNDING - weights
    values[(left < 0.0) | (left > TOLERANCE + 2 * _ROUNDING)] = -np.inf
    best = values.argmax(1)
    nearest = np.where(left < 0.0, np.inf, left).argmin(1)
    best = np.where(np.isneginf(values.max(1)), nearest, best)
    taken: np.ndarray = rank < sizes[best][:, list(kind_of)]
    return taken


@lru_cache(maxsize=32)
def _sizes_of_sets(kinds: tuple[float, ...], kind_of: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of modules of each kind, (sets, kinds), and what they cost, (sets,)."""
    counts = np.bincount(kind_of)
    sizes = np.stack(np.meshgrid(*(np.arange(n + 1) for n in counts), indexing="ij"), axis=-1).reshape(-1, len(kinds))
    return sizes, sizes @ np.asarray(kinds)


def _knapsack(margins: np.ndarray, shares: np.ndarray, sparsity: float) -> np.ndarray:
    """The same for one utterance whose modules are of many costs: dynamic programming over costs rounded up to bins."""
    # A multiple of the number of modules: equal costs are whole bins, and k of them fit where k are asked for.
    bins = len(shares) * max(400, -(-_BINS // len(shares)))
    weights = [int(np.ceil(c * bins - 1e-6)) for c in shares]
    budget = int(np.floor((1.0 - sparsity + _ROUNDING) * bins))
    best = np.full(budget + 1, -np.inf)  # best[w]: greatest value of a set that weighs exactly w
    best[0] = 0.0
    taken = np.zeros((len(margins), budget + 1), dtype=bool)
    for i, (value, weight) in enumerate(zip(margins, weights, strict=True)):
        if weight > budget:
            continue
        with_item = best[: budget + 1 - weight] + value
        better = with_item > best[weight:]
        taken[i, weight:] = better
        best[weight:] = np.where(better, with_item, best[weight:])
    # Rounding the costs up took some of the tolerance already.
    start = max(0, budget - int(0.95 * TOLERANCE * bins))
    left = start + int(best[start:].argmax())
    if np.isneginf(best[left]):
        left = int(np.flatnonzero(~np.isneginf(best)).max())
    chosen = np.zeros(len(margins), dtype=bool)
    for i in range(len(margins) - 1, -1, -1):
        if taken[i, left]:
            chosen[i] = True
            left -= weights[i]
    return chosen
