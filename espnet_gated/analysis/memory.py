"""Memory of a decode: resident memory of the process on a CPU, allocated memory on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MIB = 2**20


def resident_mib(device: str) -> float | None:
    """Memory in use now, MiB; ``None`` where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device) / _MIB
    return _status("VmRSS")


def give_back() -> None:
    """Return freed memory to the system, so that what is loaded next is seen: else it takes what was freed before.

    Only glibc can; elsewhere that stays as it is.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Context manager: ``above_mib`` is the highest level inside the block above that at its start."""

    def __init__(self, device: str):
        self.device = device
        self.above_mib: float | None = None
        self._start: float | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                _CLEAR.write_text("5")  # Linux: forget the highest level so far
        self._start = resident_mib(self.device)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.device.startswith("cuda"):
            peak: float | None = torch.cuda.max_memory_allocated(self.device) / _MIB
        else:
            peak = _status("VmHWM")
        if peak is not None and self._start is not None:
            self.above_mib = max(0.0, peak - self._start)


def _status(name: str) -> float | None:
    """A field of ``/proc/self/status`` in MiB."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
