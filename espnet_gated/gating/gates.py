"""The answer of a gate predictor: one binary gate per module and utterance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ModuleName = tuple[int, str]
"""A gated module: (index of its layer, ESPnet's attribute name in that layer)."""


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that shares are told and summed in: half precision has too few digits for a budget."""
    return torch.promote_types(dtype, torch.float32)


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Indices that the host knows as a tensor (n,), without waiting for what the device still has to do."""
    return torch.tensor(list(values), dtype=torch.long).to(device, non_blocking=True)


@dataclass(frozen=True)
class ModuleGate:
    """The gate of one module for the rows of a batch.

    Attributes:
        value: (B,) per utterance or (B, T) per token; multiplied in where gates are soft. ``None``: open for every row.
        rows: indices of the open rows, (n,), where gates are hard and differ by row; else ``None``.
        host_rows: the same on the host, so that nobody need copy them back.
        closed: no row needs the module.
        soft: multiply instead of skipping (training: the straight-through gradient needs f(x)).
    """

    value: Tensor | None = None
    rows: Tensor | None = None
    host_rows: tuple[int, ...] | None = None
    closed: bool = False
    soft: bool = False

    @property
    def is_open(self) -> bool:
        """Whether every row runs the module unchanged."""
        return self.value is None and self.rows is None and not self.closed

    def either(self, other: "ModuleGate") -> "ModuleGate":
        """Gate of what runs when at least one of two modules does (1 - (1 - a)(1 - b))."""
        if self.is_open or other.is_open:
            return OPEN
        if not (self.soft or other.soft) and (self.closed or other.closed):
            return other if self.closed else self
        value = 1.0 - (1.0 - self.as_value(other)) * (1.0 - other.as_value(self))
        if self.soft or other.soft:
            return ModuleGate(value=value, soft=True)
        opened = {*(self.host_rows or ()), *(other.host_rows or ())}
        return hard_gate(value, [float(row in opened) for row in range(value.size(0))])

    def as_value(self, like: "ModuleGate") -> Tensor:
        """The gate as a tensor of the other gate's shape and type."""
        if self.value is not None:
            return self.value
        assert like.value is not None
        return torch.zeros_like(like.value) if self.closed else torch.ones_like(like.value)


OPEN = ModuleGate()
CLOSED = ModuleGate(closed=True)


def hard_gate(value: Tensor, host: Sequence[float] | None = None, multiply_from: float | None = None) -> ModuleGate:
    """Make a gate that skips from binary values.

    Args:
        value: (B,) or (B, T) zeros and ones.
        host: the same values (B,) on the host, where known: spares a device-to-host copy.
        multiply_from: see :class:`Gates`.
    """
    if value.dim() == 2 and value.size(1) > 1:
        # Tokens of one utterance differ: whole rows cannot be skipped unless every token agrees.
        if not bool(value.any()):
            return CLOSED
        return OPEN if bool(value.all()) else ModuleGate(value=value, soft=True)
    flags = [bool(v) for v in (value.flatten().tolist() if host is None else host)]
    if all(flags):
        return OPEN
    if not any(flags):
        return CLOSED
    if multiply_from is not None and sum(flags) >= multiply_from * len(flags):
        return ModuleGate(value=value, soft=True)
    rows = tuple(i for i, flag in enumerate(flags) if flag)
    return ModuleGate(value=value, rows=on_device(rows, value.device), host_rows=rows)


LayerGates = Mapping[str, ModuleGate]
"""Gates of one layer by module name; a name that is missing is open."""


@dataclass(frozen=True)
class Gates:
    """Gates of a stack of layers (an encoder or a decoder).

    Attributes:
        values: (B, M) zeros and ones; in training with the straight-through gradient.
        names: the M modules.
        costs: (M,) share of each module in the stack's gated cost; sums to one.
        logits: (B, M) what the predictor said (for loss and analysis).
        soft: training: multiply, do not skip.
        soft_open: (B, M) probability of being open (training only), else ``None``.
        host: ``values`` as nested lists, when hard: one device-to-host copy for the whole stack.
        multiply_from: share of open rows from which a hard gate that differs by row is multiplied in, as soft ones are,
            and its module runs for all rows; ``None``: never.
    """

    values: Tensor
    names: Sequence[ModuleName]
    costs: Tensor
    logits: Tensor
    soft: bool
    soft_open: Tensor | None = None
    host: list[list[float]] | None = None
    multiply_from: float | None = None

    def walk(self) -> "Gates":
        """These gates: they are decided already (see :class:`espnet_gated.gating.local.LocalGates`)."""
        return self

    def layer(self, index: int, x: Tensor | None = None, mask: Tensor | None = None) -> LayerGates:
        """Gates of layer ``index`` (from 0), whatever its input ``x`` and ``mask``."""
        return {name: self._module(column) for column, (layer, name) in enumerate(self.names) if layer == index}

    def _module(self, column: int) -> ModuleGate:
        if self.soft:
            return ModuleGate(value=self.values[:, column], soft=True)
        assert self.host is not None
        return hard_gate(self.values[:, column], [row[column] for row in self.host], self.multiply_from)

    def skipped(self) -> Tensor:
        """Share of the cost that is skipped, (B,), differentiable in training."""
        return 1.0 - self._share(self.values)

    def expected_skipped(self) -> Tensor:
        """Share of the cost that would be skipped if every gate were drawn by its probability, (B,) (training only)."""
        assert self.soft_open is not None
        return 1.0 - self._share(self.soft_open)

    def _share(self, opened: Tensor) -> Tensor:
        """Share of the cost, (B,), of modules that are open by (B, M)."""
        dtype = precise(opened.dtype)
        return (opened.to(dtype) * self.costs.to(opened.device, dtype)).sum(-1)

    def select(self, rows: Sequence[int]) -> "Gates":
        """The gates of some rows (indices on the host; repeats allowed)."""
        host = None if self.host is None else [self.host[i] for i in rows]
        index = on_device(rows, self.values.device)
        return replace(self, values=self.values[index], logits=self.logits[index], soft_open=None, host=host)


def all_open(batch: int, names: Sequence[ModuleName], costs: Tensor, like: Tensor) -> Gates:
    """Gates that leave everything open (the dense model)."""
    values = like.new_ones(batch, len(names))
    return Gates(values, names, costs, values, soft=False, host=[[1.0] * len(names)] * batch)


def from_values(values: Tensor, names: Sequence[ModuleName], costs: Tensor, soft: bool) -> Gates:
    """Gates with given binary values (B, M), e.g. a fixed mask."""
    return Gates(values, names, costs, values, soft=soft, host=None if soft else values.tolist())
