"""Gather the scores of an experiment directory into ``results.json`` and ``RESULTS.md``."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_gated.analysis import budget_table, training
from espnet_gated.analysis.budget_table import read_budgets
from espnet_gated.analysis.files import files_below
from espnet_gated.analysis.scoring import ALL, META_FILE, SCORE_FILE, write_json
from espnet_gated.analysis.sparsity_table import sparsity_tables
from espnet_gated.analysis.table import markdown_table, number, pair_name, score_digits, text_table, with_interval
from espnet_gated.machine import cpu_name

RESULTS_FILE = "results.json"
REPORT_FILE = "RESULTS.md"
BASELINE = "espnet"
TIMED_BY = ("machine", "threads", "processes", "device", "batch_size", "beam_size")
"""What decodings must share for their latencies to be compared."""
TIMED_DIFFERENTLY = "the systems were timed under different conditions: do not compare their latency."
UNSTEADY = 1.5
"""Mean over median latency from which on the mean is not to be trusted."""
OTHER_UTTERANCES = "the systems were decoded on different utterances: decode those anew that are of an earlier set."
_FIRST = ("espnet", "dense", "control")
_PACKAGES = ("espnet", "torch", "espnet_gated")

Row = dict[str, Any]

MAIN_HEADER = (
    "system",
    "sparsity enc/dec",
    "skipped enc/dec",
    "WER [95 %]",
    "BLEU [95 %]",
    "chrF",
    "GFLOPs enc",
    "dec",
    "total",
    "latency s",
    "RTF",
    "speed-up",
)
LEGEND = f"""\
- sparsity: the share asked to be skipped, in the encoder / in the decoder; skipped: the share
  that was, mean over utterances.
- WER in percent over the ASR utterances, BLEU and chrF over the ST utterances; brackets hold
  bootstrap 95 % intervals over utterances (not over speakers: with few of those another set of
  voices may differ by more).
- `+ctc`: with CTC beside the attention decoder, for recognition; `_single`: one model for each
  sparsity, where `gated` is one for all of them.
- GFLOPs: measured around the decoding of an utterance, mean over the utterances measured.
- latency: mean seconds an utterance takes (those of a batch share its time equally); RTF: total
  latency over total audio; speed-up: mean latency of `{BASELINE}` over that of the row, on the same utterances.
- `-`: not measured, or does not apply."""

# The tables with one column per language: row name, title, digits (None: three figures; ...: by number of utterances).
_BY_LANGUAGE = (
    ("wer", "WER, % (lower is better)", ...),
    ("cer", "CER, % (lower is better)", ...),
    ("bleu", "BLEU (higher is better)", ...),
    ("chrf", "chrF (higher is better)", ...),
    ("nll", "True words, nats an utterance (lower is better)", 3),
    ("skipped_encoder", "Skipped in the encoder", 2),
    ("skipped_decoder", "Skipped in the decoder", 2),
    ("gflops", "GFLOPs an utterance", None),
    ("rtf", "RTF", 3),
)


_IDENTITY = (
    *("corpus", "set", "task", "src", "tgt", "system"),
    *("sparsity_encoder", "sparsity_decoder"),
)
_NEEDED = {
    *_IDENTITY,
    *("skipped_encoder", "skipped_decoder", "wer", "cer", "bleu", "chrf", "n"),
    *("gflops", "gflops_encoder", "gflops_decoder", "latency_s", "rtf"),
}


class ResultsError(ValueError):
    """Scores that are missing, broken or contradict each other."""


@dataclass
class Results:
    """All rows below an experiment directory and how they were made.

    ``score_metas`` and ``decode_metas`` map a decoding directory (relative to the experiment) to
    the content of its ``score_meta.json`` and ``decode_meta.json``; ``budgets`` are tables of
    sparsity asked and reached: (heading, cells); ``trainings`` are those of the models decoded.
    """

    rows: list[Row] = field(default_factory=list)
    score_metas: dict[str, Row] = field(default_factory=dict)
    decode_metas: dict[str, Row] = field(default_factory=dict)
    budgets: list[tuple[str, list[list[str]]]] = field(default_factory=list)
    trainings: list[training.Training] = field(default_factory=list)

    def write(self, expdir: str | Path) -> None:
        """Write ``results.json`` and ``RESULTS.md``."""
        expdir = Path(expdir)
        write_json(expdir / RESULTS_FILE, self.rows)
        temp = expdir / f".{REPORT_FILE}.tmp"
        temp.write_text(report(self), encoding="utf-8")
        os.replace(temp, expdir / REPORT_FILE)


def gather(expdir: str | Path) -> Results:
    """Read every ``score.json`` below a directory; the rows come sorted and with ``speedup``.

    Raises:
        ValueError: when there is none, one is broken, or two hold the same row.
    """
    expdir = Path(expdir)
    results = Results()
    seen: dict[tuple[Any, ...], Path] = {}
    for file in files_below(expdir, SCORE_FILE):
        name = file.parent.relative_to(expdir).as_posix()
        for row in _read_rows(file):
            if (first := seen.setdefault(_identity(row), file)) != file:
                what = f"{row['system']} on {row['corpus']}/{row['set']}"
                raise ResultsError(
                    f"{file}: holds the same rows as {first} ({what}); remove one of the two "
                    "or give them different --system names"
                )
            results.rows.append({**row, "decode_dir": name})
        results.score_metas[name] = _read_object(file.with_name(META_FILE))
        results.decode_metas[name] = _read_object(file.with_name("decode_meta.json"))
    if not results.rows:
        raise ResultsError(f"{expdir}: no {SCORE_FILE} below; score first")
    results.rows.sort(key=_order)
    _add_speedup(results.rows)
    results.budgets = read_budgets(expdir)
    results.trainings = training.read_trainings(expdir, {row["decode_dir"]: row["system"] for row in results.rows})
    return results


def main_table(rows: Iterable[Row], markdown: bool = False) -> str:
    """The table of systems, one row each, over all utterances of a set."""
    cells = [_main_cells(row) for row in rows]
    return (markdown_table if markdown else text_table)(MAIN_HEADER, cells)


def overall(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """(corpus, set) -> its rows over all languages and tasks."""
    sets: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["task"] == ALL:
            sets.setdefault((row["corpus"], row["set"]), []).append(row)
    return sets


def language_tables(rows: Iterable[Row]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Tables of one set with systems as rows and languages as columns: (title, header, cells)."""
    rows = [row for row in rows if row["task"] != ALL]
    tables = []
    for task in sorted({row["task"] for row in rows}):
        of_task = [row for row in rows if row["task"] == task]
        columns = sorted({_pair(row) for row in of_task}, key=lambda pair: (pair[0] != ALL, pair))
        systems = list(dict.fromkeys(label(row) for row in of_task))
        cell = {(label(row), _pair(row)): row for row in of_task}
        for name, title, digits in _BY_LANGUAGE:
            if all(row.get(name) is None for row in of_task):
                continue
            counted = "n_flops" if name == "gflops" else "n"
            sizes = {p: max(int(row.get(counted) or 0) for row in of_task if _pair(row) == p) for p in columns}
            header = ("system", *(f"{pair_name(*p)} (n={sizes[p]})" for p in columns))
            behind = {p: score_digits(sizes[p]) if digits is ... else digits for p in columns}
            cells = [[s, *(number(cell.get((s, p), {}).get(name), behind[p]) for p in columns)] for s in systems]
            tables.append((f"{task.upper()}: {title}", header, cells))
    return tables


def label(row: Row) -> str:
    """Name of a system with the sparsity it was asked for."""
    asked = _two(row["sparsity_encoder"], row["sparsity_decoder"])
    return row["system"] if not row.get("sparsity") else f"{row['system']} {asked}"


def report(results: Results) -> str:
    """The text of ``RESULTS.md``."""
    parts = ["<!-- Generated by python -m espnet_gated.bin.results -->", "# RESULTS"]
    parts.append(_environment(results))
    for (corpus, name), rows in overall(results.rows).items():
        sizes = ", ".join(sorted({str(row["n"]) for row in rows}))
        counted = ", ".join(sorted({str(row["n_flops"]) for row in rows if row.get("n_flops")}))
        flops = f"; GFLOPs of {counted}" if counted else ""
        parts.append(f"## {corpus}/{name}: all languages and tasks ({sizes} utterances{flops})")
        parts.append(main_table(rows, markdown=True))
    parts.append(LEGEND)
    for corpus, name in overall(results.rows):
        parts.append(f"## {corpus}/{name}: by task and language")
        rows = [r for r in results.rows if (r["corpus"], r["set"]) == (corpus, name)]
        for title, header, cells in sparsity_tables(rows, references=_FIRST[::-1]):
            parts += [f"### {title}", markdown_table(header, cells, n_left=2)]
        for title, header, cells in language_tables(rows):
            parts += [f"### {title}", markdown_table(header, cells)]
    for heading, cells in results.budgets:
        parts += [f"## {heading}", markdown_table(budget_table.HEADER, cells), budget_table.LEGEND]
    if results.trainings:
        cells = [t.cells for t in results.trainings]
        parts += ["## Training", markdown_table(training.HEADER, cells, n_left=3)]
        parts.append(" ".join([training.LEGEND, *training.against_control(results.trainings)]))
    parts.append(_scoring_section(results))
    parts.append(_commands(results))
    return "\n\n".join(parts) + "\n"


def timed_differently(metas: Iterable[Row]) -> bool:
    """Whether decodings differ in what their latencies depend on, by their ``decode_meta.json``."""
    return len({tuple(str(meta.get(key)) for key in TIMED_BY) for meta in metas}) > 1


def in_batches(sizes: Iterable[int]) -> str | None:
    """What to know of the times of decodings in batches of such sizes; ``None`` where each utterance had its own."""
    many = sorted({size for size in sizes if size > 1})
    if not many:
        return None
    said = " and ".join(map(str, many))
    return f"decoded in batches of {said}: latency is a batch's time over its utterances, not what one of them waits."


def unsteady(rows: Iterable[Row]) -> str | None:
    """Which systems' mean latency is far above its median; ``None`` where no one's is."""
    found = [
        f"{label(row)} {row['latency_s'] / row['latency_median_s']:.1f} times"
        for row in rows
        if row["latency_s"] and row.get("latency_median_s") and row["latency_s"] > UNSTEADY * row["latency_median_s"]
    ]
    if not found:
        return None
    return f"mean latency is far above its median (a busy machine, or a few long utterances): {', '.join(found)}."


def _environment(results: Results) -> str:
    """ESPnet's environment block, from what decoding wrote or else from this process."""
    metas = list(results.decode_metas.values())
    lines = [f"- date: `{datetime.datetime.now().astimezone().strftime('%a %b %d %H:%M:%S %Z %Y')}`"]
    versions = [meta.get("versions") or {} for meta in metas]
    here = " ".join(sys.version.split())
    lines.append(_line("python version", [v.get("python") for v in versions], here))
    for package in _PACKAGES:
        seen = [v.get(package) for v in versions]
        lines.append(_line(f"{package} version", seen, _installed(package)))
    lines.append(_line("machine", [_machine(m.get("machine")) for m in metas], cpu_name()))
    lines.append(_line("threads", [m.get("threads") for m in metas], None))
    lines.append(_line("decoders side by side", [m.get("processes") for m in metas], None))
    lines.append(_line("checkpoint", [m.get("checkpoint") for m in metas], None))
    lines.append(_line("beam size", [m.get("beam_size") for m in metas], None))
    lines.append(_line("batch size", [m.get("batch_size") for m in metas], None))
    every = [n for m in metas if (n := m.get("latency_every")) is not None]
    lines.append(_line("latency of every n-th utterance of a task, decoded alone", every, None))
    lines.append(_line("seed", [m.get("seed") for m in metas], None))
    for corpus, name in overall(results.rows):
        of_set = {r["decode_dir"] for r in results.rows if (r["corpus"], r["set"]) == (corpus, name)}
        if timed_differently(results.decode_metas[d] for d in of_set):
            lines.append(f"- **{corpus}/{name}: {TIMED_DIFFERENTLY}**")
        tops = [r for r in results.rows if r["task"] == ALL and r["decode_dir"] in of_set]
        batches = in_batches(int(results.decode_metas[d].get("batch_size") or 1) for d in of_set)
        other = OTHER_UTTERANCES if len({r["n"] for r in tops}) > 1 else None
        lines += [f"- **{corpus}/{name}: {said}**" for said in (batches, unsteady(tops), other) if said]
    return "\n".join(["## Environments", *(line for line in lines if line)])


def _scoring_section(results: Results) -> str:
    lines = ["## Scoring"]
    rules = {
        f"- WER and CER on normalised text, `{m['normalization']['name']}`: {m['normalization']['rule']}."
        for m in results.score_metas.values()
        if "normalization" in m
    }
    signatures = {
        f"- {name}: `{signature}`"
        for m in results.score_metas.values()
        for name, signature in m.get("signatures", {}).items()
    }
    return "\n".join([*lines, *sorted(rules), *sorted(signatures)])


def _commands(results: Results) -> str:
    lines = []
    for name, meta in results.decode_metas.items():
        command = meta.get("command")
        if command:
            text = command if isinstance(command, str) else shlex.join(map(str, command))
            lines.append(f"# {name}\n{text}")
    if not lines:
        return "## Commands\nnot recorded"
    return "\n".join(["## Commands", "```sh", *lines, "```"])


def _main_cells(row: Row) -> list[str]:
    speedup, digits = row.get("speedup"), score_digits(row["n"])
    return [
        row["system"],
        _two(row["sparsity_encoder"], row["sparsity_decoder"]),
        _two(row["skipped_encoder"], row["skipped_decoder"], digits=2),
        with_interval(row["wer"], row.get("wer_ci"), digits),
        with_interval(row["bleu"], row.get("bleu_ci"), digits),
        number(row["chrf"], digits),
        number(row["gflops_encoder"], None),
        number(row["gflops_decoder"], None),
        number(row["gflops"], None),
        number(row["latency_s"], None),
        number(row["rtf"], 3),
        "-" if speedup is None else f"{speedup:.2f}x",
    ]


def _two(encoder: float | None, decoder: float | None, digits: int | None = None) -> str:
    if encoder is None and decoder is None:
        return "-"
    forms = ["-" if v is None else (f"{v:g}" if digits is None else f"{v:.{digits}f}") for v in (encoder, decoder)]
    return "/".join(forms)


def _add_speedup(rows: list[Row]) -> None:
    """Latency of the ``espnet`` row over that of each row, where both saw as many utterances."""
    place = ("corpus", "set", "task", "src", "tgt", "n")
    base = {tuple(r[k] for k in place): r["latency_s"] for r in rows if r["system"] == BASELINE}
    for row in rows:
        reference = base.get(tuple(row[k] for k in place))
        known = reference is not None and row["latency_s"]
        row["speedup"] = reference / row["latency_s"] if known else None


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _IDENTITY)


def _order(row: Row) -> tuple[Any, ...]:
    """Set, then overall before tasks before languages, then espnet, dense, control, others; `+ctc` last."""
    system, _, search = row["system"].partition("+")
    rank = _FIRST.index(system) if system in _FIRST else len(_FIRST)
    level = (row["task"] != ALL) + (row["src"] != ALL)
    return (
        (row["corpus"], row["set"], level, row["task"], row["src"], row["tgt"], search, rank)
        + (row.get("sparsity") or 0.0, row["sparsity_encoder"] or 0.0)
        + (system,)
    )


def _pair(row: Row) -> tuple[str, str]:
    return row["src"], row["tgt"]


def _read_rows(file: Path) -> list[Row]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"{file}: not JSON: {error}; score again") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ResultsError(f"{file}: must be a list of rows; score again")
    for row in rows:
        if missing := _NEEDED - row.keys():
            raise ResultsError(f"{file}: a row lacks {', '.join(sorted(missing))}; score again")
    return rows


def _read_object(file: Path) -> Row:
    """A JSON object; empty where the file is missing, as that only costs the report a line."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"{file}: not JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _line(name: str, seen: Sequence[Any], fallback: str | None) -> str:
    """``- name: `a`, `b` `` with each value once; empty where nothing is known."""
    values = list(dict.fromkeys(str(value) for value in seen if value is not None))
    if values:
        return f"- {name}: " + ", ".join(f"`{value}`" for value in values)
    return f"- {name}: `{fallback}` (of this report; decoding recorded none)" if fallback else ""


def _machine(machine: Any) -> str | None:
    if isinstance(machine, dict):
        return ", ".join(f"{value}" for value in machine.values())
    return machine


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
