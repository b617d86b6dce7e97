"""Muon for the matrices inside the layers and Adam for all else, as one optimizer: ``optim: muon`` in ESPnet YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (".encoders.", ".decoders.")
"""What is in the names of parameters inside the layers of any ESPnet encoder or decoder."""
_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # Jordan's quintic: steep at 0, and never far from 1 at 1
_NEWTON_SCHULZ_STEPS = 5
_EPSILON = 1e-7


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps hidden units to hidden units.

    Embeddings and output layers do not, since most of their rows belong to tokens that a batch does not
    hold; nor do gate predictors, whose pace ``gating.gate_speed`` sets in Adam's steps.
    """
    return parameter.ndim == 2 and name.endswith(".weight") and any(layers in f".{name}" for layers in LAYERS)


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all about one (0.7 to 1.2), by five Newton-Schulz steps.

    ``torch.optim.Muon`` computes these in bfloat16, which many CPUs are slow at in small products: it took a third
    of a training step (docs/experiments.md). On a CPU the products are therefore float32 ones, of the precision that
    ``torch.set_float32_matmul_precision`` says.

    Args:
        matrix: (rows, columns), not all zero.

    Returns:
        (rows, columns), float32 on a CPU, bfloat16 elsewhere.
    """
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_EPSILON)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): a matrix's directions have the same say.

    Nesterov momentum, orthogonalized, and scaled to the size of Adam's updates (Liu et al. 2025, arXiv:2502.16982), as
    ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``; see :func:`orthogonalize` for the difference.

    Args:
        params: matrices.
        lr, momentum: as usual.
        weight_decay: decoupled.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            lr, momentum = float(group["lr"]), group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                average = state.setdefault("momentum_buffer", torch.zeros_like(p.grad))
                average.lerp_(p.grad, 1 - momentum)
                update = orthogonalize(p.grad.lerp(average, momentum)).to(p)
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update, alpha=-lr * 0.2 * max(p.shape) ** 0.5)


class MuonAdam(torch.optim.Optimizer):
    """:class:`Muon` beside Adam; one learning rate and one scheduler serve both.

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
            Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay),
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
