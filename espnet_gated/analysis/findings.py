"""The published findings, each decided from the numbers of a test set by a written rule.

Source: Someki et al., Context-aware Dynamic Pruning for Speech Foundation Models, ICLR 2025 (OWSM v3.1, Europarl-ST).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_gated.analysis.comparisons import PRUNING_ALONE, Comparison
from espnet_gated.analysis.experiment import HURTING, STACKS, Decoding, FloatArray, GateTable, TestSet
from espnet_gated.analysis.gate_stats import (
    Contrast,
    languages_of_both,
    mean_interval,
    position_curves,
    task_contrasts,
)
from espnet_gated.analysis.scoring import ALL
from espnet_gated.analysis.table import number, percent, relative, score_digits
from espnet_gated.analysis.view import MIDDLE, View

SEEN, NOT_SEEN, OPPOSITE, UNTESTABLE = "seen here", "not seen", "opposite", "not testable here"
VERDICTS = (SEEN, NOT_SEEN, OPPOSITE, UNTESTABLE)

NO_COST_BASE = "no dense system was decoded by the same search, nor the gated one at sparsity 0"
BATCHED = "decoded in batches, where an utterance's time is a share of its batch's"

SMALL_LOSS = 0.05
"""A relative rise of WER (or fall of BLEU) up to this is almost free."""
LARGE_LOSS = 0.10
"""One beyond this hurts."""
BLEU_NOISE = 0.3
"""A fall of BLEU up to this is no loss."""
BY_INTERVAL = "the paired 95 % interval of the rise must lie there too, where the two were compared"


@dataclass(frozen=True)
class Finding:
    """A published claim, the rule that decides it, what came out and the numbers behind it."""

    claim: str
    rule: str
    verdict: str
    numbers: str


def published_findings(test_set: TestSet, system: str, compared: Sequence[Comparison] = ()) -> list[Finding]:
    """All published findings, decided for one gated system on one test set; ``compared``: what has intervals."""
    view = View(test_set, system, compared)
    return [rule(view) for rule in RULES]


def asr_lives_on_cgmlp(view: View) -> Finding:
    """ASR keeps cgMLP open more than any other module of the encoder."""
    claim = "ASR lives on cgMLP"
    rule = (
        "Encoder sparsity nearest 0.5, ASR utterances: seen if cgmlp is open more often than each other kind of module "
        "of the encoder (95 % bootstrap intervals of the differences above 0); opposite if less often than each."
    )
    decoding = view.middle("encoder")
    table = decoding.gates["encoder"] if decoding else None
    if decoding is None or table is None or "cgmlp" not in table.kinds or len(table.kinds) < 2:
        return Finding(claim, rule, UNTESTABLE, "no decoding with pruned encoder and its gates")
    rows = table.rows("asr")
    if not rows.any():
        return Finding(claim, rule, UNTESTABLE, "no ASR utterances")
    shares = {kind: _per_utterance(table, kind)[rows] for kind in table.kinds}
    cgmlp = shares.pop("cgmlp")
    gaps = {kind: mean_interval(cgmlp - other) for kind, other in shares.items()}
    verdict = NOT_SEEN
    if all(low > 0 for _, low, _ in gaps.values()):
        verdict = SEEN
    elif all(high < 0 for *_, high in gaps.values()):
        verdict = OPPOSITE
    nearest = min(gaps, key=lambda kind: abs(gaps[kind][0]))
    means = {"cgmlp": cgmlp} | shares
    text = ", ".join(f"{kind} {s.mean():.2f}" for kind, s in sorted(means.items(), key=lambda item: -item[1].mean()))
    return Finding(
        claim,
        rule,
        verdict,
        f"{decoding.label}: open share on ASR {text}; cgmlp - {nearest} {_interval(gaps[nearest])}",
    )


def asr_decoder_free(view: View) -> Finding:
    """Half of the decoder costs ASR next to nothing."""
    rule = (
        f"Decoder sparsity 0.5, encoder open, against the same checkpoint at sparsity 0: seen if WER rises by at most "
        f"{100 * SMALL_LOSS:.0f} % relative; opposite if by more than {100 * LARGE_LOSS:.0f} %; {BY_INTERVAL}."
    )
    claim = "ASR: its decoder prunes almost freely"
    return _price(view, claim, rule, view.at(0.0, MIDDLE), "no decoding at encoder 0, decoder 0.5", cheap=True)


def encoder_hurts(view: View) -> Finding:
    """An encoder pruned to 70 % or more loses quality."""
    rule = (
        f"Lowest encoder sparsity of at least 0.7, decoder open, against the same checkpoint at sparsity 0: seen if "
        f"WER rises by more than {100 * LARGE_LOSS:.0f} % relative; opposite if by at most {100 * SMALL_LOSS:.0f} %; "
        f"{BY_INTERVAL}."
    )
    decoding = view.test_set.least_pruned_encoder(view.system, HURTING)
    missing = "no decoding with encoder sparsity of 0.7 or more and an open decoder"
    return _price(view, "Encoder sparsity of 70 % or more hurts", rule, decoding, missing, cheap=False)


def st_needs_decoder(view: View) -> Finding:
    """ST keeps the decoder's feed-forward and self-attention open more than ASR does."""
    claim = "ST needs the decoder's feed-forward and self-attention"
    rule = (
        "Decoder sparsity nearest 0.5: seen if feed_forward and self_attn are both open more often on ST than on ASR "
        "(95 % bootstrap intervals of the difference of means, within each language, above 0); opposite if both less "
        "often."
    )
    decoding = view.middle("decoder")
    table = decoding.gates["decoder"] if decoding else None
    if decoding is None or table is None or not {"feed_forward", "self_attn"} <= set(table.kinds):
        return Finding(claim, rule, UNTESTABLE, "no decoding with pruned decoder and its gates")
    langs = languages_of_both(table)
    if not langs:
        return Finding(claim, rule, UNTESTABLE, "needs a language with utterances of both tasks")
    gaps, parts = {}, []
    for kind in table.kinds:
        share = _per_utterance(table, kind)
        st, asr = ([share[table.rows(task, lang)] for lang in langs] for task in ("st", "asr"))
        gaps[kind] = _mean_difference(st, asr)
        means = [np.mean([of_lang.mean() for of_lang in of_task]) for of_task in (st, asr)]
        parts.append(f"{kind} {means[0]:.2f} on ST, {means[1]:.2f} on ASR ({_interval(gaps[kind])})")
    asked = [gaps["feed_forward"], gaps["self_attn"]]
    verdict = NOT_SEEN
    if all(low > 0 for _, low, _ in asked):
        verdict = SEEN
    elif all(high < 0 for *_, high in asked):
        verdict = OPPOSITE
    return Finding(claim, rule, verdict, f"{decoding.label}: {'; '.join(parts)}")


def source_attention_late(view: View) -> Finding:
    """Source attention opens towards the end of decoding."""
    claim = "Source attention fires late in decoding"
    rule = (
        "Gates by token: seen if the open share of src_attn in the last third of the tokens exceeds that in the first "
        "third (95 % bootstrap interval above 0); opposite if it falls short."
    )
    decoding = view.middle("decoder")
    curves = position_curves(decoding.stats) if decoding else {}
    if decoding is None or not curves:
        why = "no gates by token are on record (those decided once per utterance do not depend on the position)"
        return Finding(claim, rule, UNTESTABLE, why)
    bins = np.concatenate(list(curves.values()))
    gap = mean_interval(bins[:, -3:].mean(axis=1) - bins[:, :3].mean(axis=1))
    verdict = SEEN if gap[1] > 0 else OPPOSITE if gap[2] < 0 else NOT_SEEN
    return Finding(claim, rule, verdict, f"{decoding.label}: last - first third {_interval(gap)}")


def decoder_pays_more(view: View) -> Finding:
    """In joint training pruning the decoder gives more time for less quality than pruning the encoder."""
    claim = "In joint training, pruning the decoder pays more than pruning the encoder"
    rule = (
        "One checkpoint, one stack pruned at the same sparsity (nearest 0.5): seen if the pruned decoder saves at "
        "least as much latency and loses no more WER and BLEU; opposite if that holds for the encoder; else not seen "
        "(a trade)."
    )
    open_, systems = view.unpruned(), view.test_set.of(view.system)
    levels = sorted({d.asked[1] for d in systems if d.series == "decoder"}, key=lambda s: abs(s - MIDDLE))
    pair = next(((e, d) for s in levels if (e := view.at(s, 0.0)) and (d := view.at(0.0, s))), None)
    if open_ is None or pair is None:
        return Finding(claim, rule, UNTESTABLE, "needs encoder-only and decoder-only decodings at one sparsity")
    gains = [_gains(d, open_) for d in pair]
    shared = [name for name in gains[0] if gains[0][name] is not None and gains[1][name] is not None]
    if "latency" not in shared or len(shared) < 2:
        return Finding(claim, rule, UNTESTABLE, "latency or scores were not measured")
    better = [float(gains[1][name] or 0.0) - float(gains[0][name] or 0.0) for name in shared]
    verdict = NOT_SEEN
    if any(better):
        verdict = SEEN if min(better) >= 0 else OPPOSITE if max(better) <= 0 else NOT_SEEN
    text = "; ".join(f"{d.label}: {_changes(d, open_)}" for d in pair)
    return Finding(claim, rule, verdict, f"{text} (against {open_.label})")


def asr_time(view: View) -> Finding:
    """Half the decoder: 28.6 % less time for 2.8 % more WER."""
    claim = "ASR at 50 % decoder sparsity: 28.6 % less inference time for 2.8 % more WER"
    rule = "Against the dense system: seen if latency falls by at least 28.6 % and WER rises by at most 2.8 % relative"
    return _time(view, claim, rule, "asr", "wer", 0.286)


def st_time(view: View) -> Finding:
    """Half the decoder: 34.3 % less time for the same BLEU."""
    claim = "ST at 50 % decoder sparsity: 34.3 % less inference time with no BLEU loss"
    rule = f"Against the dense system: seen if latency falls by at least 34.3 % and BLEU by at most {BLEU_NOISE}"
    return _time(view, claim, rule, "st", "bleu", 0.343)


def flops_fall(view: View) -> Finding:
    """60 % fewer FLOPs at high sparsity."""
    return _deepest(view, "FLOPs fall by 60 % at high sparsity", "gflops", 0.60, "GFLOPs")


def latency_falls(view: View) -> Finding:
    """9.28 s to 5.22 s at higher sparsity."""
    return _deepest(
        view, "Latency falls from 9.28 s to 5.22 s (-43.8 %) at higher sparsity", "latency_s", 0.438, "latency"
    )


RULES: tuple[Callable[[View], Finding], ...] = (
    asr_lives_on_cgmlp,
    asr_decoder_free,
    encoder_hurts,
    st_needs_decoder,
    source_attention_late,
    decoder_pays_more,
    asr_time,
    st_time,
    flops_fall,
    latency_falls,
)


def structure_differs(view: View) -> list[Contrast]:
    """ASR against ST in both stacks, at the decodings the findings look at."""
    found: list[Contrast] = []
    for stack in STACKS:
        if decoding := view.middle(stack):
            found += task_contrasts(decoding.gates[stack], stack)
    return found


def _price(view: View, claim: str, rule: str, decoding: Decoding | None, missing: str, cheap: bool) -> Finding:
    """Decide by the relative rise of WER from no sparsity to ``decoding``; ``cheap``: a small one is the claim."""
    base = view.unpruned()
    if decoding is None or base is None:
        return Finding(claim, rule, UNTESTABLE, missing)
    new, old = decoding.value("wer", "asr"), base.value("wer", "asr")
    if new is None or old is None:
        return Finding(claim, rule, UNTESTABLE, "WER was not measured")
    rise = relative(new, old)
    if rise is None:  # from no wrong word at all
        rise = 0.0 if new <= old else math.inf
    pair = next((c for c in view.compared if (c.kind, c.a, c.b) == (PRUNING_ALONE, base, decoding)), None)
    low, high = (rise, rise) if pair is None or pair.result.metric != "wer" else _rise_between(pair, old)
    small, large = (SEEN, OPPOSITE) if cheap else (OPPOSITE, SEEN)
    verdict = NOT_SEEN
    if max(rise, high) <= SMALL_LOSS + 1e-9:
        verdict = small
    elif min(rise, low) > LARGE_LOSS + 1e-9:
        verdict = large
    told = "" if low == high else f"; rise of WER between {percent(low)} and {percent(high)}"
    return Finding(claim, rule, verdict, f"{decoding.label} against {base.label}: {_changes(decoding, base)}{told}")


def _rise_between(pair: Comparison, old: float) -> tuple[float, float]:
    """The paired interval as a relative rise; without a wrong word before, any is one without end."""
    low, high = (end / old if old > 0 else math.copysign(math.inf, end) if end else 0.0 for end in pair.result.ci)
    return low, high


def _time(view: View, claim: str, rule: str, task: str, score: str, saving: float) -> Finding:
    rule += "; opposite if it takes no less time. Decoder sparsity 0.5, encoder open."
    decoding, base = view.at(0.0, MIDDLE), view.cost_base
    if decoding is None:
        return Finding(claim, rule, UNTESTABLE, "no decoding at encoder 0, decoder 0.5")
    if base is None:
        return Finding(claim, rule, UNTESTABLE, NO_COST_BASE)
    if max(decoding.batch_size, base.batch_size) > 1:
        return Finding(claim, rule, UNTESTABLE, BATCHED)
    time = relative(decoding.value("latency_s", task), base.value("latency_s", task))
    new, old = decoding.value(score, task), base.value(score, task)
    if time is None or new is None or old is None:
        return Finding(claim, rule, UNTESTABLE, f"latency or {score.upper()} was not measured")
    rise = relative(new, old)
    kept = (
        new - old >= -BLEU_NOISE - 1e-9 if score == "bleu" else (new <= old if rise is None else rise <= 0.028 + 1e-9)
    )
    verdict = SEEN if time <= -saving + 1e-9 and kept else OPPOSITE if time >= 0 else NOT_SEEN
    digits = score_digits(decoding.value("n", task))
    quality = f"{score.upper()} {old:.{digits}f} → {new:.{digits}f} ({_score_change(score, new, old, digits)})"
    return Finding(claim, rule, verdict, f"{decoding.label} against {base.label}: latency {percent(time)}, {quality}")


def _deepest(view: View, claim: str, name: str, goal: float, what: str) -> Finding:
    """The decoding of the best quality that reaches the goal, or else the one that comes nearest."""
    base = view.cost_base
    rule = (
        f"Against the dense system, at any sparsity decoded: seen if {what} falls by at least {100 * goal:.1f} %; "
        "opposite if it never falls. Shown: the decoding with the lowest WER that gets there, else the one nearest."
    )
    falls = changes_from(base, view.pruned(), name)
    if base is None or not falls:
        return Finding(claim, rule, UNTESTABLE, NO_COST_BASE if base is None else f"{what} was not measured")
    if name == "latency_s" and max(d.batch_size for d in (base, *(d for _, d in falls))) > 1:
        return Finding(claim, rule, UNTESTABLE, BATCHED)
    enough = [(change, d) for change, d in falls if change <= -goal + 1e-9]
    best = min(enough, key=lambda item: loss(item[1])) if enough else min(falls, key=lambda item: item[0])
    fall, decoding = best
    verdict = SEEN if enough else OPPOSITE if fall >= 0 else NOT_SEEN
    old, new = base.value(name), decoding.value(name)
    return Finding(
        claim,
        rule,
        verdict,
        f"{decoding.label} against {base.label}: {what} {number(old, None)} → {number(new, None)} ({percent(fall)}); "
        f"{_changes(decoding, base, with_time=False)}",
    )


def changes_from(base: Decoding | None, decodings: Sequence[Decoding], name: str) -> list[tuple[float, Decoding]]:
    """Relative change of a number over all utterances, of each decoding where it is known."""
    if base is None:
        return []
    changes = [(relative(d.value(name), base.value(name)), d) for d in decodings]
    return [(change, d) for change, d in changes if change is not None]


def loss(decoding: Decoding) -> tuple[float, float]:
    """For sorting: the best quality first."""
    return decoding.value("wer", "asr") or 0.0, -(decoding.value("bleu", "st") or 0.0)


def _gains(decoding: Decoding, base: Decoding) -> dict[str, float | None]:
    """What is better than in ``base``: seconds saved, WER saved, BLEU gained."""
    directions = {"latency": (-1, "latency_s", ALL), "wer": (-1, "wer", "asr"), "bleu": (1, "bleu", "st")}
    found: dict[str, float | None] = {}
    for gain, (better, name, task) in directions.items():
        new, old = (d.value(name, task) for d in (decoding, base))
        found[gain] = None if new is None or old is None else better * (new - old)
    return found


def _changes(decoding: Decoding, base: Decoding, with_time: bool = True) -> str:
    """WER, BLEU and latency of both, where measured."""
    parts = []
    for name, task in (("wer", "asr"), ("bleu", "st")):
        new, old = decoding.value(name, task), base.value(name, task)
        if new is not None and old is not None:
            digits = score_digits(decoding.value("n", task))
            change = _score_change(name, new, old, digits)
            parts.append(f"{name.upper()} {old:.{digits}f} → {new:.{digits}f} ({change})")
    time = relative(decoding.value("latency_s"), base.value("latency_s"))
    if with_time and time is not None:
        parts.append(f"latency {percent(time)}")
    return ", ".join(parts) or "no scores"


def _score_change(name: str, new: float, old: float, digits: int) -> str:
    change = relative(new, old)
    return f"{new - old:+.{digits}f}" if name == "bleu" or change is None else percent(change)


def _per_utterance(table: GateTable, kind: str) -> FloatArray:
    """(n,) open share of the modules of one kind in each utterance."""
    return np.asarray(table.values[:, table.of_kind(kind)].mean(axis=1), dtype=np.float64)


def _mean_difference(
    a: Sequence[FloatArray], b: Sequence[FloatArray], resamples: int = 1000
) -> tuple[float, float, float]:
    """Difference of the means of two groups, averaged over strata, with a bootstrap 95 % interval."""
    rng = np.random.default_rng(12345)

    def draw(values: FloatArray) -> float:
        return float(values[rng.integers(len(values), size=len(values))].mean())

    draws = [np.mean([draw(x) - draw(y) for x, y in zip(a, b, strict=True)]) for _ in range(resamples)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)])), float(low), float(high)


def _interval(gap: tuple[float, float, float]) -> str:
    return f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]"
