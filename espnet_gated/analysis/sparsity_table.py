"""The published table: WER and BLEU by language, with the encoder, the decoder or both pruned, at each sparsity.

Source: Someki et al., Context-aware Dynamic Pruning for Speech Foundation Models, ICLR 2025 (there 10 to 90 %).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from espnet_gated.analysis.scoring import ALL
from espnet_gated.analysis.table import number, pair_name, percent, relative

GROUPS = ("encoder", "decoder", "both")
"""What is pruned; a system that has points in each has a table."""
SCORES = (("wer", "asr", "WER"), ("bleu", "st", "BLEU"))
"""Name in the rows, task, name in the table."""

Row = Mapping[str, Any]
Asked = tuple[float, float]
Cells = dict[tuple[str, str, str], Row]
Table = tuple[str, tuple[str, ...], list[list[str]]]


def sparsity_tables(rows: Iterable[Row], references: Sequence[str]) -> list[Table]:
    """A table for each system that was decoded with a pruned encoder, a pruned decoder and both.

    Args:
        rows: scores of one test set; those over all tasks are not looked at.
        references: the dense systems. All that were decoded are shown; changes are against the first of them. A system
            with another search (``gated+ctc``) has its references with the same search.

    Returns:
        (title, header, cells), without columns that hold nothing. A cell is the score and its change: of WER relative,
        of BLEU absolute.
    """
    systems: dict[str, dict[Asked, Cells]] = {}
    for row in rows:
        if row["task"] != ALL:
            asked = float(row["sparsity_encoder"] or 0.0), float(row["sparsity_decoder"] or 0.0)
            place = row["task"], row["src"], row["tgt"]
            systems.setdefault(row["system"], {}).setdefault(asked, {})[place] = row
    tables = []
    for name, points in systems.items():
        if {pruned(asked) for asked in points} >= set(GROUPS):
            names = [reference + search_of(name) for reference in references]
            tables.append(_table(name, points, {n: systems[n] for n in names if n in systems}))
    return tables


def pruned(asked: Asked) -> str:
    """Where a decoding was asked to skip: ``none``, ``encoder``, ``decoder`` or ``both``."""
    encoder, decoder = (share > 0 for share in asked)
    if encoder and decoder:
        return "both"
    return "encoder" if encoder else "decoder" if decoder else "none"


def search_of(system: str) -> str:
    """What the name of a system says of its search: ``+ctc``, or nothing."""
    _, plus, search = system.partition("+")
    return plus + search


def _table(name: str, points: Mapping[Asked, Cells], dense: Mapping[str, Mapping[Asked, Cells]]) -> Table:
    found = [(reference, next(iter(of.values()))) for reference, of in dense.items()]
    base: Cells = found[0][1] if found else {}
    columns = [
        (key, place, f"{title} {pair_name(*place[1:])}")
        for key, task, title in SCORES
        for place in _places([*points.values(), base], task, key)
    ]
    order = sorted(points, key=lambda asked: (("none", *GROUPS).index(pruned(asked)), sum(asked), asked))
    lines = [([reference, "-"], cells) for reference, cells in found]
    lines += [([pruned(asked), _level(asked)], points[asked]) for asked in order]
    table = [
        [*head, *(_cell(cells, {} if cells is base else base, key, place) for key, place, _ in columns)]
        for head, cells in lines
    ]
    title = f"{name}: WER (%) and BLEU by what is pruned" + (f" (change against {found[0][0]})" if found else "")
    return title, ("pruned", "sparsity", *(header for *_, header in columns)), table


def _places(points: Sequence[Cells], task: str, key: str) -> list[tuple[str, str, str]]:
    """(task, src, tgt) of the columns of a score: all languages together, then each."""
    seen = {place for cells in points for place, row in cells.items() if place[0] == task and row.get(key) is not None}
    return sorted(seen, key=lambda place: (ALL not in place, place))


def _cell(cells: Cells, base: Cells, key: str, place: tuple[str, str, str]) -> str:
    new, old = (of.get(place, {}).get(key) for of in (cells, base))
    share = relative(new, old)
    if new is None or old is None or (key == "wer" and share is None):  # nothing is a share of 0
        return number(new)
    return f"{number(new)} ({f'{new - old:+.1f}' if key == 'bleu' else percent(share)})"


def _level(asked: Asked) -> str:
    """One number where there is one."""
    used = {share for share in asked if share} or {0.0}
    return f"{used.pop():g}" if len(used) == 1 else "/".join(f"{share:g}" for share in asked)
