"""The one place where a module is run, skipped, or run for some rows of a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from espnet_gated.gating.gates import ModuleGate


def run_gated(gate: ModuleGate, fn: Callable[..., Tensor], *inputs: Any) -> Tensor | None:
    """``gate · fn(*inputs)`` without computing what is closed.

    Args:
        gate: open, closed, open for some rows, or soft (multiplied in, with a gradient to the gate).
        fn: the module; its output has the batch first, (B, T, size).
        inputs: tensors whose first dimension is the batch (or 1, shared by all rows), tuples of such, or ``None``.

    Returns:
        (B, T, size), zero in the rows that are closed; ``None`` if no row needs the module.
    """
    if gate.closed:
        return None
    if gate.is_open:
        return fn(*inputs)
    if gate.soft:
        assert gate.value is not None
        output = fn(*inputs)
        value = gate.value.to(output)
        return output * (value[:, :, None] if value.dim() == 2 else value[:, None, None])
    assert gate.rows is not None and gate.value is not None
    batch = gate.value.size(0)
    part = fn(*(_rows(x, gate.rows, batch) for x in inputs))
    output = part.new_zeros(batch, *part.shape[1:])
    return output.index_copy_(0, gate.rows, part) if not part.requires_grad else output.index_copy(0, gate.rows, part)


def add_gated(x: Tensor, gate: ModuleGate, fn: Callable[..., Tensor], *inputs: Any, scale: float = 1.0) -> Tensor:
    """``x + scale · gate · fn(*inputs)``."""
    output = run_gated(gate, fn, *inputs)
    if output is None:
        return x
    return x + output if scale == 1.0 else x + scale * output


def _rows(x: Any, rows: Tensor, batch: int) -> Any:
    if isinstance(x, tuple):
        return tuple(_rows(part, rows, batch) for part in x)
    if torch.is_tensor(x) and x.size(0) == batch and batch > 1:
        return x.index_select(0, rows)
    return x
