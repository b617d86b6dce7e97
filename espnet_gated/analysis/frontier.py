"""The frontier: quality against measured latency and FLOPs, one panel a task and a price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from espnet_gated.analysis.experiment import REFERENCES, SERIES, Decoding, TestSet
from espnet_gated.analysis.scales import scale_price, scale_score

# Okabe and Ito's colours: distinct under the common forms of colour blindness
_GATED_COLORS = {"both": "#0072B2", "decoder": "#009E73", "encoder": "#D55E00", "none": "#0072B2"}
_DENSE_STYLE = {"espnet": ("#000000", "X"), "dense": ("#7a7a7a", "D"), "control": ("#000000", "*")}
_OTHER_COLORS = (
    *("#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2", "#9E0142"),
    *("#66A61E", "#F46D43", "#01665E", "#BDB000", "#AF8DC3", "#6B4226"),
)
_MARKERS = {"both": "o", "decoder": "v", "encoder": "^", "none": "o"}

PRICES = (("latency_s", "Latency, seconds an utterance"), ("gflops", "GFLOPs an utterance"))
SCORES = (
    ("asr", "wer", "WER on ASR, % (lower is better)"),
    ("st", "bleu", "BLEU on ST (higher is better)"),
    ("st", "chrf", "chrF on ST (higher is better)"),
)


@dataclass(frozen=True)
class Point:
    """A decoding in a panel: its price, its score and the score's interval."""

    decoding: Decoding
    x: float
    y: float
    ci: tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points of one system in one series, by rising sparsity; the open model is part of every series."""

    system: str
    series: str
    points: Sequence[Point]
    color: str
    marker: str
    name: str
    """For the legend; references have theirs written beside them."""


@dataclass
class Label:
    """A text that wants to stand near a point; one that must not be left out is ``needed``."""

    text: str
    x: float
    y: float
    color: str
    needed: bool
    size: float


def shown_scores(test_set: TestSet) -> list[tuple[str, str, str]]:
    """(task, score, axis title) of what was scored; chrF only stands in where BLEU is missing."""
    found = [s for s in SCORES if any(d.value(s[1], s[0]) is not None for d in test_set.decodings)]
    return [s for s in found if s[1] != "chrf" or all(other[1] != "bleu" for other in found)]


def shown_prices(test_set: TestSet) -> list[tuple[str, str]]:
    """(name, axis title) of what was measured."""
    time = f"Seconds an utterance, in batches of {test_set.batch_size}"
    titles = {"latency_s": time} if test_set.batch_size > 1 else {}
    known = [p for p in PRICES if any(d.value(p[0]) is not None for d in test_set.decodings)]
    return [(name, titles.get(name, title)) for name, title in known]


def frontier(test_set: TestSet, gated: str | None) -> Figure | None:
    """Quality against price; ``None`` where nothing was both scored and measured."""
    scores, prices = shown_scores(test_set), shown_prices(test_set)
    if not scores or not prices:
        return None
    panels = [(score, price) for score in scores for price in prices]
    n_rows = max(1, len(panels) // 2)  # two beside each other
    n_columns = len(panels) // n_rows
    figure = Figure(figsize=(6.6 if n_columns == 1 else 5.0 * n_columns, 3.7 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    waiting: list[tuple[Axes, list[Label], list[Line]]] = []
    for axes, ((task, score, score_title), (price, price_title)) in zip(grid.flat, panels, strict=True):
        lines = series_lines(test_set, gated, task, score, price)
        labels = _draw(axes, lines, score)
        axes.set_xlabel(price_title)
        axes.set_ylabel(score_title)
        waiting.append((axes, labels, lines))
    _legend(figure, [line for _, _, lines in waiting for line in lines], n_columns)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # labels are placed in a layout that must not move any more
    for axes, labels, lines in waiting:
        _place(axes, labels, lines)
    return figure


def series_lines(test_set: TestSet, gated: str | None, task: str, score: str, price: str) -> list[Line]:
    """The lines of a panel: the dense systems, the gated one, the others."""
    lines = []
    others = [s for s in dict.fromkeys(d.system for d in test_set.decodings) if s not in (*REFERENCES, gated)]
    for system in dict.fromkeys(d.system for d in test_set.decodings):
        if _another_search(test_set, system, task, score):
            continue
        points = [p for d in test_set.of(system) if (p := _point(d, task, score, price))]
        open_ = [p for p in points if p.decoding.series == "none"]
        pruned = sorted({p.decoding.series for p in points} - {"none"}, key=SERIES.index)
        for series in pruned or ["none"]:
            members = open_ + [p for p in points if p.decoding.series == series and series != "none"]
            if not members:
                continue
            if system in _DENSE_STYLE:
                color, marker = _DENSE_STYLE[system]
            else:
                main = system == gated
                color = _GATED_COLORS[series] if main else _OTHER_COLORS[others.index(system) % len(_OTHER_COLORS)]
                marker = _MARKERS[series]
            members = sorted(members, key=lambda p: (sum(p.decoding.asked), p.decoding.asked))
            name = system if series == "none" else f"{system}, {series}"
            lines.append(Line(system, series, members, color, marker, name))
    return lines


def _another_search(test_set: TestSet, system: str, task: str, score: str) -> bool:
    """Whether a system's search (``+ctc``) changes no score of a task, so that its points would repeat another's."""
    pairs = [(d, test_set.at(d.system.removesuffix(d.search), *d.asked)) for d in test_set.of(system) if d.search]
    return bool(pairs) and all(other and d.value(score, task) == other.value(score, task) for d, other in pairs)


def _point(decoding: Decoding, task: str, score: str, price: str) -> Point | None:
    row = decoding.rows.get((task, "all", "all"), {})
    x, y = row.get(price), row.get(score)
    if x is None or y is None:
        return None
    low, high = row.get(f"{score}_ci") or (y, y)
    return Point(decoding, float(x), float(y), (float(low), float(high)))


def _draw(axes: Axes, lines: Sequence[Line], score: str) -> list[Label]:
    if not lines:
        axes.text(0.5, 0.5, "not measured on this task", transform=axes.transAxes, ha="center", color="#888888")
        axes.set(xticks=[], yticks=[])
    labels, seen = [], set()
    for line in lines:
        x, y = [p.x for p in line.points], [p.y for p in line.points]
        on_line = [p for p in line.points if line.series != "both" or p.decoding.asked[0] == p.decoding.asked[1]]
        dashes = "--" if line.system in _DENSE_STYLE or line.color in _OTHER_COLORS else "-"
        axes.plot(
            [p.x for p in on_line], [p.y for p in on_line], dashes, color=line.color, lw=1.4, alpha=0.75, zorder=2
        )
        down = [max(0.0, p.y - p.ci[0]) for p in line.points]
        up = [max(0.0, p.ci[1] - p.y) for p in line.points]
        axes.errorbar(x, y, yerr=[down, up], fmt="none", ecolor=line.color, elinewidth=0.9, alpha=0.35, zorder=1)
        big = 9 if line.marker == "*" else 5.5
        axes.plot(
            x,
            y,
            line.marker,
            color=line.color,
            ms=big,
            mec="white",
            mew=0.6,
            zorder=4 if line.system in _DENSE_STYLE else 3,
        )
        if line.system in REFERENCES:
            labels.append(Label(line.name, line.points[-1].x, line.points[-1].y, line.color, True, 8.0))
        for p in line.points:
            text = _sparsity(p.decoding, line.series)
            if text and (text, p.x, p.y) not in seen:
                seen.add((text, p.x, p.y))
                labels.append(Label(text, p.x, p.y, line.color, False, 6.8))
    _scale(axes, lines, score)
    return labels


def _sparsity(decoding: Decoding, series: str) -> str:
    encoder, decoder = decoding.asked
    if decoding.series == "none":
        return "0" if series != "none" else ""
    if series == "both" and encoder != decoder:
        return f"{encoder:g}/{decoder:g}"
    return f"{max(encoder, decoder):g}"


def _scale(axes: Axes, lines: Sequence[Line], score: str) -> None:
    """Axes on which near and far points can be told apart; room for labels."""
    axes.margins(x=0.1, y=0.12)
    points = [p for line in lines for p in line.points]
    scale_price(axes, [p.x for p in points])
    scale_score(axes, score, [p.y for p in points])
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, lines: Sequence[Line], n_columns: int) -> None:
    """One entry for each system and series that has no name of its own in the panels."""
    found = {line.name: line for line in lines if line.system not in REFERENCES}
    handles = []
    for name, line in found.items():
        dashes = "--" if line.color in _OTHER_COLORS else "-"
        handles.append(Line2D([], [], color=line.color, marker=line.marker, ls=dashes, label=name))
    if handles:
        columns = min(len(handles), 2 * n_columns)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _place(axes: Axes, labels: Sequence[Label], lines: Sequence[Line]) -> None:
    """Put each label where it covers least; numbers that find no free place are left out."""
    canvas: Any = axes.figure.canvas
    renderer = canvas.get_renderer()
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = _obstacles(axes, lines, scale)
    for label in sorted(labels, key=lambda item: not item.needed):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            color=label.color,
            size=label.size,
        )
        text.set_path_effects([withStroke(linewidth=2.2, foreground="white", alpha=0.85)])
        if label.needed:
            text.set_fontweight("bold")
        width, height = text.get_window_extent(renderer).size
        px, py = axes.transData.transform((label.x, label.y))
        best: tuple[float, float, float, Bbox] | None = None
        for dx, dy in _offsets(width / scale, height / scale, label.needed):
            x, y = px + dx * scale, py + dy * scale
            box = Bbox.from_bounds(x, y, width, height)
            cost = sum(weight * _covered(other, box) for other, weight in taken)
            if box.x0 < frame.x0 or box.x1 > frame.x1 + 4 * scale or box.y0 < frame.y0 or box.y1 > frame.y1:
                cost += 4.0
            cost += 0.012 * float(np.hypot(dx + width / scale / 2, dy + height / scale / 2))
            if best is None or cost < best[0]:
                best = cost, dx, dy, box
        assert best is not None
        if not label.needed and best[0] > 0.5:
            text.remove()
            continue
        text.set_position((best[1], best[2]))
        taken.append((best[3], 4.0))


def _offsets(width: float, height: float, needed: bool) -> list[tuple[float, float]]:
    """Where the lower left corner of a text may stand, in points from its point."""
    rings = (5.0, 11.0, 19.0, 28.0) if needed else (4.0,)
    found = []
    for r in rings:
        for x in (r, -width / 2, -width - r):
            for y in (r - 1, -height / 2, -height - r + 1):
                if (x, y) != (-width / 2, -height / 2):
                    found.append((x, y))
        found += [(-width / 4, r), (-3 * width / 4, r), (-width / 4, -height - r), (-3 * width / 4, -height - r)]
    return found


def _obstacles(axes: Axes, lines: Sequence[Line], scale: float) -> list[tuple[Bbox, float]]:
    """Boxes over markers and along lines, in pixels, with what it costs to cover them."""
    boxes: list[tuple[Bbox, float]] = []
    for line in lines:
        pixels = axes.transData.transform([(p.x, p.y) for p in line.points])
        boxes += [(_square(x, y, 3.5 * scale), 2.0) for x, y in pixels]
        for (x0, y0), (x1, y1) in zip(pixels[:-1], pixels[1:], strict=True):
            n = max(2, int(np.hypot(x1 - x0, y1 - y0) / (5 * scale)))
            boxes += [(_square(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, 1.5 * scale), 0.1) for t in np.linspace(0, 1, n)]
    return boxes


def _square(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _covered(box: Bbox, by: Bbox) -> float:
    """Share of the smaller of two boxes that lies in both."""
    width = min(box.x1, by.x1) - max(box.x0, by.x0)
    height = min(box.y1, by.y1) - max(box.y0, by.y0)
    return width * height / min(box.width * box.height, by.width * by.height) if width > 0 and height > 0 else 0.0
