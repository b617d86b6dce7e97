"""A gated module with its residual: what Transformer, Conformer and decoder layers have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from espnet_gated.gating.gates import ModuleGate
from espnet_gated.layers.skipping import add_gated


def add_residual(
    layer: nn.Module,
    x: Tensor,
    gate: ModuleGate,
    fn: Callable[..., Tensor],
    norm: nn.Module,
    *inputs: Any,
    scale: float = 1.0,
) -> Tensor:
    """``x + scale · gate · fn(*inputs)``; a post-norm layer normalises the sum, also where the module is closed."""
    x = add_gated(x, gate, fn, *inputs, scale=scale)
    return x if layer.normalize_before else norm(x)


def normed(layer: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """What enters a module: normed for pre-norm layers, untouched for post-norm."""
    return norm(x) if layer.normalize_before else x


def survive(layer: nn.Module) -> float | None:
    """Stochastic depth in training: the factor of the residual branches, or ``None`` where the layer is left out."""
    rate = layer.stochastic_depth_rate
    if not layer.training or rate <= 0:
        return 1.0
    return None if torch.rand(1).item() < rate else 1.0 / (1.0 - rate)
