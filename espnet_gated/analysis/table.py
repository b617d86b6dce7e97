"""Tables as aligned plain text and as Markdown, and what stands in their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[str]

LARGE = 2000
"""Utterances from which on hundredths of WER and BLEU are worth showing."""


def text_table(header: Row, rows: Sequence[Row], n_left: int = 1) -> str:
    """Aligned plain text; the first ``n_left`` columns are left-aligned, numbers right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Row) -> str:
        aligned = [
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown_table(header: Row, rows: Sequence[Row], n_left: int = 1) -> str:
    """Markdown; the first ``n_left`` columns are left-aligned, numbers right."""
    rule = ["---" if i < n_left else "---:" for i in range(len(header))]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows))
    return "\n".join("|" + "|".join(cells) + "|" for cells in escaped)


def number(value: float | None, digits: int | None = 1) -> str:
    """A number for a table cell; ``-`` where there is none.

    Args:
        value: of any size.
        digits: behind the point; ``None``: three figures in all (0.0681, 1.98, 473).
    """
    if value is None:
        return "-"
    if digits is None:
        before_point = math.floor(math.log10(abs(value))) + 1 if value else 3
        digits = max(0, 3 - before_point)
    return f"{value:.{digits}f}"


def score_digits(utterances: float | None) -> int:
    """Behind the point, of scores in percent over so many utterances."""
    return 2 if (utterances or 0) >= LARGE else 1


def with_interval(value: float | None, ci: Sequence[float] | None, digits: int = 1) -> str:
    """``12.3 [11.0, 13.5]``."""
    if value is None or ci is None:
        return number(value, digits)
    return f"{value:.{digits}f} [{ci[0]:.{digits}f}, {ci[1]:.{digits}f}]"


def relative(new: float | None, old: float | None) -> float | None:
    """Relative change, 0.1 for a tenth more; ``None`` where one is not known or the old value is not positive."""
    return None if new is None or old is None or old <= 0 else (new - old) / old


def percent(share: float | None) -> str:
    """``+2.8 %``."""
    return "-" if share is None else f"{100 * share:+.1f} %"


def pair_name(src: str, tgt: str) -> str:
    """``deu`` for speech that is recognised, ``deu→eng`` for speech that is translated."""
    return src if src == tgt else f"{src}→{tgt}"
