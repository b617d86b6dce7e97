"""The report of an experiment: frontier, gates, findings, on one self-contained page."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_gated.analysis import budget_table, gate_sections
from espnet_gated.analysis import true_words as true_words_pairs
from espnet_gated.analysis.budget_table import read_budgets
from espnet_gated.analysis.comparisons import BETTER, SAME, Comparison, Comparisons, compare
from espnet_gated.analysis.environment import environment_section, training_section
from espnet_gated.analysis.experiment import REFERENCES, TASKS, Decoding, Experiment, TestSet, read_experiment
from espnet_gated.analysis.findings import OPPOSITE, SEEN, Finding, published_findings
from espnet_gated.analysis.frontier import frontier
from espnet_gated.analysis.headline import PRICE_HEADER, base_line, difference, in_short, price_rows, rival_lines
from espnet_gated.analysis.metrics import RESAMPLES
from espnet_gated.analysis.page import Cell, Mark, Page
from espnet_gated.analysis.plots import BARS, latency_figure, png, style
from espnet_gated.analysis.results import label, language_tables
from espnet_gated.analysis.sparsity_table import search_of, sparsity_tables
from espnet_gated.analysis.speed import HEADER as SPEED_HEADER
from espnet_gated.analysis.speed import STATS_FILE, speed_row
from espnet_gated.analysis.table import number, percent, relative, score_digits, text_table, with_interval
from espnet_gated.analysis.true_words import compare_true_words
from espnet_gated.analysis.view import View

METRIC_NAMES = {"wer": "WER", "cer": "CER", "bleu": "BLEU", "chrf": "chrF", "nll asr": "ASR", "nll st": "ST"}
PAIRED = "Two systems on the same utterances: paired bootstrap over utterances, 95 % intervals. The verdict is on b."
_TONES = {SEEN: "good", OPPOSITE: "bad"}


@dataclass(frozen=True)
class Report:
    """The page, and its main results in a few lines for the terminal."""

    page: Page
    summary: Sequence[str]


def make_report(expdir: str | Path, gated: str | None = None, resamples: int = RESAMPLES) -> Report:
    """Read an experiment and make its report.

    Args:
        expdir: holds the scored decoding directories somewhere below.
        gated: name of the gated system the report is about; ``None``: ``gated``, or the one with most sparsities.
        resamples: of the paired bootstrap.

    Raises:
        ValueError: for missing or broken scores or statistics, naming the file.
    """
    experiment = read_experiment(expdir)
    if gated is not None and not any(s.gated_system(gated) == gated for s in experiment.sets):
        known = sorted({d.system for d in experiment.decodings if d.series != "none"})
        raise ValueError(
            f"no system {gated!r} with pruned decodings, only {', '.join(known) or 'dense ones'} (--gated)"
        )
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    names = ", ".join(f"{s.title} ({s.n} utterances)" for s in experiment.sets)
    page = Page("Gated speech-to-text: the price of sparsity", f"{names} · {date}")
    summary: list[str] = []
    with style():
        for test_set in experiment.sets:
            summary += _one_set(page, experiment, test_set, test_set.gated_system(gated), resamples)
    for name in experiment.unscored:
        summary.append(f"{name}: decoded but not scored, left out")
    training_section(page, experiment.trainings)
    environment_section(page, experiment)
    return Report(page, summary)


def _one_set(page: Page, experiment: Experiment, test_set: TestSet, gated: str | None, resamples: int) -> list[str]:
    prefix = f"{test_set.title}: " if len(experiment.sets) > 1 else ""
    comparisons = compare(experiment, test_set, gated, resamples)
    findings = published_findings(test_set, gated, comparisons.done) if gated else []
    true_words = compare_true_words(test_set, gated, resamples)
    lines = in_short(test_set, gated, comparisons, findings)
    lines[-1:-1] = rival_lines(true_words, " of the likelihood of the true words")
    view = View(test_set, gated) if gated else None
    prices = price_rows(view, comparisons) if view else []
    page.section(f"{prefix}In short")
    page.short(lines)
    against = f" against {base_line(view.reference, view.cost_base)}" if view and view.reference else ""
    if prices:
        page.heading(f"{gated}{against}")
        page.table(PRICE_HEADER, prices, left=2)
    _systems(page, prefix, test_set, gated)
    _by_stack(page, prefix, test_set)
    _comparisons(page, prefix, comparisons)
    if true_words:
        page.section(f"{prefix}{true_words_pairs.TITLE}")
        page.text(true_words_pairs.LEGEND + PAIRED)
        _paired_tables(page, true_words)
    if gated:
        gate_sections.add_all(page, prefix, test_set, gated)
        _budgets(page, prefix, read_budgets(experiment.expdir, test_set.name))
        _findings(page, prefix, findings)
    _latency(page, prefix, test_set)
    summary = [f"{prefix}{line}" for line in lines]
    if prices:
        summary.append(f"{prefix}{gated}{against}:\n{text_table(PRICE_HEADER, prices, n_left=2)}")
    return summary


def _systems(page: Page, prefix: str, test_set: TestSet, gated: str | None) -> None:
    page.section(f"{prefix}Frontier")
    figure = frontier(test_set, gated)
    if figure is None:
        page.text("Neither latency nor FLOPs were measured, so there is no frontier to draw.")
    else:
        page.figure(
            f"{test_set.title} frontier",
            png(figure),
            "Quality against its price, mean over the utterances of the task. Bars: 95 % bootstrap interval over "
            "utterances. Numbers: sparsity asked (one number: of every pruned stack; two: encoder/decoder). "
            "● both stacks pruned, ▼ decoder, ▲ encoder. Axes are logarithmic where values span "
            "much: prices by their ratio, scores by their distance from the best there is.",
        )
    base = test_set.reference(search_of(gated or ""))
    against = f"Δ: against {base.label}; WER, GFLOPs and latency relative, BLEU absolute." if base else ""
    header = ["system", "reached enc/dec", "WER [95 %]", "Δ", "BLEU [95 %]", "Δ", "GFLOPs", "Δ", "Δ decoder"]
    page.table([*header, "latency", "Δ"], [_system_row(d, base) for d in test_set.decodings])
    counts = {int(n) for d in test_set.decodings if (n := d.value("n_flops"))}
    of = f"FLOPs are means over {' or '.join(map(str, sorted(counts)))} utterances of both tasks. " if counts else ""
    page.text(f"Latency and FLOPs by task are in the figure, here they are over all tasks. {of}{against}", soft=True)
    counted = {t for t in TASKS for d in test_set.decodings if d.value("gflops", t) is not None}
    scored = {t for t in TASKS for d in test_set.decodings if d.value("n", t)}
    if counted and counted != scored:
        page.text(f"FLOPs were measured on {counted.pop().upper()} utterances only.")
    rows = [row for d in test_set.decodings for row in d.rows.values()]
    tables = [t for t in language_tables(rows) if ": WER" in t[0] or ": BLEU" in t[0]]
    names = {label(row): d.label for d in test_set.decodings for row in d.rows.values()}
    page.side_by_side(
        [
            (title, [name.partition(" (")[0] for name in columns], [[names[row[0]], *row[1:]] for row in cells])
            for title, columns, cells in tables
            if len(columns) > 3
        ]
    )


def _by_stack(page: Page, prefix: str, test_set: TestSet) -> None:
    """The published table, of systems with points enough for it."""
    rows = [row for d in test_set.decodings for row in d.rows.values()]
    for i, (title, header, cells) in enumerate(sparsity_tables(rows, REFERENCES)):
        if i == 0:
            page.section(f"{prefix}Encoder, decoder or both")
            page.text(
                "The table of the published work. In brackets: change of WER relative, of BLEU absolute.", soft=True
            )
        page.heading(title)
        page.table(header, cells, left=2)


def _system_row(d: Decoding, base: Decoding | None) -> list[Cell]:
    def change(name: str, task: str = "all") -> str:
        if base is None or d is base:
            return ""
        new, old = d.value(name, task), base.value(name, task)
        if name == "bleu":
            digits = score_digits(d.value("n", task))
            return "" if new is None or old is None else f"{new - old:+.{digits}f}"
        rise = relative(new, old)
        return "" if rise is None else percent(rise)

    def interval(name: str, task: str) -> str:
        row = d.rows.get((task, "all", "all"), {})
        return with_interval(row.get(name), row.get(f"{name}_ci"), score_digits(row.get("n")))

    skipped = [number(d.value(f"skipped_{stack}"), 2) for stack in ("encoder", "decoder")]
    return [
        d.label,
        "-" if skipped == ["-", "-"] else " / ".join(skipped),
        interval("wer", "asr"),
        change("wer", "asr"),
        interval("bleu", "st"),
        change("bleu", "st"),
        number(d.value("gflops"), None),
        change("gflops"),
        change("gflops_decoder"),
        _seconds(d.value("latency_s")),
        change("latency_s"),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _comparisons(page: Page, prefix: str, comparisons: Comparisons) -> None:
    if not comparisons.done and not comparisons.missing:
        return
    page.section(f"{prefix}Paired comparisons")
    for line in comparisons.missing:
        page.text(line[0].upper() + line[1:] + ".")
    if not comparisons.done:
        return
    page.text(PAIRED)
    _paired_tables(page, comparisons.done)


def _paired_tables(page: Page, comparisons: Sequence[Comparison]) -> None:
    """A table for each kind of comparison, three columns for each metric."""
    header = ["a", "b"]
    metrics = list(dict.fromkeys(c.result.metric for c in comparisons))
    for metric in metrics:
        header += [f"{METRIC_NAMES[metric]} a → b", "difference", "b is"]
    for kind in dict.fromkeys(c.kind for c in comparisons):
        page.heading(kind.capitalize())
        rows: dict[tuple[str, str], list[Cell]] = {}
        for c in comparisons:
            if c.kind == kind:
                blank: list[Cell] = ["-"] * (3 * len(metrics))  # not every pair has every metric
                row = rows.setdefault((c.a.name, c.b.name), [c.a.label, c.b.label, *blank])
                mark = Mark(c.verdict, "none" if c.verdict == SAME else "good" if c.verdict == BETTER else "bad")
                scores = f"{c.result.score_a:.{c.digits}f} → {c.result.score_b:.{c.digits}f}"
                first = 2 + 3 * metrics.index(c.result.metric)
                row[first : first + 3] = [scores, difference(c), mark]
        page.table(header, list(rows.values()), left=2)


def _budgets(page: Page, prefix: str, tables: Sequence[tuple[str, list[list[str]]]]) -> None:
    if tables:
        page.section(f"{prefix}{budget_table.TITLE}")
        page.text(budget_table.LEGEND)
    for heading, cells in tables:
        page.heading(heading.removeprefix(f"{budget_table.TITLE}: "))
        page.table(budget_table.HEADER, cells)


def _findings(page: Page, prefix: str, findings: Sequence[Finding]) -> None:
    page.section(f"{prefix}Published findings")
    page.text(
        "Someki et al., ICLR 2025: OWSM v3.1 on Europarl-ST. Each is decided by a rule from the numbers beside it; "
        "a small model on a small corpus need not behave as a large one does."
    )
    tones = [Mark(f.verdict, _TONES.get(f.verdict, "none")) for f in findings]
    rows: list[list[Cell]] = [[f.claim, tone, f.numbers] for f, tone in zip(findings, tones, strict=True)]
    page.table(["published", "here", "numbers"], rows, text=(0, 2))
    page.heading("Rules")
    page.bullets([f"{f.claim}. {f.rule}" for f in findings])


def _latency(page: Page, prefix: str, test_set: TestSet) -> None:
    timed = [d for d in test_set.decodings if any(r.get("latency_s") is not None for r in d.stats)]
    if not timed:
        return
    page.section(f"{prefix}Where the time goes")
    figure = latency_figure(timed)
    if figure is not None:
        batched = any((r.get("batch_size") or 1) > 1 for d in timed for r in d.stats)
        caption = (
            "Mean time of an utterance: encoding (with features) and search; and the search's time for each token."
        )
        caption += " Utterances of a batch share its time equally." if batched else ""
        caption += f" The first {BARS} of {len(timed)} decodings; all are in the table." if len(timed) > BARS else ""
        page.figure(f"{test_set.title} latency", png(figure), caption)
    rows = [[d.label, *speed_row(d.directory)[1:]] for d in timed if (d.directory / STATS_FILE).is_file()]
    page.table(SPEED_HEADER, rows)
