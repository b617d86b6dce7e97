"""Where the time of decoding goes, from the ``decode_stats.jsonl`` of decoding directories."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_gated.analysis.table import number

STATS_FILE = "decode_stats.jsonl"
HEADER = (
    "system",
    "skipped enc/dec",
    "n",
    "latency ms",
    "median",
    "p90",
    "encode ms",
    "search ms",
    "ms/step",
    "RTF",
    "GFLOPs enc",
    "dec",
    "total",
)


class SpeedError(ValueError):
    """Decoding statistics that are missing or broken."""


def speed_row(decode_dir: str | Path) -> list[str]:
    """One row under ``HEADER``: means over the utterances, ``-`` where nothing was measured.

    Raises:
        SpeedError: when the statistics are missing, empty or broken.
    """
    file = Path(decode_dir) / STATS_FILE
    stats = _read(file)
    latency = sorted(_known(stats, "latency_s"))
    timed = [s for s in stats if s.get("latency_s") is not None]
    search, steps = _known(timed, "search_s"), _known(timed, "steps")
    seconds = sum(_known(timed, "seconds")) if all(s.get("seconds") is not None for s in timed) else 0.0
    p90 = latency[int(0.9 * (len(latency) - 1))] if latency else None
    return [
        _name(file, stats[0]),
        "/".join(number(_mean(stats, f"skipped_{part}"), 2) for part in ("encoder", "decoder")),
        str(len(timed or stats)),
        _milliseconds(_mean(stats, "latency_s")),
        _milliseconds(statistics.median(latency) if latency else None),
        _milliseconds(p90),
        _milliseconds(_mean(stats, "encode_s")),
        _milliseconds(_mean(stats, "search_s")),
        _milliseconds(sum(search) / sum(steps) if search and sum(steps) else None),
        number(sum(latency) / seconds if seconds else None, 3),
        *(number(_mean(stats, name), 2) for name in ("gflops_encoder", "gflops_decoder", "gflops")),
    ]


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise SpeedError(f"{file}: file is missing; decode first")
    stats = []
    for line_number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            stats.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise SpeedError(f"{file}:{line_number}: not JSON: {error}") from None
        if not isinstance(stats[-1], dict):
            raise SpeedError(f"{file}:{line_number}: must be a JSON object, got {line[:60]!r}")
    if not stats:
        raise SpeedError(f"{file}: file is empty; decode again")
    return stats


def _name(file: Path, first: Mapping[str, Any]) -> str:
    """The name of the system (or its directory) with the sparsity it was asked for."""
    meta = file.with_name("decode_meta.json")
    content = json.loads(meta.read_text(encoding="utf-8")) if meta.is_file() else {}
    if not isinstance(content, dict):
        raise SpeedError(f"{meta}: must hold a JSON object")
    asked = [first.get("sparsity_encoder") or 0.0, first.get("sparsity_decoder") or 0.0]
    name = content.get("system") or file.parent.parent.name
    return name if not any(asked) else f"{name} {asked[0]:g}/{asked[1]:g}"


def _known(stats: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [s[name] for s in stats if s.get(name) is not None]


def _mean(stats: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _known(stats, name)
    return statistics.fmean(values) if values else None


def _milliseconds(seconds: float | None) -> str:
    return number(None if seconds is None else 1000 * seconds)
