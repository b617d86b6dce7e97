"""Muon for the matrices inside the layers and Adam for all else, as one optimizer: ``optim: muon`` in ESPnet YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (".encoders.", ".decoders.")
"""What is in the names of parameters inside the layers of any ESPnet encoder or decoder."""
_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # Jordan's quintic: steep at 0, and never far from 1 at 1
_NEWTON_SCHULZ_STEPS = 5  # three steps of polynomials made for three train worse from scratch (docs/experiments.md)
_EPSILON = 1e-7
# Elements of a stack: what is larger gains nothing from company, and takes memory; in float32 it must fit the cache.
_LARGEST_STACK = {torch.float32: 2**18, torch.bfloat16: 2**22}


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps hidden units to hidden units.

    Embeddings and output layers do not, since most of their rows belong to tokens that a batch does not
    hold; nor do gate predictors, whose pace ``gating.gate_speed`` sets in Adam's steps.
    """
    return parameter.ndim == 2 and name.endswith(".weight") and any(layers in f".{name}" for layers in LAYERS)


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are all about one (0.7 to 1.2), by five Newton-Schulz steps.

    ``torch.optim.Muon`` computes these in bfloat16, one matrix at a time, which takes up to a third of a training step
    on a CPU (docs/experiments.md). Here a CPU uses bfloat16 only where products may be of that precision
    (``torch.set_float32_matmul_precision("medium")``).

    Args:
        matrices: (..., rows, columns), none of them all zero.

    Returns:
        (..., rows, columns), float32 or bfloat16.
    """
    x = matrices.to(_dtype(matrices.device))
    tall = x.size(-2) > x.size(-1)
    x = (x.mT if tall else x).reshape(-1, min(x.shape[-2:]), max(x.shape[-2:]))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPSILON)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(*matrices.shape[:-2], *x.shape[-2:])
    return x.mT if tall else x


def _dtype(device: torch.device) -> torch.dtype:
    slow = device.type == "cpu" and torch.get_float32_matmul_precision() != "medium"
    return torch.float32 if slow else torch.bfloat16


def orthogonalize_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """:func:`orthogonalize` for matrices of any shapes, on one device.

    Small ones of one shape, lying or standing, are a stack.
    """
    lying = [m.T if m.size(0) > m.size(1) else m for m in matrices]
    alike: dict[torch.Size, list[int]] = {}
    for number, matrix in enumerate(lying):
        alike.setdefault(matrix.shape, []).append(number)
    results = list(matrices)
    for shape, numbers in alike.items():
        most = max(1, _LARGEST_STACK[_dtype(matrices[numbers[0]].device)] // shape.numel())
        for start in range(0, len(numbers), most):
            together = numbers[start : start + most]
            for number, x in zip(together, orthogonalize(torch.stack([lying[n] for n in together])), strict=True):
                results[number] = x.T if matrices[number].size(0) > matrices[number].size(1) else x
    return results


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): a matrix's directions have the same say.

    Nesterov momentum, orthogonalized, and scaled to the size of Adam's updates (Liu et al. 2025, arXiv:2502.16982), as
    ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``; see :func:`orthogonalize` for the difference. A matrix
    whose gradient is exactly zero, as that of a module that a batch closes, stays as it is.

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
            params = [p for p in group["params"] if p.grad is not None]
            updates = []
            for p in params:
                state = self.state.setdefault(p, {})
                average = state.setdefault("momentum_buffer", torch.zeros_like(p.grad))
                average.lerp_(p.grad, 1 - momentum)
                updates.append(p.grad.lerp(average, momentum))
            for p, update in zip(params, orthogonalize_all(updates), strict=True):
                # Orthogonalized, old momentum is as large as any: a module that a batch closes must not follow it.
                used = p.grad.any().to(p)
                p.mul_(1 - lr * group["weight_decay"] * used)
                p.add_(update.to(p) * used, alpha=-lr * 0.2 * max(p.shape) ** 0.5)


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
