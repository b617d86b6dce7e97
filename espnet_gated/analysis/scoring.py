"""Score a decoding directory against a data directory: one row per language, task and overall."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from espnet_gated.analysis import metrics
from espnet_gated.analysis.metrics import PairedResult, paired_bootstrap
from espnet_gated.data.datadir import Utterance, read_data_dir

__all__ = ["PairedResult", "ScoringError", "paired_bootstrap", "score_decode_dir", "score_rows"]

ALL = "all"
SCORE_FILE = "score.json"
META_FILE = "score_meta.json"

# measured per utterance and averaged over a row
_MEANS = (
    "sparsity_encoder",
    "sparsity_decoder",
    "skipped_encoder",
    "skipped_decoder",
    "gflops",
    "gflops_encoder",
    "gflops_decoder",
    "nll",
    "nll_tokens",
)
_STATS = (*_MEANS, "latency_s", "seconds")

Row = dict[str, Any]


class ScoringError(ValueError):
    """Hypotheses or decoding statistics that cannot be scored."""


@dataclass(frozen=True)
class Group:
    """The utterances of one row."""

    task: str
    src: str
    tgt: str
    utts: list[Utterance]


def score_decode_dir(
    ref: str | Path,
    decode_dir: str | Path,
    *,
    corpus: str,
    set_name: str,
    system: str,
    n_resamples: int = metrics.RESAMPLES,
    seed: int = metrics.SEED,
) -> list[Row]:
    """Score a decoding directory; write ``score.json`` and ``score_meta.json`` into it.

    Args:
        ref: data directory with the references.
        decode_dir: decoding directory.
        corpus, set_name, system: names for the rows.
        n_resamples: bootstrap resamples behind the confidence intervals.
        seed: of the WER and CER bootstrap (sacrebleu has its own).

    Returns:
        The rows: overall, then per task, then per language (pair) of each task.

    Raises:
        DataDirError: for a broken data directory.
        ScoringError: for missing or broken hypotheses or statistics, naming the utterance.
    """
    decode_dir = Path(decode_dir)
    utts = read_data_dir(ref)
    hyps = read_hypotheses(decode_dir, utts)
    stats = read_stats(decode_dir, utts)
    signatures: dict[str, str] = {}
    names = {"corpus": corpus, "set": set_name, "system": system}
    rows = score_rows(utts, hyps, stats, names, n_resamples, seed, signatures)
    write_json(decode_dir / SCORE_FILE, rows)
    meta = {
        **names,
        "ref": str(ref),
        "normalization": {
            "name": metrics.NORMALIZATION,
            "rule": metrics.NORMALIZATION_RULE,
            "applies_to": ["wer", "cer"],
        },
        "signatures": signatures,
        "bootstrap": {"resamples": n_resamples, "seed": seed, "interval": 0.95},
        "versions": {name: version(name) for name in ("jiwer", "sacrebleu")},
    }
    write_json(decode_dir / META_FILE, meta)
    return rows


def score_rows(
    utts: Sequence[Utterance],
    hyps: Mapping[str, str],
    stats: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    n_resamples: int = metrics.RESAMPLES,
    seed: int = metrics.SEED,
    signatures: dict[str, str] | None = None,
) -> list[Row]:
    """Rows of scores and statistics.

    Args:
        utts: references.
        hyps: utterance id -> hypothesis without special tokens.
        stats: utterance id -> its object of ``decode_stats.jsonl``; empty where there is none.
        names: ``corpus``, ``set`` and ``system``.
        n_resamples, seed: of the bootstrap.
        signatures: is filled with what each metric was made with.
    """
    signatures = {} if signatures is None else signatures
    rows = []
    for group in groups(utts):
        row: Row = {"corpus": names["corpus"], "set": names["set"], "task": group.task}
        row |= {"src": group.src, "tgt": group.tgt, "system": names["system"]}
        row |= aggregate_stats([stats[u.utt_id] for u in group.utts if u.utt_id in stats])
        row |= _error_scores(group, hyps, n_resamples, seed, signatures)
        row |= _translation_scores(group, hyps, n_resamples, signatures)
        row["n"] = len(group.utts)
        rows.append(row)
    return rows


def groups(utts: Iterable[Utterance]) -> list[Group]:
    """Overall, each task, each language or language pair of a task."""
    overall: list[Utterance] = []
    tasks: dict[str, list[Utterance]] = {}
    pairs: dict[tuple[str, str, str], list[Utterance]] = {}
    for utt in utts:
        task = "asr" if utt.task == "asr" else "st"
        overall.append(utt)
        tasks.setdefault(task, []).append(utt)
        pairs.setdefault((task, utt.lang, utt.target_lang), []).append(utt)
    return [
        Group(ALL, ALL, ALL, overall),
        *(Group(task, ALL, ALL, members) for task, members in sorted(tasks.items())),
        *(Group(*pair, members) for pair, members in sorted(pairs.items())),
    ]


def aggregate_stats(stats: Sequence[Mapping[str, Any]]) -> Row:
    """Means over utterances; null where nothing was measured.

    ``rtf`` is total latency over total audio, ``sparsity`` the mean of what encoder and decoder
    were asked for, ``n_flops`` the number of utterances whose FLOPs were measured.
    """
    row: Row = {name: _mean(_known(stats, name)) for name in _MEANS}
    row["sparsity"] = _mean([row[k] for k in ("sparsity_encoder", "sparsity_decoder") if row[k] is not None])
    latency = _known(stats, "latency_s")
    row["latency_s"] = _mean(latency)
    row["latency_median_s"] = statistics.median(latency) if latency else None
    timed = [s for s in stats if s.get("latency_s") is not None and s.get("seconds")]
    seconds = sum(s["seconds"] for s in timed)
    row["rtf"] = sum(s["latency_s"] for s in timed) / seconds if timed else None
    row["n_flops"] = len(_known(stats, "gflops"))
    return row


def read_hypotheses(decode_dir: Path, utts: Sequence[Utterance]) -> dict[str, str]:
    """``1best_recog/text_nospecial`` as utterance id -> text; a hypothesis may be empty.

    Raises:
        ScoringError: for a missing file, an id given twice, or a reference without hypothesis.
    """
    file = decode_dir / "1best_recog" / "text_nospecial"
    if not file.is_file():
        raise ScoringError(f"{file}: file is missing; decode first")
    hyps: dict[str, str] = {}
    for number, line in enumerate(_lines(file), start=1):
        utt_id, *rest = line.split(maxsplit=1)
        if utt_id in hyps:
            raise ScoringError(f"{file}:{number}: {utt_id}: id seen before")
        hyps[utt_id] = rest[0].strip() if rest else ""
    _require_all(file, "hypothesis", hyps, utts)
    return hyps


def read_stats(decode_dir: Path, utts: Sequence[Utterance]) -> dict[str, dict[str, Any]]:
    """``decode_stats.jsonl`` as utterance id -> its object; empty where there is no such file.

    Raises:
        ScoringError: for broken lines, values that are no numbers, or an utterance without line.
    """
    file = decode_dir / "decode_stats.jsonl"
    if not file.is_file():  # plain ESPnet decoding writes none, its text can still be scored
        return {}
    stats: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_lines(file), start=1):
        try:
            entry = json.loads(line)
            utt_id = entry["utt_id"]
        except (json.JSONDecodeError, KeyError, TypeError):
            message = f"must be a JSON object with utt_id, got {line[:60]!r}"
            raise ScoringError(f"{file}:{number}: {message}") from None
        for name in _STATS:
            value = entry.get(name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not is_number:
                message = f"{name} must be a finite number or null, got {value!r}"
                raise ScoringError(f"{file}:{number}: {utt_id}: {message}")
        if utt_id in stats:
            raise ScoringError(f"{file}:{number}: {utt_id}: id seen before")
        stats[utt_id] = entry
    _require_all(file, "line", stats, utts)
    return stats


def _error_scores(
    group: Group, hyps: Mapping[str, str], n_resamples: int, seed: int, signatures: dict[str, str]
) -> Row:
    """WER and CER over the group's ASR utterances."""
    utts = [u for u in group.utts if u.task == "asr"]
    row: Row = {"wer": None, "cer": None, "wer_ci": None, "cer_ci": None}
    if not utts:
        return row
    refs, texts = [u.text for u in utts], [hyps[u.utt_id] for u in utts]
    for name, unit in (("wer", "word"), ("cer", "char")):
        score = metrics.error_rate(refs, texts, unit, n_resamples, seed, [u.lang for u in utts])
        row[name], row[f"{name}_ci"] = score.value, score.ci and list(score.ci)
        signatures[f"{name} (characters)" if "|unsegmented:" in score.signature else name] = score.signature
    return row


def _translation_scores(group: Group, hyps: Mapping[str, str], n_resamples: int, signatures: dict[str, str]) -> Row:
    """BLEU and chrF over the group's ST utterances.

    BLEU stays null where target languages need different tokenisers: their n-grams are of
    different things. The rows per language have it.
    """
    utts = [u for u in group.utts if u.task != "asr"]
    row: Row = {"bleu": None, "chrf": None, "bleu_ci": None, "chrf_ci": None}
    if not utts:
        return row
    refs, texts = [u.text for u in utts], [hyps[u.utt_id] for u in utts]
    scores = {"chrf": metrics.chrf(refs, texts, n_resamples)}
    signatures["chrf"] = scores["chrf"].signature
    tokenizers = {metrics.bleu_tokenizer(u.target_lang) for u in utts}
    if len(tokenizers) == 1:
        scores["bleu"] = metrics.bleu(refs, texts, utts[0].target_lang, n_resamples)
        name = "bleu" if tokenizers == {"13a"} else f"bleu ({tokenizers.pop()})"
        signatures[name] = scores["bleu"].signature
    for name, score in scores.items():
        row[name], row[f"{name}_ci"] = score.value, score.ci and list(score.ci)
    return row


def _require_all(file: Path, what: str, found: Mapping[str, object], utts: Sequence[Utterance]) -> None:
    missing = [u.utt_id for u in utts if u.utt_id not in found]
    if missing:
        count = f"{len(missing)} of {len(utts)} reference utterances have none"
        raise ScoringError(f"{file}: {missing[0]}: {what} is missing ({count})")


def _known(stats: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [s[name] for s in stats if s.get(name) is not None]


def _mean(values: Sequence[float]) -> float | None:
    # rounded, so that the mean of many 0.3 is 0.3
    return round(statistics.fmean(values), 9) if values else None


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_json(file: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temp = file.with_name(f".{file.name}.tmp")
    temp.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temp, file)
