"""Output layers of gate predictors, and what they start with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerHead(torch.nn.Module):
    """The part of a local predictor that belongs to one layer: its input in, its log-odds out.

    Args:
        feature_size, width: sizes.
        bias: (outputs,) where the log-odds start.
    """

    def __init__(self, feature_size: int, width: int, bias: Tensor):
        super().__init__()
        self.norm = torch.nn.LayerNorm(feature_size)
        self.features = torch.nn.Linear(feature_size, width)
        self.output = OutputLayer(width, bias)


def spread_layers(layers: Sequence[int]) -> Tensor:
    """Which layers to keep before anything is learned: the first, the last, then always the one farthest from these.

    Pruned depth is regained best when the layers that stay are spread evenly (every other layer, Fan et al., ICLR
    2020; distilled Transformers start from such layers too). Gradients alone find this slowly: of many redundant
    self-attentions each can close at no loss, but not all of them.

    Args:
        layers: (M,) layer of each module.

    Returns:
        (M,) from 1 (kept longest) to -1 (closed first), the same for all modules of a layer.
    """
    left = sorted(set(layers))
    kept = [left.pop(0), *([left.pop()] if left else [])]
    while left:
        farthest = max(left, key=lambda layer: min(abs(layer - other) for other in kept))
        left.remove(farthest)
        kept.append(farthest)
    step = 2.0 / max(1, len(kept) - 1)
    return torch.tensor([1.0 - step * kept.index(layer) for layer in layers])


class OutputLayer(torch.nn.Linear):
    """Starts near its bias, so that an untrained predictor follows the asked sparsity and the prior alone.

    Args:
        width: of the hidden layer.
        start: (M,) where the log-odds start.
    """

    def __init__(self, width: int, start: Tensor):
        super().__init__(width, start.numel())
        self._start = start
        self._begin()

    def reset_parameters(self) -> None:
        """Go back to the start."""
        super().reset_parameters()
        if "_start" in self.__dict__:  # not so when torch's constructor calls this
            self._begin()

    def _begin(self) -> None:
        torch.nn.init.normal_(self.weight, std=0.1 * self.in_features**-0.5)
        with torch.no_grad():
            self.bias.copy_(self._start)
