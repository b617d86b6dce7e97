"""The names of processor and device, as results carry them."""

from __future__ import annotations

import contextlib
import platform


def cpu_name(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Name of the first processor with its family and model: a virtual machine's «AMD EPYC» may be any.

    Args:
        cpuinfo: what Linux says of its processors; elsewhere ``platform`` is asked.
    """
    known: dict[str, str] = {}
    with contextlib.suppress(OSError), open(cpuinfo, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            known[name.strip()] = value.strip()
    name = known.get("model name") or platform.processor() or platform.machine() or "unknown"
    if "cpu family" in known and "model" in known:
        name += f" (family {known['cpu family']}, model {known['model']})"
    return name


def device_name(device: str) -> str:
    """``cpu``, or the name of a GPU such as ``cuda:0``."""
    if not device.startswith("cuda"):
        return device
    import torch  # which takes seconds

    return str(torch.cuda.get_device_name(device))
