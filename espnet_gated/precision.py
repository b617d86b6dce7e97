"""Precision of training on a CPU, where ESPnet has no option for it: ``ESPNET_GATED_MATMUL_PRECISION``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PRECISION_VARIABLE = "ESPNET_GATED_MATMUL_PRECISION"
"""Environment variable: ``highest``, ``high`` or ``medium`` (float32 products, as torch has it), ``bfloat16`` (mixed
precision, as ESPnet's ``use_amp`` has it on a GPU) or ``auto`` (``bfloat16`` where this processor is faster at it, else
``highest``)."""


PRECISIONS = ("highest", "high", "medium", "bfloat16", "auto")


def set_precision() -> None:
    """Do what :data:`PRECISION_VARIABLE` says, before anything of ESPnet is imported.

    Raises:
        SystemExit: naming the variable, for an unknown value.
    """
    precision = os.environ.get(PRECISION_VARIABLE)
    if not precision:
        return
    if precision not in PRECISIONS:
        raise SystemExit(f"{PRECISION_VARIABLE} must be {', '.join(PRECISIONS)}, got {precision!r}")
    import torch

    precision = resolved(precision)
    if precision == "bfloat16":
        _mix_on_cpu()
        precision = "medium"  # for what is outside of forward and backward pass: the optimizer
    torch.set_float32_matmul_precision(precision)


def resolved(precision: str) -> str:
    """``auto`` decided by measuring; any other word as it is."""
    if precision != "auto":
        return precision
    return "bfloat16" if faster_in_bfloat16() else "highest"


def faster_in_bfloat16(width: int = 256, tries: int = 20) -> bool:
    """Whether one thread takes a tenth less time for a product of float32 matrices through bfloat16, casts included."""
    import torch

    x, threads = torch.ones(width, width), torch.get_num_threads()

    def best(product: Callable[[], Any]) -> float:
        times = []
        for _ in range(tries):
            start = time.perf_counter()
            product()
            times.append(time.perf_counter() - start)
        return min(times)

    torch.set_num_threads(1)
    try:
        return best(lambda: (x.bfloat16() @ x.bfloat16()).float()) < 0.9 * best(lambda: x @ x)
    finally:
        torch.set_num_threads(threads)


def _mix_on_cpu() -> None:
    """Let ESPnet's trainer run models under CPU autocast, and let models' ``autocast(False)`` (frontends) end it."""
    import torch

    of_cuda = torch.cuda.amp.autocast

    @contextmanager
    def autocast(enabled: bool = True, **options: Any) -> Iterator[None]:
        with of_cuda(enabled, **options), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            yield

    # ESPnet's modules take the name from here when they are imported.
    torch.cuda.amp.autocast = autocast  # type: ignore[assignment,misc]
    import espnet2.train.trainer as trainer

    @contextmanager
    def always(enabled: bool = True, **options: Any) -> Iterator[None]:
        with of_cuda(enabled, **options), torch.autocast("cpu", torch.bfloat16):
            yield

    trainer.autocast = always


if __name__ == "__main__":
    print(resolved("auto"))
