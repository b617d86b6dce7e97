"""The report's sections about gates: where they are open, what differs, how far they vary, budgets."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_gated.analysis.experiment import STACKS, Decoding, TestSet
from espnet_gated.analysis.gate_stats import (
    TOLERANCE,
    BudgetKept,
    Contrast,
    budgets_kept,
    language_contrasts,
    position_curves,
    ranked,
    task_contrasts,
    variation,
)
from espnet_gated.analysis.page import Cell, Mark, Page
from espnet_gated.analysis.plots import (
    budget_figure,
    contrast_panels,
    group_panels,
    heat_maps,
    level_panels,
    png,
    position_figure,
)
from espnet_gated.analysis.view import View

LEVELS = 5
"""Sparsities shown side by side."""
RANKED = 12
"""Rows of a ranked table."""


def add_all(page: Page, prefix: str, test_set: TestSet, gated: str) -> None:
    """Add the sections of one gated system on one test set; what was not recorded is left out or said to be missing."""
    view = View(test_set, gated)
    shown = {stack: d for stack in STACKS if (d := view.middle(stack))}
    if not shown:
        page.section(f"{prefix}Gates")
        page.text(f"The decodings of {gated} recorded no gates of a pruned stack.")
    else:
        _open_shares(page, prefix, test_set, gated, shown)
        _differences(page, prefix, test_set, shown)
        _variation(page, prefix, test_set.of(gated))
        _positions(page, prefix, test_set, shown.get("decoder"))
    _budgets(page, prefix, test_set)


def levels(decodings: Sequence[Decoding], stack: str) -> list[Decoding]:
    """One decoding for each sparsity asked of a stack, the one whose other stack is most open; at most five."""
    i = STACKS.index(stack)
    found: dict[float, Decoding] = {}
    for d in sorted(decodings, key=lambda d: (d.asked[i], d.asked[1 - i])):
        if d.asked[i] > 0 and stack in d.gates:
            found.setdefault(d.asked[i], d)
    chosen = list(found.values())
    if len(chosen) <= LEVELS:
        return chosen
    return [chosen[round(k * (len(chosen) - 1) / (LEVELS - 1))] for k in range(LEVELS)]


def _open_shares(page: Page, prefix: str, test_set: TestSet, gated: str, shown: dict[str, Decoding]) -> None:
    page.section(f"{prefix}Where gates are open")
    page.text(
        "How often each module runs, in percent of the utterances; layer 0 is next to the input. Dark is open, white "
        "is always skipped, grey has no gate. The colour scale is the same everywhere."
    )
    for stack, d in shown.items():
        table = d.gates[stack]
        page.heading(stack.capitalize())
        figure = heat_maps(group_panels(table), table.kinds, "open share")
        caption = f"{stack.capitalize()} of {d.label}: {_why(d, stack)}. Per task: all its languages, then each."
        page.figure(f"{test_set.title} open {stack}", png(figure), caption)
        chosen = levels(test_set.of(gated), stack)
        if len(chosen) > 1:
            figure = heat_maps(level_panels(chosen, stack), table.kinds, "open share")
            labels = ", ".join(c.label for c in chosen)
            caption = f"{stack.capitalize()} as sparsity rises, all languages. Decodings: {labels}."
            page.figure(f"{test_set.title} levels {stack}", png(figure), caption)


def _why(decoding: Decoding, stack: str) -> str:
    asked = decoding.asked[STACKS.index(stack)]
    other = decoding.asked[1 - STACKS.index(stack)]
    rest = "the other stack open" if other == 0 else f"the other stack at {other:g}"
    return f"sparsity asked of it {asked:g}, the nearest to 0.5 that was decoded, {rest}"


def _differences(page: Page, prefix: str, test_set: TestSet, shown: dict[str, Decoding]) -> None:
    by_task: list[Contrast] = []
    by_language: list[Contrast] = []
    pictures = []
    for stack, d in shown.items():
        table = d.gates[stack]
        found = task_contrasts(table, stack), language_contrasts(table, stack)
        by_task += found[0]
        by_language += found[1]
        if any(found):
            both = [*found[0], *found[1]]
            limit = max(0.2, max(abs(c.difference) for c in both))
            pictures.append((stack, d, limit, contrast_panels(both, table)))
    if not pictures:
        return
    page.section(f"{prefix}What differs between tasks and languages")
    scale = max(limit for _, _, limit, _ in pictures)
    for stack, d, _, panels in pictures:
        figure = heat_maps(panels, d.gates[stack].kinds, "difference", cmap="RdBu", limit=scale)
        caption = (
            f"{stack.capitalize()} of {d.label}: difference of open share in percentage points; blue: the first group "
            "runs it more often, red: the second. Bold: the 95 % interval leaves zero out."
        )
        page.figure(f"{test_set.title} differences {stack}", png(figure), caption)
    _ranking(page, "ASR against ST", by_task)
    _ranking(page, "Each language against the others", by_language)
    page.text(
        "Intervals: Newcombe's for the difference of two shares (from Wilson's), which take the groups as independent "
        "samples of utterances. About one interval in twenty leaves zero out by chance.",
        soft=True,
    )


def _ranking(page: Page, title: str, contrasts: Sequence[Contrast]) -> None:
    if not contrasts:
        return
    page.heading(title)
    clear = sum(c.is_clear for c in contrasts)
    page.text(
        f"The {min(RANKED, len(contrasts))} greatest of {len(contrasts)} differences; {clear} of them all are clear "
        "(their interval leaves zero out)."
    )
    rows: list[Sequence[Cell]] = []
    for c in ranked(contrasts)[:RANKED]:
        low, high = c.ci
        difference = f"{100 * c.difference:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"
        mark = Mark("clear", "good") if c.is_clear else Mark("not clear", "none")
        rows.append(
            [
                *(c.stack, c.module, c.group_a, c.group_b),
                *(f"{100 * s:.0f} %" for s in (c.share_a, c.share_b)),
                difference,
            ]
            + [mark]
        )
    header = ["stack", "module", "group", "against", "open", "open there", "difference, points [95 %]", ""]
    page.table(header, rows, left=4)


def _variation(page: Page, prefix: str, decodings: Sequence[Decoding]) -> None:
    page.section(f"{prefix}How far gates vary")
    page.text(
        "Entropy of a gate in bits, mean over modules: 0 if it is always open or always closed, 1 if it is open for "
        "half of the utterances. Within: among utterances of one task and language. Explained: the share of the gates' "
        "variance that lies between tasks, between languages, between both together; the rest is the utterance's own. "
        "By chance: what as many groups without meaning would explain."
    )
    rows: list[Sequence[Cell]] = []
    for d in decodings:
        for stack, table in d.gates.items():
            if d.asked[STACKS.index(stack)] == 0:
                continue
            v = variation(table)
            shares = (v.by_task, v.by_language, v.by_both, v.chance_by_both)
            rows.append(
                [d.label, stack, f"{v.entropy:.2f}", f"{v.entropy_within:.2f}"]
                + ["-" if s is None else f"{100 * s:.0f} %" for s in shares]
                + [f"{v.constant} of {v.modules}", f"{v.masks} in {v.n}"]
            )
    header = ["system", "stack", "entropy", "within", "by task", "by language", "by both", "by chance"]
    page.table([*header, "modules that never change", "different masks"], rows, left=2)


def _positions(page: Page, prefix: str, test_set: TestSet, decoding: Decoding | None) -> None:
    page.section(f"{prefix}Source attention over the decoding position")
    curves = position_curves(decoding.stats) if decoding else {}
    if decoding is None or not curves:
        page.text(
            "No gates by token are on record. Gates that are decided once per utterance open or close source attention "
            "for all of it, so that there is no curve over the position."
        )
        return
    what = "mean open share of src_attn over layers and utterances in each tenth of the output; band: 95 %"
    caption = f"{decoding.label}: {what}."
    page.figure(f"{test_set.title} source attention", png(position_figure(curves)), caption)


def _budgets(page: Page, prefix: str, test_set: TestSet) -> None:
    kept = budgets_kept(test_set.decodings)
    if not kept:
        return
    page.section(f"{prefix}Budgets kept")
    caption = (
        f"Sparsity reached minus asked: mean (dot) and range over the utterances (bar). Grey: ± {TOLERANCE:g}. All "
        "systems that were asked to skip."
    )
    page.figure(f"{test_set.title} budgets", png(budget_figure(kept)), caption)
    page.table(
        [
            "system",
            "stack",
            "asked",
            "reached",
            "mean deviation",
            "greatest",
            f"utterances beyond {TOLERANCE:g}",
            "kept",
        ],
        [_budget_row(k) for k in kept],
        left=2,
    )


def _budget_row(k: BudgetKept) -> list[Cell]:
    if not k.outside:
        mark = Mark("every utterance", "good")
    elif abs(k.deviation) > TOLERANCE + 1e-9:
        mark = Mark("missed", "bad")
    else:
        mark = Mark("not by every utterance", "bad") if k.exact else Mark("on average", "good")
    return [
        *(k.label, k.stack, f"{k.asked:g}", f"{k.reached:.3f}", f"{k.deviation:+.3f}", f"{k.worst:.3f}"),
        *(f"{k.outside} of {k.n}", mark),
    ]
