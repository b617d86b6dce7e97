"""A budget as a wish in time: which sparsity decodes at a given real-time factor on this machine."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text
from espnet_gated.machine import cpu_name

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)


@dataclass(frozen=True)
class Calibration:
    """Real-time factors measured at several sparsities (of encoder and decoder alike).

    Attributes:
        sparsities: rising.
        rtf: seconds of decoding per second of audio at each.
        holds_for: machine, threads, checkpoint and options of the decoding: name → value.
    """

    sparsities: tuple[float, ...]
    rtf: tuple[float, ...]
    holds_for: dict[str, Any]

    def sparsity_for(self, wanted: float) -> float:
        """The least sparsity whose real-time factor is at most ``wanted`` (linear between the measured points).

        Raises:
            ValueError: if not even the highest sparsity is that fast.
        """
        if wanted <= 0:
            raise ValueError(f"rtf must be above 0, got {wanted} (--rtf)")
        # Noise may make a higher sparsity look slower; what matters is what one can rely on from a sparsity upwards.
        reliable = [max(self.rtf[i:]) for i in range(len(self.rtf))]
        points = list(zip(self.sparsities, reliable, strict=True))
        if points[0][1] <= wanted:
            return points[0][0]
        for (s0, r0), (s1, r1) in zip(points, points[1:], strict=False):
            if r1 <= wanted:
                return s1 if r0 == r1 else round(s0 + (s1 - s0) * (r0 - wanted) / (r0 - r1), 4)
        raise ValueError(
            f"rtf {wanted} is out of reach: at sparsity {points[-1][0]} this machine needs {points[-1][1]:.4f} (--rtf)"
        )


def calibrate(
    model: Speech2Text, batches: Sequence[Sequence[Request]], holds_for: Mapping[str, Any], repeats: int = 3
) -> Calibration:
    """Measure the real-time factor over a grid of sparsities.

    The sparsities take turns within each repeat, so that a busy moment of the machine does not fall on one of them;
    medians are kept.

    Args:
        model: gated model, with its budget chosen; its sparsity is left at the last one measured.
        batches: utterances to decode (a handful), those of a batch together.
        holds_for: what the times depend on, for the record.
        repeats: rounds over the grid.
    """
    seconds = sum(len(r.speech) for batch in batches for r in batch) / model.preprocessor_conf["fs"]
    measured: dict[float, list[float]] = {s: [] for s in GRID}
    for _ in tqdm(range(repeats), desc="calibration", unit="round"):
        for sparsity in GRID:
            model.set_sparsity(sparsity)
            start = time.perf_counter()
            for batch in batches:
                model.decode_batch(batch)
            measured[sparsity].append((time.perf_counter() - start) / seconds)
    rtf = tuple(statistics.median(measured[s]) for s in GRID)
    return Calibration(GRID, rtf, dict(holds_for))


def load_or_calibrate(
    path: Path, model: Speech2Text, batches: Sequence[Sequence[Request]], options: Mapping[str, Any]
) -> Calibration:
    """Read a calibration of this machine and these options; measure and keep it if there is none.

    Args:
        path: where it is kept.
        model: gated model, with its budget chosen.
        batches: utterances to decode (a handful), those of a batch together.
        options: what else the times depend on: checkpoint, device, beam, … (values that JSON knows).

    Raises:
        ValueError: if the file holds something else.
    """
    here = {"machine": cpu_name(), "threads": torch.get_num_threads(), **options}
    if path.is_file():
        try:
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = Calibration(tuple(known["sparsities"]), tuple(known["rtf"]), known.get("holds_for", {}))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a calibration ({error}); delete it to measure anew") from None
        if found.holds_for == here:  # of files of earlier versions nobody knows
            return found
    found = calibrate(model, batches, here)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # other processes may be at it too
    unfinished.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return found
