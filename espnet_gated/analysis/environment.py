"""The environment block of the report: what made the numbers, and how scores are taken."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_gated.analysis.experiment import Decoding, Experiment
from espnet_gated.analysis.page import Page
from espnet_gated.analysis.results import TIMED_DIFFERENTLY, in_batches, timed_differently, unsteady
from espnet_gated.analysis.scoring import ALL
from espnet_gated.analysis.training import HEADER, LEGEND, Training, against_control

_LEFT_OUT = ("command", "system", "sparsity_encoder", "sparsity_decoder", "versions")


def training_section(page: Page, trainings: Sequence[Training]) -> None:
    """Batches and minutes of the models that were decoded; the control's beside them."""
    if trainings:
        page.section("Training")
        page.table(HEADER, [t.cells for t in trainings], left=3)
        page.text(" ".join([*against_control(list(trainings)), LEGEND]))


def environment_section(page: Page, experiment: Experiment) -> None:
    """Versions, machine, settings, seeds; normalisation and signatures; commands."""
    page.section("Environment and scoring")
    rows = settings(experiment.decodings)
    if rows:
        page.table(["setting", "value"], rows, left=1, text=(1,))
    else:
        page.text("The decodings recorded no environment.")
    for test_set in experiment.sets:
        if timed_differently(d.decode_meta for d in test_set.decodings):
            page.text(f"{test_set.title}: {TIMED_DIFFERENTLY}")
        tops = [row for d in test_set.decodings for (task, *_), row in d.rows.items() if task == ALL]
        for said in (in_batches(d.batch_size for d in test_set.decodings), unsteady(tops)):
            if said:
                page.text(f"{test_set.title}: {said}")
    if lines := scoring(experiment.decodings):
        page.heading("Scoring")
        page.bullets(lines)
    commands = [(d.name, d.decode_meta["command"]) for d in experiment.decodings if d.decode_meta.get("command")]
    if commands:
        page.heading("Commands")
        texts = [f"# {name}\n{c if isinstance(c, str) else shlex.join(map(str, c))}" for name, c in commands]
        page.code("\n".join(texts))


def settings(decodings: Sequence[Decoding]) -> list[list[str]]:
    """(setting, value); a value that not all decodings share is followed by the systems that have it."""
    flat = [(d, _flat(d.decode_meta)) for d in decodings if d.decode_meta]
    rows = []
    for key in dict.fromkeys(key for _, meta in flat for key in meta):
        values: dict[str, list[Decoding]] = {}
        for d, meta in flat:
            if key in meta:
                values.setdefault(meta[key], []).append(d)
        if len(values) == 1 and len(next(iter(values.values()))) == len(flat):
            rows.append([key, next(iter(values))])
        else:
            parts = (f"{value} ({_names(having, decodings)})" for value, having in values.items())
            rows.append([key, "; ".join(parts)])
    return rows


def _names(some: Sequence[Decoding], decodings: Sequence[Decoding]) -> str:
    """Systems by name; by label those of which only some decodings are meant."""
    names: dict[str, None] = {}
    for d in some:
        whole = all(other in some for other in decodings if other.system == d.system)
        names[d.system if whole else d.label] = None
    return ", ".join(names)


def scoring(decodings: Sequence[Decoding]) -> list[str]:
    """How the scores were taken, each rule and signature once."""
    lines: dict[str, None] = {}
    for d in decodings:
        meta = d.score_meta
        if rule := meta.get("normalization"):
            lines[f"WER and CER on normalised text, `{rule.get('name')}`: {rule.get('rule')}."] = None
        for name, signature in (meta.get("signatures") or {}).items():
            lines[f"{name}: `{signature}`"] = None
        if bootstrap := meta.get("bootstrap"):
            lines["Bootstrap: " + ", ".join(f"{key} {value}" for key, value in bootstrap.items()) + "."] = None
    return list(lines)


def _flat(meta: Mapping[str, Any]) -> dict[str, str]:
    versions = meta.get("versions") or {}
    found = {str(name): str(value) for name, value in versions.items()}
    for key, value in meta.items():
        if key in _LEFT_OUT or value is None:
            continue
        found[key] = ", ".join(str(v) for v in value.values()) if isinstance(value, dict) else str(value)
    return found
