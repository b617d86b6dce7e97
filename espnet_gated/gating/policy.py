"""How logits become gates at inference: budgets, baselines and the thresholds of the learned budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from espnet_gated.gating.budget import budget_in_order, exact_budgets

THRESHOLD_SPARSITIES = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Asked sparsities for which the learned budget has a threshold; between them it is interpolated."""


@dataclass(frozen=True)
class InferencePolicy:
    """How logits become gates at inference.

    Attributes:
        sparsity: asked share to skip; ``None``: the model's default.
        budget: ``exact`` (every utterance within its budget), ``learned`` (logit above the threshold of its sparsity),
            ``open`` (dense), ``random`` or ``fixed`` (baselines: random masks within the budget; the same mask,
            ``mask``, for everyone).
        mask: (M,) for ``fixed``.
        seed: of ``random``; ``None``: torch's (``torch.manual_seed``, ``--seed``).
        before: share that the stack in front skips (of a decoder the encoder); thresholds depend on it.
    """

    sparsity: float | None = None
    budget: str | None = None
    mask: tuple[float, ...] | None = None
    seed: int | None = None
    before: float = 0.0

    @property
    def asks_nothing(self) -> bool:
        """Whether nobody has chosen a sparsity or a budget."""
        return self.sparsity is None and self.budget is None

    def opened(
        self, budget: str, logits: np.ndarray, costs: Tensor, sparsity: np.ndarray, seeds: Sequence[int] = ()
    ) -> list[list[float]]:
        """Gates under this policy.

        Args:
            budget: what ``self.budget``, or the model's default in its place, says.
            logits: (B, M); for ``learned`` by how much they are above their threshold.
            costs: (M,) shares of the cost.
            sparsity: (B,) asked.
            seeds: what tells the B utterances apart, for ``random``.

        Returns:
            (B, M) zeros and ones; all open where nothing is to be skipped.

        Raises:
            ValueError: for an unknown budget, or ``fixed`` without a mask.
        """
        if not sparsity.any():
            return [[1.0] * logits.shape[1]] * len(logits)
        if budget == "exact":
            opened = exact_budgets(logits, costs.tolist(), sparsity)
        elif budget == "learned":
            opened = logits > 0
        elif budget == "fixed" and self.mask is not None:
            opened = np.array([self.mask] * len(logits))
        elif budget == "random":
            opened = np.array([self._random_mask(s, costs, asked) for s, asked in zip(seeds, sparsity, strict=True)])
        else:
            raise ValueError(f"budget must be exact, learned, open, fixed or random, got {budget!r}")
        opened = np.where(sparsity[:, None] == 0.0, 1.0, opened)
        result: list[list[float]] = opened.astype(float).tolist()
        return result

    def _random_mask(self, utterance: int, costs: Tensor, sparsity: float) -> list[bool]:
        seed = hash((torch.initial_seed() if self.seed is None else self.seed, utterance)) % 2**31
        order = torch.randperm(len(costs), generator=torch.Generator().manual_seed(seed)).tolist()
        return budget_in_order(order, costs.tolist(), sparsity)


def threshold_for(logits: Tensor, costs: Tensor, sparsity: float) -> float:
    """The threshold under which the utterances skip the asked share on average.

    Args:
        logits: (N, M) of N utterances.
        costs: (M,) shares of the cost, sum one.
        sparsity: asked.

    Returns:
        the value between two neighbouring logits for which the average share of modules at or below it is nearest to
        ``sparsity``.
    """
    values, order = logits.flatten().double().sort()
    skipped = costs.double().repeat(len(logits))[order].cumsum(0) / len(logits)
    # A threshold lies between different values: below all, or behind the last of some that are equal.
    values = torch.cat([values[:1] - 2.0, values, values[-1:] + 2.0])
    skipped = torch.cat([skipped.new_zeros(1), skipped])
    places = (values[1:] > values[:-1]).nonzero().flatten()
    best = int(places[(skipped[places] - sparsity).abs().argmin()])
    return float((values[best] + values[best + 1]) / 2)


def interpolated(thresholds: Tensor, sparsity: Tensor, before: float = 0.0) -> Tensor:
    """The thresholds of some utterances, linearly interpolated.

    Args:
        thresholds: (2, K) at :data:`THRESHOLD_SPARSITIES`: the stack in front is whole, or skips as much.
        sparsity: (B,) asked.
        before: share that the stack in front skips.

    Returns:
        (B,)
    """
    step = THRESHOLD_SPARSITIES[1] - THRESHOLD_SPARSITIES[0]
    place = ((sparsity - THRESHOLD_SPARSITIES[0]) / step).clamp(0, len(THRESHOLD_SPARSITIES) - 1)
    below = place.floor().clamp(max=len(THRESHOLD_SPARSITIES) - 2)
    table, low = thresholds.to(sparsity), below.long()
    whole, pruned = torch.lerp(table[:, low], table[:, low + 1], place - below)
    return torch.lerp(whole, pruned, (before / sparsity.clamp(min=1e-6)).clamp(max=1.0))


__all__ = ["THRESHOLD_SPARSITIES", "InferencePolicy", "interpolated", "threshold_for"]
