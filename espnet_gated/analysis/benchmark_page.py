"""Tables of the benchmark's measurements, for the console and as a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from espnet_gated.analysis.table import Row, markdown_table, number, text_table

Measured = Mapping[str, Any]
"""What ``espnet_gated.bin.benchmark`` writes: ``environment``, ``settings``, ``rows``, ``details``."""

HEADER = (
    *("system", "precision", "skipped enc / dec", "encode s", "ms a step", "total s", "GFLOPs", "peak MiB"),
    *("× ESPnet", "a step × ESPnet", "× dense", "ideal", "of ideal", "gates"),
)
BATCH_HEADER = ("system", "precision", "skipped enc / dec", "batch", "s an utterance", "× one by one")
NAMES = {"espnet": "ESPnet", "one_pass": "ours, CTC in every step", "dense": "ours", "gated": "ours, gated"}
EXPLANATION = """\
Random weights of each shape and random audio; every hypothesis grows for a fixed number of steps, so all systems do
the same work. The systems take turns in one run; times are medians over the runs, lowest and highest in brackets. *a
step* is the search's time divided by its steps; *× ESPnet* and *× dense* compare whole utterances (encoder and search)
with ESPnet's own path and with ours in the same precision; *ideal* is what would be gained if closed modules took no
time and all else stayed as it is (each module's share of time measured in a dense decode of the same run), *of ideal*
how much of it was reached. *gates* is the share of time spent on deciding them. Skipped modules are drawn at random
for every utterance within its budget, as untrained predictors would choose the same for all, unless a table names
another budget: «exact» looks for the best set by the predictor's logits, which takes longer. GFLOPs are counted, not
computed. Peak memory is what loading and decoding added to the process. Where a table says «4 to 10 s», the utterances
of a batch are spread evenly over that range and each is encoded at its real length (ESPnet pads each to the longest);
a batch of one is as long as their mean. Where a table says «CTC 0.3», CTC has this weight beside attention: ESPnet's
scores every step, ours the hypotheses that end, unless a row says otherwise. CTC's posteriors are made once for an
utterance, and their time is spread over its steps; its sums over alignments are not among the GFLOPs.
"""


def console_table(measured: Measured) -> str:
    """All tables of one run as plain text."""
    return "\n\n".join(f"{title}\n{text_table(head, rows)}" for title, head, rows in _tables(measured))


def markdown_page(runs: Sequence[Measured]) -> str:
    """A page of one or more runs."""
    lines = ["# Decoding speed", "", EXPLANATION]
    for text, some in groupby(runs, _machine):
        lines += [text, ""]
        for run in some:
            for title, head, rows in _tables(run):
                lines += [f"## {title}", "", markdown_table(head, rows, 2), ""]
            lines += [f"`{_command(run)}`", ""]
            if run.get("left_out"):
                lines += [f"Left out, as oneDNN takes none on this processor: {', '.join(run['left_out'])}.", ""]
    return "\n".join(lines)


def _tables(measured: Measured) -> Iterator[tuple[str, Row, list[Row]]]:
    both = list(zip(measured["rows"], measured["details"], strict=True))
    steps, ctc = measured["settings"]["steps"], measured["settings"].get("ctc_weight", 0.0)
    budget = measured["settings"].get("budget", "random")
    for seconds, case in groupby(both, _duration):
        pairs = list(case)
        first = pairs[0][0]
        title = f"{first['arch']}, {seconds} s, beam {first['beam_size']}, {steps} steps, {first['device']}"
        title += f", CTC {ctc:g}" if ctc else ""
        title += f", budget {budget}" if budget != "random" else ""
        sizes = sorted({row["batch_size"] for row, _ in pairs})
        for size in sizes:
            some = [_cells(row, detail) for row, detail in pairs if row["batch_size"] == size]
            yield title if sizes == [1] else f"{title}, batch of {size}", HEADER, some
        if len(sizes) > 1:
            rows = [row for row, _ in pairs]
            yield f"{title}, by batch size", BATCH_HEADER, _by_batch_size(rows)


def _duration(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str:
    """``30``, or ``4 to 10`` for unequal utterances."""
    row, detail = pair
    shortest, longest = detail.get("seconds", (row["seconds"],) * 2)  # earlier files have equal ones only
    return f"{shortest:g}" if shortest == longest else f"{shortest:g} to {longest:g}"


def _cells(row: Mapping[str, Any], detail: Mapping[str, Any]) -> Row:
    gain, ideal = row["speedup_vs_dense"], row["ideal_speedup_vs_dense"]
    spread = detail["spread"]
    return [
        *_system(row),
        _spread(row["encode_s"], spread["encode_s"], 2),
        _spread(row["step_ms"], spread["step_ms"], 1),
        _spread(row["total_s"], spread["total_s"], 2),
        number(row["gflops"]),
        number(row["peak_mib"], 0),
        number(row["speedup_vs_espnet"], 2),
        number(detail["step_speedup_vs_espnet"], 2),
        number(gain, 2),
        number(ideal, 2),
        "-" if gain is None or ideal is None else f"{100 * gain / ideal:.0f} %",
        f"{100 * detail['gates_share']:.2f} %" if row["system"] == "gated" else "-",
    ]


def _by_batch_size(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    single: dict[Any, float] = {}
    table: list[Row] = []
    for row in sorted(rows, key=lambda r: r["batch_size"]):
        each = row["total_s"] / row["batch_size"]
        if row["batch_size"] == 1:
            single[tuple(_system(row))] = each
        alone = single.get(tuple(_system(row)))
        gain = None if alone is None else alone / each
        table.append([*_system(row), str(row["batch_size"]), number(each, 3), number(gain, 2)])
    return table


def _system(row: Mapping[str, Any]) -> list[str]:
    skipped = f"{row['sparsity_encoder']:g} / {row['sparsity_decoder']:g}"
    return [NAMES.get(row["system"], row["system"]), row["dtype"], skipped]


def _spread(value: float, ends: Sequence[float], digits: int) -> str:
    return f"{value:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _machine(run: Measured) -> str:
    known = run["environment"]
    versions = ", ".join(f"{name} {value}" for name, value in known["versions"].items())
    machine = known["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {known['threads']} threads; {machine['system']}; {versions}."


def _command(run: Measured) -> str:
    """The command without the place of the program."""
    return re.sub(r"^\S*benchmark\.py", "python -m espnet_gated.bin.benchmark", run["environment"]["command"])
