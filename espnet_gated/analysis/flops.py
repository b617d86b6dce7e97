"""Measured floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

T = TypeVar("T")


def _sdpa_on_cpu(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    # torch 2.11 counts the fused attention of GPUs but not the CPU's.
    return sdpa_flop_count(tuple(query.shape), tuple(key.shape), tuple(value.shape))


def _linear(x: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return 2 * math.prod(x.shape) * out_val.shape[-1]


_sdpa_on_cpu._get_raw = _linear._get_raw = True  # type: ignore[attr-defined]
CPU_OPERATORS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_on_cpu,
    torch.ops.mkldnn._linear_pointwise: _linear,
    torch.ops.quantized.linear_dynamic: _linear,
    torch.ops.quantized.linear_dynamic_fp16: _linear,
}


def measure_flops(fn: Callable[[], T]) -> tuple[T, float]:
    """Run ``fn`` and count what it really computes.

    Args:
        fn: anything that runs torch operators.

    Returns:
        what ``fn`` returns, and its floating-point operations (products and convolutions; a multiply-add is two).
    """
    with FlopCounterMode(display=False, custom_mapping=CPU_OPERATORS) as counter:
        result = fn()
    return result, float(counter.get_total_flops())
