"""WER, CER, BLEU and chrF with confidence intervals, and a paired comparison of two systems.

All scores are on the scale 0 to 100 (WER and CER can pass 100). jiwer aligns, sacrebleu scores.

WER and CER are taken on normalised text; the rule is called ``nfkc-lower-nopunct``:

1. Unicode NFKC, then lower case;
2. typographic apostrophes become ``'``;
3. punctuation (Unicode categories P*) becomes a space, except ``'`` and ``-`` between two letters,
   digits or their combining marks;
4. runs of white space become one space.

In languages that are written without spaces between words, each character beyond the Latin, Greek and Cyrillic ones
(with its marks) is a word of the WER.

BLEU and chrF see the text as it is. BLEU uses sacrebleu's ``13a`` tokeniser, ``zh`` for Chinese,
and ``char`` for languages written without spaces for which sacrebleu needs extra software.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

NORMALIZATION = "nfkc-lower-nopunct"
NORMALIZATION_RULE = (
    "NFKC, lower case, typographic apostrophes to ', punctuation to space except ' and - inside "
    "words, white space to single spaces; each character of a language without spaces between words is a word"
)
RESAMPLES = 1000
LEAST_RESAMPLES = 20
SEED = 12345  # sacrebleu's own default
METRICS = ("wer", "cer", "bleu", "chrf")

_CHINESE = {"zho", "cmn", "yue", "wuu"}
_NO_SPACES = {"jpn", "kor", "tha", "lao", "khm", "mya", "bod"}
_UNSEGMENTED = (_CHINESE | _NO_SPACES) - {"kor"}  # Korean has spaces between words
_FIRST_UNSEGMENTED = "\u0e00"  # Thai; Lao, Tibetan, Burmese, Khmer, kana and Han come behind

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A corpus score, its 95 % confidence interval and how it was made.

    ``value`` and ``ci`` are None where the references hold nothing to score.
    """

    value: float | None
    ci: tuple[float, float] | None
    signature: str


@dataclass(frozen=True)
class PairedResult:
    """System b against system a on the same utterances.

    ``difference`` is b - a (negative is better for WER and CER), ``ci`` its 95 % interval and
    ``p`` the two-sided probability of such a difference were the systems alike.
    """

    metric: str
    score_a: float
    score_b: float
    difference: float
    ci: tuple[float, float]
    p: float
    n: int


def normalize(text: str) -> str:
    """Apply the rule of this module to one text.

    >>> normalize("Well – it's “state-of-the-art”, isn’t it?")
    "well it's state-of-the-art isn't it"
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub("[\u2018\u2019\u02bc\uff07]", "'", text)
    kept = []
    for i, char in enumerate(text):
        punctuation = unicodedata.category(char).startswith("P")
        joins = char in "'-" and _in_word(text, i - 1) and _in_word(text, i + 1)
        kept.append(" " if punctuation and not joins else char)
    return " ".join("".join(kept).split())


def error_rate(
    refs: Sequence[str],
    hyps: Sequence[str],
    unit: str = "word",
    n_resamples: int = RESAMPLES,
    seed: int = SEED,
    langs: Sequence[str] | None = None,
) -> Score:
    """WER (``unit="word"``) or CER (``unit="char"``, spaces count) on normalised text, percent.

    The confidence interval is a bootstrap over utterances. ``langs``: ISO 639-3 code of each utterance, where words are
    not always between spaces.

    Raises:
        ValueError: for lists that differ in length or are empty, or an unknown unit.
    """
    counts = error_counts(refs, hyps, unit, langs)
    name = f"{'wer' if unit == 'word' else 'cer'}|norm:{NORMALIZATION}|jiwer:{version('jiwer')}"
    if unit == "word" and _UNSEGMENTED.intersection(langs or ()):
        name += "|unsegmented:characters"
    name += f"|bs:{n_resamples}|seed:{seed}"
    if counts[:, 1].sum() == 0:
        return Score(None, None, name)
    samples = _resample([counts], lambda sums: _rate(sums[0]), n_resamples, seed)
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return Score(_rate(counts.sum(axis=0)), (float(low), float(high)), name)


def error_counts(
    refs: Sequence[str], hyps: Sequence[str], unit: str = "word", langs: Sequence[str] | None = None
) -> FloatArray:
    """Errors and reference units of each utterance, shape (n, 2). ``langs``: see :func:`error_rate`."""
    _check_pair(refs, hyps)
    if unit not in ("word", "char"):
        raise ValueError(f"unit must be word or char, got {unit!r}")
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    counts = np.zeros((len(refs), 2))
    for i, pair in enumerate(zip(refs, hyps, strict=True)):
        ref, hyp = map(normalize, pair)
        if unit == "word" and langs is not None and langs[i] in _UNSEGMENTED:
            ref, hyp = _spaced(ref), _spaced(hyp)
        out = process(ref, hyp)
        errors = out.substitutions + out.deletions + out.insertions
        counts[i] = errors, out.hits + out.substitutions + out.deletions
    return counts


def _spaced(text: str) -> str:
    """With spaces around each character of a script that has none between words."""
    out, before = "", False
    for char in text:
        unsegmented = char >= _FIRST_UNSEGMENTED
        mark = unicodedata.category(char).startswith("M")  # it belongs to the character before it
        if (unsegmented or before) and not mark:
            out += " "
        out += char
        before = unsegmented
    return " ".join(out.split())


def bleu(refs: Sequence[str], hyps: Sequence[str], target_lang: str, n_resamples: int = RESAMPLES) -> Score:
    """Cased corpus BLEU with sacrebleu's signature and bootstrap interval.

    Args:
        refs, hyps: texts, one per utterance.
        target_lang: ISO 639-3 code, which chooses the tokeniser.
        n_resamples: number of bootstrap resamples.

    Raises:
        ValueError: for lists that differ in length or are empty.
    """
    return _sacrebleu(BLEU(tokenize=bleu_tokenizer(target_lang)), refs, hyps, n_resamples)


def chrf(refs: Sequence[str], hyps: Sequence[str], n_resamples: int = RESAMPLES) -> Score:
    """Cased corpus chrF2 with sacrebleu's signature and bootstrap interval."""
    return _sacrebleu(CHRF(), refs, hyps, n_resamples)


def bleu_tokenizer(lang: str) -> str:
    """Name of sacrebleu's tokeniser for an ISO 639-3 language."""
    if lang in _CHINESE:
        return "zh"
    return "char" if lang in _NO_SPACES else "13a"


def paired_bootstrap(
    ref: Sequence[str],
    hyp_a: Sequence[str],
    hyp_b: Sequence[str],
    metric: str,
    *,
    target_lang: str = "eng",
    langs: Sequence[str] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = SEED,
) -> PairedResult:
    """Compare two systems on the same utterances (paired bootstrap, Koehn 2004).

    Args:
        ref, hyp_a, hyp_b: texts in the same order of utterances.
        metric: ``wer``, ``cer``, ``bleu`` or ``chrf``.
        target_lang: language of the texts; matters for ``bleu``.
        langs: language of each text; matters for ``wer``, see :func:`error_rate`.
        n_resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: for an unknown metric, lists that differ in length, nothing to score.
    """
    if metric in ("wer", "cer"):
        unit = "word" if metric == "wer" else "char"
        stats = [error_counts(ref, hyp, unit, langs) for hyp in (hyp_a, hyp_b)]
        if stats[0][:, 1].sum() == 0:
            raise ValueError("references are empty after normalisation, nothing to compare")
        score: Callable[[FloatArray], float] = _rate
    elif metric in ("bleu", "chrf"):
        scorer = BLEU(tokenize=bleu_tokenizer(target_lang)) if metric == "bleu" else CHRF()
        stats = [_sacrebleu_stats(scorer, ref, hyp) for hyp in (hyp_a, hyp_b)]

        def score(total: FloatArray) -> float:
            # private, but what sacrebleu's own bootstrap calls; public ways tokenise each time
            return float(scorer._compute_score_from_stats(total.tolist()).score)
    else:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    a, b = (score(s.sum(axis=0)) for s in stats)
    return _paired(metric, a, b, stats, lambda sums: score(sums[1]) - score(sums[0]), n_resamples, seed)


def paired_means(
    a: Sequence[float], b: Sequence[float], metric: str, *, n_resamples: int = RESAMPLES, seed: int = SEED
) -> PairedResult:
    """Compare the means of a number that two systems have for each of the same utterances, by paired bootstrap.

    Args:
        a, b: the numbers in the same order of utterances.
        metric: their name.
        n_resamples, seed: of the bootstrap.

    Raises:
        ValueError: for lists that differ in length or are empty.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"got {len(a)} and {len(b)} numbers to compare; they must be as many, and at least one")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    stats = np.stack([differences, np.ones_like(differences)], axis=1)
    return _paired(
        metric,
        float(np.mean(a)),
        float(np.mean(b)),
        [stats],
        lambda sums: float(sums[0][0] / sums[0][1]),
        n_resamples,
        seed,
    )


def _paired(
    metric: str,
    a: float,
    b: float,
    stats: Sequence[FloatArray],
    difference: Callable[[list[FloatArray]], float],
    n_resamples: int,
    seed: int,
) -> PairedResult:
    """A difference with its interval and probability, from sums of (n, k) statistics over resampled utterances."""
    samples = _resample(stats, difference, n_resamples, seed)
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    # resamples scatter about the observed difference; moved to zero they are the null hypothesis
    extreme = np.abs(samples - np.nanmean(samples)) >= abs(b - a)
    p = (1 + int(extreme.sum())) / (1 + n_resamples)
    return PairedResult(metric, a, b, b - a, (float(low), float(high)), p, len(stats[0]))


def check_resamples(number: int) -> int:
    """Return ``number`` if an interval of 95 % can be read off so many.

    Raises:
        ValueError: naming the option, the value and what is allowed.
    """
    if number < LEAST_RESAMPLES:
        raise ValueError(f"resamples must be at least {LEAST_RESAMPLES}, got {number} (--resamples)")
    return number


def _resample(
    stats: Sequence[FloatArray],
    score: Callable[[list[FloatArray]], float],
    n_resamples: int,
    seed: int,
) -> FloatArray:
    """Scores of ``n_resamples`` draws of utterances; each (n, k) stats array sees the same draw."""
    rng = np.random.default_rng(seed)
    n = len(stats[0])
    samples = np.empty(n_resamples)
    for i in range(n_resamples):
        times_drawn = np.bincount(rng.integers(n, size=n), minlength=n)
        samples[i] = score([times_drawn @ s for s in stats])
    return samples


def _rate(total: FloatArray) -> float:
    """Percent of errors; NaN for a draw that holds no reference unit."""
    return float(100 * total[0] / total[1]) if total[1] else float("nan")


def _sacrebleu(scorer: BLEU | CHRF, refs: Sequence[str], hyps: Sequence[str], n_resamples: int) -> Score:
    _check_pair(refs, hyps)
    compute = scorer._compute_score_from_stats

    def as_floats(stats: Any) -> Any:
        """Its bootstrap would mix numpy's floats with Python's 0.0 of draws without a match, and refuse."""
        score = compute(stats)
        score.score = float(score.score)
        return score

    scorer._compute_score_from_stats = as_floats  # type: ignore[method-assign]
    result = scorer.corpus_score(list(hyps), [list(refs)], n_bootstrap=n_resamples)
    signature = str(scorer.get_signature())
    # the JSON form is sacrebleu's public way to the interval; it is left out when all is zero
    form = json.loads(result.format(width=6, signature=signature, is_json=True))
    mean, half = form.get("confidence_mean", 0.0), form.get("confidence_var", 0.0)
    return Score(float(result.score), (max(0.0, mean - half), min(100.0, mean + half)), signature)


def _sacrebleu_stats(scorer: BLEU | CHRF, refs: Sequence[str], hyps: Sequence[str]) -> FloatArray:
    _check_pair(refs, hyps)
    stats = scorer._extract_corpus_statistics(list(hyps), [list(refs)])
    return np.asarray(stats, dtype=np.float64)


def _check_pair(refs: Sequence[str], hyps: Sequence[str]) -> None:
    if len(refs) != len(hyps):
        raise ValueError(f"got {len(refs)} references but {len(hyps)} hypotheses")
    if not refs:
        raise ValueError("no utterances to score")


def _in_word(text: str, i: int) -> bool:
    return 0 <= i < len(text) and unicodedata.category(text[i])[0] in "LMN"
