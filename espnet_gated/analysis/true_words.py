"""Likelihoods of the true words, compared in pairs: a finer measure than what a search gets wrong."""

from __future__ import annotations

from espnet_gated.analysis.comparisons import NLL, Comparison, pairs
from espnet_gated.analysis.experiment import TASKS, Decoding, TestSet
from espnet_gated.analysis.metrics import paired_means

TITLE = "Likelihood of the true words"
LEGEND = (
    "Negative log-likelihood of what was said (asr) or of its translation (st), behind the language and task tokens, "
    "under the gates that the search had too; nats, mean over the utterances of the task. Lower is better. Errors of a "
    "search are few and chance decides over many of them; this is a number for every utterance, and tells systems "
    "apart that WER and BLEU cannot. Label smoothing (lsm_weight) teaches a model to give the true token no more than "
    "1 − lsm_weight, 0.105 nats a token at 0.1; below that a system is surer than it was taught, not better, as with "
    "masks that training did not use. "
)


def compare_true_words(test_set: TestSet, system: str | None, resamples: int) -> list[Comparison]:
    """Every pair of :func:`espnet_gated.analysis.comparisons.pairs` of which both were measured, for each task.

    Args:
        test_set: what was decoded.
        system: the gated system.
        resamples: of the paired bootstrap.
    """
    found = []
    for kind, a, b in pairs(test_set, system):
        for task in TASKS:
            theirs, ours = _values(a, task), _values(b, task)
            if ours and ours.keys() == theirs.keys():
                numbers = [theirs[utt] for utt in ours], list(ours.values())
                found.append(Comparison(kind, a, b, paired_means(*numbers, f"{NLL} {task}", n_resamples=resamples)))
    return found


def _values(decoding: Decoding, task: str) -> dict[str, float]:
    """Nats of each utterance of a task, where they were measured."""
    rows = [row for row in decoding.stats if ("asr" if row.get("task") == "asr" else "st") == task]
    return {row["utt_id"]: row[NLL] for row in rows if row.get(NLL) is not None}
