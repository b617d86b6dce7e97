"""How the models of an experiment were trained: batches and minutes, from ESPnet's log.

A control proves something only if it was trained for the same minutes as the gated model, so both stand on the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_gated.analysis.table import percent, relative

LOG_FILE = "train.log"
HEADER = ("trained", "decoded as", "from", "epochs", "batches", "minutes", "processes", "seed")
LEGEND = "Minutes of its epochs without validation, by the clock: they compare trainings that ran beside each other."
CONTROL = "control"
_CONFIG_FILE = "config.yaml"
_EPOCH = re.compile(
    r"^\[[^\]\s]*?(?::\d+/(?P<processes>\d+))?\].* (?P<epoch>\d+)epoch results: \[train\].*?"
    r", time=(?P<time>[^=]*), total_count=(?P<batches>\d+)",
    re.MULTILINE,
)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400, "year": 365 * 86400}
_AMOUNT = re.compile(rf"([\d.]+) ({'|'.join(_SECONDS)})s?\b")


@dataclass(frozen=True)
class Training:
    """One model's training.

    Attributes:
        name: its directory, relative to the experiment.
        systems: what was decoded with it, without what they say of the search (``+ctc``).
        start: file that its parameters come from; empty for none.
        epochs, batches: how many; batches are those of one process.
        minutes: of all epochs; ``None`` where the log lacks some.
        processes: that shared each batch.
        seed: as configured; ``None`` where that is not known.
    """

    name: str
    systems: tuple[str, ...]
    start: str
    epochs: int
    batches: int
    minutes: float | None
    processes: int
    seed: int | None

    @property
    def cells(self) -> list[str]:
        """Of the table under :data:`HEADER`."""
        minutes = "-" if self.minutes is None else f"{self.minutes:.1f}"
        seed = "-" if self.seed is None else str(self.seed)
        counts = [str(self.epochs), str(self.batches), minutes, str(self.processes), seed]
        return [self.name, ", ".join(self.systems), self.start or "-", *counts]


def read_trainings(expdir: str | Path, decodings: Mapping[str, str]) -> list[Training]:
    """The trainings whose logs lie above decoding directories.

    Args:
        expdir: experiment directory.
        decodings: decoding directory, relative to it → system.
    """
    systems: dict[str, dict[str, None]] = {}
    for decoding, system in decodings.items():
        for folder in Path(decoding).parents:
            if (Path(expdir) / folder / LOG_FILE).is_file():
                systems.setdefault(folder.as_posix(), {})[system.partition("+")[0]] = None
                break
    found = (read_training(Path(expdir) / name, name, tuple(names)) for name, names in systems.items())
    return [training for training in found if training is not None]


def read_training(directory: Path, name: str, systems: tuple[str, ...]) -> Training | None:
    """What a training's log says; ``None`` where it holds no whole epoch."""
    log = (directory / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    epochs = {int(match["epoch"]): match for match in _EPOCH.finditer(log)}  # the last time that each was trained
    if not epochs:
        return None
    last = max(epochs)
    whole = len(epochs) == last
    config = directory / _CONFIG_FILE
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    seed = re.search(r"^seed: (\d+)$", text, re.MULTILINE)
    start = re.search(r"^init_param:\n- ([^\s:]+)", text, re.MULTILINE)
    return Training(
        name=name,
        systems=systems,
        start=start[1] if start else "",
        epochs=last,
        batches=int(epochs[last]["batches"]),
        minutes=sum(_minutes(match["time"]) for match in epochs.values()) if whole else None,
        processes=int(epochs[last]["processes"] or 1),
        seed=int(seed[1]) if seed else None,
    )


def against_control(trainings: list[Training]) -> list[str]:
    """For each training from the control's start, what it took in comparison."""
    control = next((t for t in trainings if CONTROL in t.systems), None)
    if control is None:
        return []
    lines = []
    for training in trainings:
        if training is control or training.start != control.start or training.processes != control.processes:
            continue
        batches = percent(relative(training.batches, control.batches))
        minutes = percent(relative(training.minutes, control.minutes))
        lines.append(f"{training.name} against its control, {control.name}: batches {batches}, minutes {minutes}.")
    return lines


def _minutes(text: str) -> float:
    """``1 hour, 2 minutes and 3.5 seconds``, as ESPnet writes it."""
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _AMOUNT.findall(text)) / 60
