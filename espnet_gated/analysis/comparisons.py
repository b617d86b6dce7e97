"""Paired comparisons of systems on the same utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_gated.analysis.experiment import HURTING, Decoding, Experiment, TestSet
from espnet_gated.analysis.metrics import RESAMPLES, PairedResult, bleu_tokenizer, normalize, paired_bootstrap
from espnet_gated.analysis.scoring import ScoringError, read_hypotheses
from espnet_gated.analysis.sparsity_table import search_of
from espnet_gated.analysis.table import score_digits
from espnet_gated.data.datadir import DataDirError, Utterance, read_data_dir

NLL = "nll"
"""Negative log-likelihood of the true words; as a metric followed by the task."""
BETTER, WORSE, SAME = "better", "worse", "no clear difference"
PRUNING_ALONE = "price of pruning alone"
"""Kind of comparison: one checkpoint at sparsity 0 and pruned."""


@dataclass(frozen=True)
class Comparison:
    """System b against system a in one metric; ``kind`` says why they are compared."""

    kind: str
    a: Decoding
    b: Decoding
    result: PairedResult

    @property
    def verdict(self) -> str:
        """Whether b is better than a by more than the 95 % interval."""
        low, high = self.result.ci
        if low <= 0.0 <= high:
            return SAME
        lower_is_better = self.result.metric.partition(" ")[0] in ("wer", "cer", NLL)
        return BETTER if (high < 0) == lower_is_better else WORSE

    @property
    def digits(self) -> int:
        """Behind the point, when its numbers are shown."""
        if self.result.metric.startswith(NLL):
            return 3
        return score_digits(self.result.n)


@dataclass
class Comparisons:
    """All comparisons of a test set; ``missing`` says in a line what could not be compared and why."""

    done: list[Comparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def pairs(test_set: TestSet, system: str | None) -> list[tuple[str, Decoding, Decoding]]:
    """What is worth comparing: (kind, a, b).

    The dense system with the one trained on; the gated system at each sparsity with the dense one it is held
    against; at those that the published findings ask about with itself at sparsity 0; and with every other system that
    skips as much. Systems with another search (``gated+ctc``) are compared
    among themselves.
    """
    found: list[tuple[str, Decoding, Decoding]] = []
    for search in dict.fromkeys(d.search for d in test_set.decodings):
        same_search = TestSet(test_set.corpus, test_set.name, [d for d in test_set.decodings if d.search == search])
        found += _pairs(same_search, system and system.removesuffix(search_of(system)) + search, search)
    return found


def _pairs(test_set: TestSet, system: str | None, search: str) -> list[tuple[str, Decoding, Decoding]]:
    """:func:`pairs` of the systems that were decoded in one way."""
    found: list[tuple[str, Decoding, Decoding]] = []
    dense, control = test_set.of(f"dense{search}"), test_set.of(f"control{search}")
    if dense and control:
        found.append(("more training", dense[0], control[0]))
    reference = test_set.reference(search)
    gated = test_set.of(system)
    if reference is not None:
        found += [("price of sparsity", reference, d) for d in gated]
    opened = test_set.at(system, 0.0, 0.0)
    if opened is not None and opened is not reference:
        asked = [test_set.at(system, 0.0, 0.5), test_set.least_pruned_encoder(system, HURTING)]
        found += [(PRUNING_ALONE, opened, d) for d in asked if d is not None]
    for d in gated:
        rivals = [o for o in test_set.decodings if o.system != system and o.asked == d.asked and o.series != "none"]
        found += [("same sparsity", other, d) for other in rivals]
    return found


def compare(experiment: Experiment, test_set: TestSet, system: str | None, resamples: int = RESAMPLES) -> Comparisons:
    """Compare every pair of :func:`pairs` in WER over ASR and BLEU over ST (chrF where target languages are mixed).

    Args:
        experiment, test_set: what was decoded.
        system: the gated system.
        resamples: of the paired bootstrap.
    """
    out = Comparisons()
    wanted = pairs(test_set, system)
    if not wanted:
        return out
    try:
        utts = references(experiment, test_set)
        hyps = {d.name: read_hypotheses(d.directory, utts) for _, a, b in wanted for d in (a, b)}
    except (DataDirError, ScoringError, OSError) as error:
        out.missing.append(f"no paired comparison: {error}")
        return out
    for kind, a, b in wanted:
        results = _compare(utts, hyps[a.name], hyps[b.name], resamples)
        out.done += [Comparison(kind, a, b, result) for result in results]
    return out


def _compare(
    utts: Sequence[Utterance], a: Mapping[str, str], b: Mapping[str, str], resamples: int
) -> list[PairedResult]:
    results = []
    for is_asr in (True, False):
        group = [u for u in utts if (u.task == "asr") == is_asr]
        if not any(normalize(u.text) if is_asr else u.text for u in group):
            continue
        texts = [u.text for u in group], [a[u.utt_id] for u in group], [b[u.utt_id] for u in group]
        one_tokenizer = len({bleu_tokenizer(u.target_lang) for u in group}) == 1
        metric = "wer" if is_asr else "bleu" if one_tokenizer else "chrf"
        lang = group[0].target_lang
        spoken = [u.lang for u in group]
        results.append(paired_bootstrap(*texts, metric, target_lang=lang, langs=spoken, n_resamples=resamples))
    return results


def references(experiment: Experiment, test_set: TestSet) -> list[Utterance]:
    """The data directory the set was scored against; a relative path is tried from here and from the recipe."""
    refs = {str(d.score_meta["ref"]) for d in test_set.decodings if d.score_meta.get("ref")}
    if not refs:
        raise DataDirError("the scores do not name their references; score again")
    if len(refs) > 1:
        raise DataDirError(f"systems were scored against different references: {', '.join(sorted(refs))}")
    ref = Path(refs.pop())
    places = [ref, *(parent / ref for parent in experiment.expdir.resolve().parents)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise DataDirError(f"{ref}: references are not there any more")
    return read_data_dir(found)
