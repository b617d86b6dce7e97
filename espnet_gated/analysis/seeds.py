"""Several trainings of the same recipe: what differs between systems by more than one training from the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espnet_gated.analysis.comparisons import references
from espnet_gated.analysis.experiment import Decoding, Experiment, ReportError, TestSet
from espnet_gated.analysis.metrics import RESAMPLES, PairedResult, error_counts, paired_means
from espnet_gated.analysis.scoring import read_hypotheses
from espnet_gated.analysis.table import Row, number, percent, relative

HEADER = (
    *("system", "wrong words, each training", "mean above the reference's", "of them"),
    *("BLEU, each", "nats, recognition", "nats, translation"),
)


def seed_tables(
    experiments: Sequence[Experiment], against: str = "control", resamples: int = RESAMPLES
) -> list[tuple[str, Row, list[Row]]]:
    """For each test set that all experiments have, a table of the systems that all of them decoded.

    Wrong words are compared with the reference system of the same training and the same search (``+ctc``), the
    difference averaged over the trainings for each utterance, and utterances drawn with replacement (paired
    bootstrap): the interval knows of other utterances, and of other trainings only what these few say.

    Args:
        experiments: one for each training.
        against: name of the reference system.
        resamples: of the bootstrap.

    Returns:
        title, header and rows of each table.

    Raises:
        ReportError: for fewer than two experiments, or where no test set has the reference in all of them.
        DataDirError, ScoringError: for references or transcripts that cannot be read.
    """
    if len(experiments) < 2:
        raise ReportError(f"trainings are compared with each other: need two or more, got {len(experiments)}")
    tables: list[tuple[str, Row, list[Row]]] = []
    for first in experiments[0].sets:
        found = [[s for s in experiment.sets if s.title == first.title] for experiment in experiments]
        if not all(found):
            continue
        sets = [same[0] for same in found]
        rows = _rows(experiments, sets, against, resamples)
        if rows:
            tables.append((f"{first.title}, {first.n} utterances, {len(sets)} trainings", HEADER, rows))
    if not tables:
        names = ", ".join(str(experiment.expdir) for experiment in experiments)
        raise ReportError(f"no test set was decoded by {against} in each of {names}")
    return tables


def _rows(experiments: Sequence[Experiment], sets: Sequence[TestSet], against: str, resamples: int) -> list[Row]:
    utts = references(experiments[0], sets[0])
    spoken = [u for u in utts if u.task == "asr"]
    texts, langs = [u.text for u in spoken], [u.lang for u in spoken]

    def errors(decodings: Sequence[Decoding]) -> list[np.ndarray]:
        hyps = [read_hypotheses(d.directory, utts) for d in decodings]
        return [error_counts(texts, [h[u.utt_id] for u in spoken], "word", langs)[:, 0] for h in hyps]

    rows: list[Row] = []
    for search in dict.fromkeys(d.search for d in sets[0].decodings):
        reference = _in_each(sets, f"{against}{search}")
        if reference is None:
            continue
        before = errors(reference)
        for decoding in sets[0].decodings:
            same = _in_each(sets, decoding.label) if decoding.search == search else None
            if same is not None:
                wrong = before if same == reference else errors(same)
                compared = None if same == reference else _compared(before, wrong, resamples)
                rows.append(_row(same, wrong, compared, len(spoken)))
    return rows


def _in_each(sets: Sequence[TestSet], label: str) -> list[Decoding] | None:
    """The decodings of a name; ``None`` where an experiment has none."""
    found = [next((d for d in s.decodings if d.label == label), None) for s in sets]
    return [d for d in found if d is not None] if all(found) else None


def _compared(before: Sequence[np.ndarray], after: Sequence[np.ndarray], resamples: int) -> PairedResult | None:
    a, b = (np.mean(counts, axis=0).tolist() for counts in (before, after))
    return paired_means(a, b, "words", n_resamples=resamples) if a else None


def _row(decodings: Sequence[Decoding], wrong: Sequence[np.ndarray], result: PairedResult | None, n: int) -> Row:
    more = share = "-"
    if result is not None:
        low, high = (round(n * end) for end in result.ci)
        more = f"{n * result.difference:+.1f} [{low}, {high}]"
        share = percent(relative(result.score_b, result.score_a))

    def each(name: str, task: str, digits: int) -> str:
        return ", ".join(number(d.value(name, task), digits) for d in decodings)

    return [
        decodings[0].label,
        ", ".join(f"{counts.sum():.0f}" for counts in wrong),
        more,
        share,
        each("bleu", "st", 2),
        each("nll", "asr", 3),
        each("nll", "st", 3),
    ]
