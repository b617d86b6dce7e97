"""Sparsities that training asks for in all stacks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espnet_gated.gating.config import check_sparsity

TARGETS_PER = ("utterance", "batch")
"""What a target sparsity may be drawn for in training."""


@dataclass(frozen=True)
class JointTarget:
    """Sparsities that a share of the training utterances is asked for in all stacks together.

    Attributes:
        encoder: of the encoders.
        decoders: of the decoders; more than one: each of them for the same batch.
        share: of the utterances, or of the batches.
    """

    encoder: float
    decoders: tuple[float, ...]
    share: float

    def of(self, stack: str) -> float:
        """What a stack is asked for (first)."""
        return self.decoders[0] if stack.endswith("decoder") else self.encoder


def parse_joint_targets(points: Sequence[Sequence[Any]]) -> list[JointTarget]:
    """Check ``[encoder, decoder, share]`` triples, whose ``decoder`` is a sparsity or a list of them.

    Raises:
        ValueError: for a triple of another length, a sparsity outside [0, 1) or shares that sum to more than one.
    """
    targets = []
    for point in points:
        if len(point) != 3 or point[1] == []:
            raise ValueError(f"joint_targets takes [encoder, decoder, share] each, got {list(point)}")
        decoders = point[1] if isinstance(point[1], list | tuple) else [point[1]]
        encoder, *checked = (check_sparsity(value, "joint_targets") for value in (point[0], *decoders))
        targets.append(JointTarget(encoder, tuple(checked), float(point[2])))
    shares = [target.share for target in targets]
    if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-6:
        raise ValueError(f"the shares of joint_targets must be at least 0 and sum to at most 1, got {shares}")
    return targets
