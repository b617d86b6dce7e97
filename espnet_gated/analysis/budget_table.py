"""Sparsity asked and reached: what ``python -m espnet_gated.bin.budget`` measured, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_gated.analysis.files import files_below
from espnet_gated.analysis.table import number

PATTERN = "budget_{}.json"
"""Name of the file for a test set; ``*``: of all."""
TITLE = "Sparsity asked and reached"
HEADER = (
    "asked",
    "exact: encoder, farthest off",
    "learned: encoder, mean",
    "exact: decoder, farthest off",
    "learned: decoder, mean",
    "learned: decoder alone, mean",
)
LEGEND = (
    "exact: the greatest distance of a single utterance's share from what was asked; learned: the average share. "
    "Both stacks are asked for the same; alone: behind a whole encoder."
)
_COLUMNS = (
    ("exact", "encoder", True),
    ("learned", "encoder", True),
    ("exact", "decoder", True),
    ("learned", "decoder", True),
    ("learned", "decoder", False),
)  # budget, stack, and whether the encoder is pruned as much

Share = Mapping[str, Any]


def budget_cells(shares: Sequence[Share]) -> list[list[str]]:
    """Cells under ``HEADER``, a line for each sparsity.

    Args:
        shares: see :func:`espnet_gated.inference.learned_budget.measure_shares`.
    """
    return [
        [f"{sparsity:g}", *(_cell([s for s in shares if s["sparsity"] == sparsity], *column) for column in _COLUMNS)]
        for sparsity in sorted({share["sparsity"] for share in shares})
    ]


def read_budgets(expdir: Path, test_set: str = "*") -> list[tuple[str, list[list[str]]]]:
    """Tables of the budgets measured below a directory, on a test set or on all: (heading, cells).

    Raises:
        ValueError: for a broken file, naming it.
    """
    tables = []
    for path in files_below(expdir, PATTERN.format(test_set)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            heading = f"{TITLE}: {path.parent.name}, {content['utterances']} utterances of {content['data_dir']}"
            tables.append((heading, budget_cells(content["shares"])))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not what bin.budget writes ({error!r}); measure again") from None
    return tables


def _cell(shares: Sequence[Share], budget: str, stack: str, equal: bool) -> str:
    for share in shares:
        same = share["behind"] == share["sparsity"]
        if (share["budget"], share["stack"], same) == (budget, stack, equal):
            return number(share["farthest"] if budget == "exact" else share["mean"], 3)
    return number(None)
