"""Sparsity loss."""

from torch import Tensor


def sparsity_loss(skipped: Tensor, target: Tensor, level: str = "utterance") -> Tensor:
    """``|ŝ − s*| + (ŝ − s*)²``.

    The squared term is what makes the target be reached (Someki et al., ICLR 2025).

    Args:
        skipped: (B,) share skipped for each utterance, differentiable.
        target: (B,) asked share.
        level: ``utterance`` compares each utterance with its own target, ``batch`` the means.

    Returns:
        scalar
    """
    gap = skipped - target
    if level == "batch":
        gap = gap.mean()
    elif level != "utterance":
        raise ValueError(f"level must be 'utterance' or 'batch', got {level!r}")
    return (gap.abs() + gap.square()).mean()
