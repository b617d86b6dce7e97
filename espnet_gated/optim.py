"""Muon for the matrices inside the layers and Adam for all else, as one optimizer: ``optim: muon`` in ESPnet YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (".encoders.", ".decoders.")
"""What is in the names of parameters inside the layers of any ESPnet encoder or decoder."""


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps hidden units to hidden units.

    Embeddings and output layers do not, since most of their rows belong to tokens that a batch does not
    hold; nor do gate predictors, whose pace ``gating.gate_speed`` sets in Adam's steps.
    """
    return parameter.ndim == 2 and name.endswith(".weight") and any(layers in f".{name}" for layers in LAYERS)


class MuonAdam(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) beside Adam.

    Muon gives every direction of a matrix the same say in an update. Its updates are scaled to Adam's size (Liu et al.
    2025, arXiv:2502.16982), so one learning rate and one scheduler serve both. ``torch.optim.Muon`` does the work.

    Args:
        named_params: name and parameter of a whole model.
        lr: of both parts.
        momentum: of Muon.
        betas: of Adam.
        weight_decay: of both, decoupled.
        fused: whether Adam updates all its parameters in one pass.

    Raises:
        ValueError: for a model without layers of the names :data:`LAYERS`, or values that torch refuses.
    """

    def __init__(
        self,
        named_params: Iterable[tuple[str, nn.Parameter]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        named = list(named_params)
        matrices = [p for name, p in named if is_hidden_matrix(name, p)]
        others = [p for name, p in named if not is_hidden_matrix(name, p)]
        if not matrices:
            raise ValueError(f"optim: muon needs matrices in layers named {' or '.join(LAYERS)}; this model has none")
        self._parts = (
            torch.optim.Muon(
                matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=fused),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:
        """Update all parameters.

        Args:
            closure: evaluates the model again; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self._parts, self.param_groups, strict=True):
            # Schedulers and ``load_state_dict`` change what this object holds: its parts look at the same.
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss
