"""The main results of a test set in a few lines."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_gated.analysis.comparisons import BETTER, WORSE, Comparison, Comparisons
from espnet_gated.analysis.experiment import STACKS, Decoding, TestSet
from espnet_gated.analysis.findings import VERDICTS, Finding, changes_from, loss, structure_differs
from espnet_gated.analysis.gate_stats import TOLERANCE, budgets_kept, variation
from espnet_gated.analysis.results import OTHER_UTTERANCES, in_batches
from espnet_gated.analysis.table import number, percent, relative, score_digits
from espnet_gated.analysis.view import View

POINTS = (
    ("sparsity 0", 0.0, 0.0),
    ("decoder 0.5", 0.0, 0.5),
    ("encoder 0.3, decoder 0.5", 0.3, 0.5),
    ("both 0.5", 0.5, 0.5),
)
"""The sparsities that the headline is about: (name, encoder, decoder)."""
FLOPS_GOAL = 0.6
COSTS = ("gflops", "gflops_decoder", "latency_s")
PRICE_HEADER = ("", "system", "WER", "BLEU", "GFLOPs", "decoder's", "latency")


def price_rows(view: View, comparisons: Comparisons) -> list[list[str]]:
    """What the gated system costs and saves at the points of interest, under ``PRICE_HEADER``; empty without a base.

    Scores: the gated system's and its difference to the reference's, with the interval where the two were compared.
    FLOPs and times are compared with the :attr:`View.cost_base`.
    """
    base, costs = view.reference, view.cost_base
    if base is None:
        return []
    points = [(name, d) for name, *asked in POINTS if (d := view.at(asked[0], asked[1]))]
    falls = changes_from(costs, view.pruned(), "gflops")
    if deep := [d for change, d in falls if change <= -FLOPS_GOAL]:
        points.append(("60 % fewer FLOPs", min(deep, key=loss)))
    rows = []
    for name, d in points:
        changes = ["-" if costs is None else percent(relative(d.value(k), costs.value(k))) for k in COSTS]
        scores = [_score(d, base, comparisons, *k) for k in (("wer", "asr"), ("bleu", "st"))]
        rows.append([name, d.label, *scores, *changes])
    return rows


def in_short(test_set: TestSet, gated: str | None, comparisons: Comparisons, findings: Sequence[Finding]) -> list[str]:
    """The main results but the prices, a sentence each."""
    systems = list(dict.fromkeys(d.system for d in test_set.decodings))
    lines = [f"{test_set.n} utterances, {len(test_set.decodings)} decodings of {', '.join(systems)}."]
    if len({d.value("n") for d in test_set.decodings}) > 1:
        lines.append(OTHER_UTTERANCES[0].upper() + OTHER_UTTERANCES[1:])
    if batches := in_batches(d.batch_size for d in test_set.decodings):
        lines.append(batches[0].upper() + batches[1:])
    if gated is None:
        return [*lines, "No system was decoded at a sparsity above 0, so there is nothing to say about gates."]
    view = View(test_set, gated)
    lines += _flops_line(view)
    lines += rival_lines(comparisons.done)
    lines += _search_lines(comparisons)
    lines += _budget_line(test_set.of(gated))
    lines += _structure_lines(view)
    counts = [f"{n} {v}" for v in VERDICTS if (n := sum(f.verdict == v for f in findings))]
    return [*lines, f"Published findings: {', '.join(counts)}."]


def difference(c: Comparison) -> str:
    """``-0.2 [-0.5, +0.1]``: of a paired comparison."""
    low, high = c.result.ci
    return f"{c.result.difference:+.{c.digits}f} [{low:+.{c.digits}f}, {high:+.{c.digits}f}]"


def _score(d: Decoding, base: Decoding, comparisons: Comparisons, metric: str, task: str) -> str:
    """The score and its difference to the base's."""
    new, old = d.value(metric, task), base.value(metric, task)
    if new is None or old is None:
        return "-"
    paired = next((c for c in comparisons.done if (c.a, c.b, c.result.metric) == (base, d, metric)), None)
    change = relative(new, old)
    digits = paired.digits if paired else score_digits(d.value("n", task))
    text = f"{new:.{digits}f}, " + (difference(paired) if paired else f"{new - old:+.{digits}f}")
    return f"{text}, {percent(change)}" if metric == "wer" and change is not None else text


def base_line(base: Decoding, costs: Decoding | None = None) -> str:
    """The system that prices are taken against, with its own numbers; and another that costs are taken against."""
    parts = []
    for name, task in (("wer", "asr"), ("bleu", "st")):
        if (value := base.value(name, task)) is not None:
            parts.append(f"{name.upper()} {number(value, score_digits(base.value('n', task)))}")
    if (gflops := base.value("gflops")) is not None:
        parts.append(f"{number(gflops, None)} GFLOPs")
    if (latency := base.value("latency_s")) is not None:
        parts.append(f"{1000 * latency:.0f} ms")
    other = "" if costs in (None, base) else f"; FLOPs and times against {costs.label}"
    return f"{base.label} ({', '.join(parts)}){other}"


def _flops_line(view: View) -> list[str]:
    known = [change for change, _ in changes_from(view.cost_base, view.pruned(), "gflops")]
    if not known or min(known) <= -FLOPS_GOAL:
        return []
    return [f"60 % fewer FLOPs are not reached: the greatest change is {percent(min(known))}."]


def rival_lines(comparisons: Sequence[Comparison], measure: str = "") -> list[str]:
    """Whether the gated system beats each other one that skips as much.

    Args:
        comparisons: of all kinds.
        measure: what they compare, unless the names of the metrics say it.
    """
    lines = []
    same = [c for c in comparisons if c.kind == "same sparsity"]
    for rival in dict.fromkeys(c.a.system for c in same):
        of_rival = [c for c in same if c.a.system == rival]
        won, lost = ([c for c in of_rival if c.verdict == verdict] for verdict in (BETTER, WORSE))
        is_worse = f"; it is worse in {len(lost)}: {_places(lost)}" if lost else ""
        lines.append(
            f"{of_rival[0].b.system} beats {rival} at the same sparsity by more than the 95 % interval in {len(won)} "
            f"of {len(of_rival)} comparisons{measure}: {_places(won) or 'nowhere'}{is_worse}."
        )
    return lines


def _places(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(f"{c.result.metric.upper()} at {c.b.asked[0]:g}/{c.b.asked[1]:g}" for c in comparisons)


def _search_lines(comparisons: Comparisons) -> list[str]:
    """The price of sparsity with another search, a line each."""
    priced = [c for c in comparisons.done if c.kind == "price of sparsity" and c.b.search]
    lines = []
    for b in dict.fromkeys(c.b.name for c in priced):
        of_b = [c for c in priced if c.b.name == b]
        scores = ", ".join(f"{c.result.metric.upper()} {difference(c)}" for c in of_b)
        lines.append(f"{of_b[0].b.label} against {of_b[0].a.label}: {scores}.")
    return lines


def _budget_line(decodings: Sequence[Decoding]) -> list[str]:
    kept = budgets_kept(decodings)
    if not kept:
        return []
    mean, worst = max(abs(k.deviation) for k in kept), max((k.worst for k in kept if k.exact), default=None)
    keeps = "within" if mean <= TOLERANCE + 1e-9 else "not within"
    single = "" if worst is None else f" and, with an exact budget, by at most {worst:.3f} in one utterance"
    return [
        f"Sparsity asked and reached differ by at most {mean:.3f} on average over a decoding ({keeps} the bound of "
        f"{TOLERANCE:g}){single}."
    ]


def _structure_lines(view: View) -> list[str]:
    """Whether the best structure depends on task and language."""
    parts = []
    for stack in STACKS:
        decoding = view.middle(stack)
        if decoding is None:
            continue
        v = variation(decoding.gates[stack])
        shares = [("task", v.by_task), ("language", v.by_language)]
        known = [f"{name} {100 * share:.0f} %" for name, share in shares if share is not None]
        if known:
            parts.append(f"{stack} ({decoding.label}): {', '.join(known)}")
        elif v.constant == v.modules:
            parts.append(f"{stack} ({decoding.label}): none, the gates are the same for every utterance")
    lines = [f"Explained share of the gates' variance, {'; '.join(parts)}."] if parts else []
    if contrasts := structure_differs(view):
        clear = sum(c.is_clear for c in contrasts)
        lines.append(f"ASR and ST differ clearly in the open share of {clear} of {len(contrasts)} modules.")
    return lines
