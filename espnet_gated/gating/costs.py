"""Floating-point operations of a module, as ``torch.utils.flop_counter`` counts them.

Counted are the products (linear, convolution, attention; a multiply-add is two operations); norms, activations and
softmax are not.
The formulas read the sizes off the module, so they hold for every ESPnet feed-forward, attention, cgMLP and
convolution module.
"""

import torch
from torch.nn import Conv1d, Linear, Module


def linear_flops(module: Module, frames: float) -> float:
    """FLOPs of all linear and 1-d convolution layers inside ``module`` applied to ``frames`` frames."""
    total = 0.0
    for part in module.modules():
        if isinstance(part, Linear):
            total += 2.0 * part.in_features * part.out_features * frames
        elif isinstance(part, Conv1d):
            total += 2.0 * part.weight.numel() * frames
    return total


def attention_flops(attn: Module, frames: float, memory: float | None = None) -> float:
    """FLOPs of a multi-headed attention module.

    Args:
        attn: ESPnet attention module (absolute, relative, legacy relative; others count their linear layers).
        frames: length of the query.
        memory: length of keys and values; ``None`` for self-attention.
    """
    keys = frames if memory is None else memory
    if not hasattr(attn, "linear_q"):
        return linear_flops(attn, frames)
    size = attn.linear_q.out_features
    total = 2.0 * size * size * (2 * frames + 2 * keys)  # q, out; k, v
    total += 4.0 * size * frames * keys  # scores and weighted sum
    if hasattr(attn, "linear_pos"):
        # Relative positions: T of them in the legacy layout, 2T - 1 in the latest one.
        legacy = "Legacy" in type(attn).__name__
        positions = keys if legacy else 2 * keys - 1
        total += 2.0 * size * size * positions + 2.0 * size * frames * positions
    return total


def module_flops(module: Module, frames: float, memory: float | None = None) -> float:
    """FLOPs of a gated module on ``frames`` frames (``memory`` frames to attend to, for source attention)."""
    if hasattr(module, "linear_q") or hasattr(module, "linear_k"):
        return attention_flops(module, frames, memory)
    if hasattr(module, "query_att"):  # Fastformer: two weighted sums over the frames beside its linear maps
        return linear_flops(module, frames) + 4.0 * module.key.out_features * frames
    return linear_flops(module, frames)


def shares(costs: list[float]) -> torch.Tensor:
    """Costs as shares that sum to one, (M,)."""
    total = sum(costs)
    if not costs or total <= 0:
        raise ValueError(f"modules must have a positive cost, got {costs}")
    return torch.tensor([c / total for c in costs], dtype=torch.float64)
