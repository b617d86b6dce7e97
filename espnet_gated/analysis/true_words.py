"""The report's section on the likelihood of the true words: a finer measure than what a search gets wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from espnet_gated.analysis.comparisons import BETTER, SAME, Comparison, pairs
from espnet_gated.analysis.experiment import TASKS, Decoding, TestSet
from espnet_gated.analysis.metrics import PairedResult, paired_means
from espnet_gated.analysis.page import Cell, Mark, Page

TITLE = "Likelihood of the true words"
METRIC = "nll"
LEGEND = (
    "Negative log-likelihood of what was said (asr) or of its translation (st), behind the language and task tokens, "
    "under the gates that the search had too; nats, mean over the utterances of the task. Lower is better. Differences "
    "are paired, with 95 % bootstrap intervals over utterances. Errors of a search are few and chance decides over "
    "many of them; this is a number for every utterance, and tells systems apart that WER and BLEU cannot."
)


def compare_true_words(test_set: TestSet, system: str | None, resamples: int) -> list[tuple[str, Comparison]]:
    """Every pair of :func:`espnet_gated.analysis.comparisons.pairs` of which both were measured: (task, comparison)."""
    found = []
    for kind, a, b in pairs(test_set, system):
        if a.search:
            continue  # CTC changes the search, not the likelihood
        for task in TASKS:
            values = _values(a, task), _values(b, task)
            both = sorted(values[0].keys() & values[1].keys())
            if both and len(both) == len(values[0]) == len(values[1]):
                ours, theirs = ([v[utt] for utt in both] for v in values)
                result = paired_means(ours, theirs, METRIC, n_resamples=resamples)
                found.append((task, Comparison(kind, a, b, result)))
    return found


def true_words_section(page: Page, prefix: str, found: list[tuple[str, Comparison]]) -> None:
    """Add the section, unless nothing was measured."""
    if not found:
        return
    page.section(f"{prefix}{TITLE}")
    page.text(LEGEND)
    header = ["a", "b"]
    for task in dict.fromkeys(task for task, _ in found):
        header += [f"{task.upper()} a → b", "difference", "b is"]
    for kind in dict.fromkeys(c.kind for _, c in found):
        page.heading(kind.capitalize())
        rows: dict[tuple[str, str], list[Cell]] = {}
        for _, c in found:
            if c.kind == kind:
                row = rows.setdefault((c.a.name, c.b.name), [c.a.label, c.b.label])
                mark = Mark(c.verdict, "none" if c.verdict == SAME else "good" if c.verdict == BETTER else "bad")
                row += [f"{c.result.score_a:.3f} → {c.result.score_b:.3f}", fine_difference(c.result), mark]
        page.table(header, list(rows.values()), left=2)


def true_words_lines(found: list[tuple[str, Comparison]]) -> list[str]:
    """Whether the gated system's masks are better than each rival's at the same sparsity, a sentence each."""
    lines = []
    same = [(task, c) for task, c in found if c.kind == "same sparsity"]
    for rival in dict.fromkeys(c.a.system for _, c in same):
        of_rival = [(task, c) for task, c in same if c.a.system == rival]
        won = [f"{task.upper()} at {_asked(c)}" for task, c in of_rival if c.verdict == BETTER]
        lost = [f"{task.upper()} at {_asked(c)}" for task, c in of_rival if c.verdict not in (BETTER, SAME)]
        worse = f", and less likely in {len(lost)}: {', '.join(lost)}" if lost else ""
        lines.append(
            f"The true words are more likely under {of_rival[0][1].b.system} than under {rival} at the same sparsity, "
            f"by more than the 95 % interval, in {len(won)} of {len(of_rival)} comparisons: "
            f"{', '.join(won) or 'nowhere'}{worse}."
        )
    return lines


def fine_difference(result: PairedResult) -> str:
    """``-0.012 [-0.020, -0.004]``."""
    return f"{result.difference:+.3f} [{result.ci[0]:+.3f}, {result.ci[1]:+.3f}]"


def _asked(c: Comparison) -> str:
    return f"{c.b.asked[0]:g}/{c.b.asked[1]:g}"


def _values(decoding: Decoding, task: str) -> Mapping[str, float]:
    """Nats of each utterance of a task, where they were measured."""
    rows = [row for row in decoding.stats if ("asr" if row.get("task") == "asr" else "st") == task]
    return {row["utt_id"]: float(row[METRIC]) for row in rows if np.isfinite(row.get(METRIC) or np.nan)}
