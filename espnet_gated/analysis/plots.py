"""Figures of the report: heat maps of open share, differences, budgets, latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_gated.analysis.experiment import STACKS, Decoding, FloatArray, GateTable
from espnet_gated.analysis.gate_stats import POSITION_BINS, TOLERANCE, Z95, BudgetKept, Contrast

STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.7,
    "text.color": "#222222",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
DPI = 170
WIDTH = 9.6
COLUMNS = 7
BLUE, GREEN, ORANGE, PALE = "#0072B2", "#009E73", "#D55E00", "#9CC7E4"
STACK_COLORS = {"encoder": ORANGE, "decoder": GREEN}
BARS = 26
"""Of a figure: more would not fit on a page."""


@dataclass(frozen=True)
class Panel:
    """One small heat map: (layers, kinds) values, NaN where there is no gate; ``bold`` marks cells."""

    title: str
    grid: FloatArray
    bold: FloatArray | None = None


def style() -> Any:
    """Context in which the report's figures are drawn."""
    return matplotlib.rc_context(STYLE)


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def group_panels(table: GateTable) -> list[list[Panel]]:
    """Open shares: one row of panels a task, over all its languages and then each language."""
    rows = []
    for task in dict.fromkeys(sorted(table.tasks)):
        langs = sorted(set(table.langs[table.rows(task)]))
        groups: list[str | None] = [None, *(langs if len(langs) > 1 else [])]
        row = []
        for lang in groups:
            rows_of = table.rows(task, lang)
            name = lang or ("all languages" if len(langs) > 1 else langs[0])
            title = f"{task.upper()}, {name} (n={int(rows_of.sum())})"
            row.append(Panel(title, table.grid(table.values[rows_of].mean(axis=0))))
        rows.append(row)
    return rows


def level_panels(decodings: Sequence[Decoding], stack: str) -> list[list[Panel]]:
    """Open shares: one row of panels a task, one panel a decoding, by its asked sparsity."""
    tables = [(d, d.gates[stack]) for d in decodings]
    tasks = sorted({str(task) for _, table in tables for task in table.tasks})
    rows = []
    for task in tasks:
        row = []
        for d, table in tables:
            if table.rows(task).any():
                asked = d.asked[STACKS.index(stack)]
                row.append(
                    Panel(f"{task.upper()}, asked {asked:g}", table.grid(table.values[table.rows(task)].mean(axis=0)))
                )
        rows.append(row)
    return rows


def contrast_panels(contrasts: Sequence[Contrast], table: GateTable) -> list[list[Panel]]:
    """Differences of open share, one panel a pair of groups, clear ones bold; a row a task if one row is too short."""
    rows: dict[str, list[Panel]] = {}
    for pair in dict.fromkeys((c.group_a, c.group_b) for c in contrasts):
        of_pair = {c.module: c for c in contrasts if (c.group_a, c.group_b) == pair}
        differences = np.array([of_pair[name].difference for name in table.names])
        clear = np.array([float(of_pair[name].is_clear) for name in table.names])
        first, second = (name.rsplit(" ", 1) for name in pair)
        same_task = len(first) == len(second) == 2 and first[1] == second[1]
        title = f"{first[1]}: {first[0]} − {second[0]}" if same_task else f"{pair[0]} − {pair[1]}"
        row = rows.setdefault(first[-1], [])
        row.append(Panel(title, table.grid(differences), table.grid(clear)))
    together = [panel for row in rows.values() for panel in row]
    return [together] if len(together) <= COLUMNS else list(rows.values())


def heat_maps(
    rows: Sequence[Sequence[Panel]], kinds: Sequence[str], label: str, cmap: str = "Blues", limit: float | None = None
) -> Figure:
    """Small multiples of layer x module on one colour scale, with the values written in percent.

    Args:
        rows: panels, row by row; a row longer than seven goes on below.
        kinds: names of the columns of each panel.
        label: of the colour bar.
        cmap: colour map.
        limit: the scale is -limit to limit; ``None``: 0 to 1.
    """
    wrapped = [row[i : i + COLUMNS] for row in rows for i in range(0, len(row), COLUMNS)]
    n_columns = max(len(row) for row in wrapped)
    layers = wrapped[0][0].grid.shape[0]
    names = [kind.replace("forward_", "forward_\n") for kind in kinds]
    written = [line for name in names for line in name.split("\n")]
    height = len(wrapped) * (0.5 + max(0.9, 0.215 * layers)) + 0.3 + 0.075 * max(map(len, written))
    width = min(WIDTH, 1.1 + n_columns * max(1.45, 0.42 * len(kinds)))
    figure = _figure(width, height)
    grid: Any = figure.subplots(len(wrapped), n_columns, squeeze=False, sharex=True, sharey=True)
    figure.set_layout_engine("constrained", h_pad=0.07, w_pad=0.05)
    image = None
    for i, j in np.ndindex(grid.shape):
        axes = grid[i, j]
        if j >= len(wrapped[i]):
            axes.set_axis_off()
            continue
        image = _heat_map(axes, wrapped[i][j], cmap, limit, write=layers <= 12)
        axes.set_xticks(range(len(kinds)), names, rotation=90)
        step = 1 if layers <= 12 else 2
        axes.set_yticks(range(0, layers, step))
        nothing_below = i + 1 == len(wrapped) or j >= len(wrapped[i + 1])
        axes.tick_params(length=0, labelbottom=nothing_below)
        if j == 0:
            axes.set_ylabel("layer")
    assert image is not None
    bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 2.6 / height), aspect=16, pad=0.015)
    bar.set_label(label)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def budget_figure(kept: Sequence[BudgetKept]) -> Figure:
    """Reached - asked sparsity: mean and range over utterances, one panel a stack."""
    figure = _figure(WIDTH, 3.0)
    grid = figure.subplots(1, 2, sharey=True)
    widest = max([0.05, *(k.worst for k in kept)])
    for axes, stack in zip(grid, STACKS, strict=True):
        members = [k for k in kept if k.stack == stack]
        axes.axhspan(-TOLERANCE, TOLERANCE, color="#ececec", lw=0, label=f"± {TOLERANCE:g}")
        axes.axhline(0, color="#999999", lw=0.8)
        x = _spread([k.asked for k in members])
        y = np.array([k.deviation for k in members])
        down = [max(0.0, k.deviation - k.low) for k in members]
        up = [max(0.0, k.high - k.deviation) for k in members]
        color = STACK_COLORS[stack]
        axes.errorbar(
            x, y, yerr=[down, up], fmt="o", color=color, ms=4.5, elinewidth=1, capsize=2, mec="white", mew=0.5
        )
        axes.set_title(stack, loc="left")
        axes.set_xlabel("sparsity asked")
        axes.set_xlim(0, 1)
        axes.set_ylim(-1.15 * widest, 1.15 * widest)
        _plain(axes)
    grid[0].set_ylabel("reached − asked")
    return figure


def latency_figure(decodings: Sequence[Decoding]) -> Figure | None:
    """Mean seconds of encoding and search, a bar a decoding; ``None`` where no time was measured."""
    bars = []
    for d in decodings:
        timed = [r for r in d.stats if r.get("encode_s") is not None and r.get("search_s") is not None]
        if timed:
            encode, search = (sum(r[name] for r in timed) / len(timed) for name in ("encode_s", "search_s"))
            steps = sum(r.get("steps") or 0 for r in timed)
            bars.append((d.label, encode, search, 1000 * search * len(timed) / steps if steps else None))
    if not bars:
        return None
    bars = bars[:BARS]
    figure = _figure(WIDTH, 0.7 + 0.235 * len(bars))
    axes = figure.subplots()
    y = np.arange(len(bars))
    encode, search = (np.array([bar[i] for bar in bars]) for i in (1, 2))
    axes.barh(y, encode, color=BLUE, height=0.68, label="encode")
    axes.barh(y, search, left=encode, color=PALE, height=0.68, label="search")
    longest = float((encode + search).max())
    for i, (_, e, s, step) in enumerate(bars):
        per_step = "" if step is None else f"   {step:.1f} ms a step"
        axes.text(
            e + s + 0.008 * longest, i, f"{1000 * (e + s):.0f} ms{per_step}", va="center", size=7.2, color="#444444"
        )
    axes.set_yticks(y, [bar[0] for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * longest)
    axes.set_xlabel("seconds an utterance (mean)")
    axes.legend(frameon=False, ncols=2, loc="lower right", fontsize=8)
    _plain(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def position_figure(curves: dict[str, FloatArray]) -> Figure:
    """Open share of source attention over the decoding position, a line a task with its 95 % band."""
    figure = _figure(5.6, 3.0)
    axes = figure.subplots()
    x = (np.arange(POSITION_BINS) + 0.5) / POSITION_BINS
    for (task, rows), color in zip(sorted(curves.items()), (BLUE, ORANGE, GREEN), strict=False):
        mean, half = rows.mean(axis=0), Z95 * rows.std(axis=0) / np.sqrt(len(rows))
        axes.plot(x, mean, "-o", color=color, ms=3.5, lw=1.6)
        axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, lw=0)
        axes.annotate(
            task.upper(), (x[-1], mean[-1]), xytext=(6, -3), textcoords="offset points", color=color, weight="bold"
        )
    axes.set_xlim(0, 1.08)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("position in the output (0: first token, 1: last)")
    axes.set_ylabel("open share of src_attn")
    _plain(axes)
    return figure


def _heat_map(axes: Axes, panel: Panel, cmap: str, limit: float | None, write: bool) -> Any:
    low, high = (0.0, 1.0) if limit is None else (-limit, limit)
    colors = matplotlib.colormaps[cmap].with_extremes(bad="#eeeeee")
    image = axes.imshow(np.ma.masked_invalid(panel.grid), aspect="auto", cmap=colors, vmin=low, vmax=high)
    axes.set_title(panel.title, fontsize=8.2, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(panel.grid.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(panel.grid.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.2)
    axes.tick_params(which="minor", length=0)
    if write:
        for (i, j), value in np.ndenumerate(panel.grid):
            if not np.isnan(value):
                depth = (value - low) / (high - low)
                dark = depth > 0.6 if limit is None else abs(depth - 0.5) > 0.32
                text = f"{100 * value:.0f}" if limit is None or abs(value) < 0.005 else f"{100 * value:+.0f}"
                text = text.replace("-", "−" if text != "-0" else "")
                bold = panel.bold is not None and bool(panel.bold[i, j])
                shade = "white" if dark else "#333333" if bold or panel.bold is None else "#8a8a8a"
                weight = "bold" if bold else "normal"
                axes.text(j, i, text, ha="center", va="center", size=6.6, color=shade, weight=weight)
    return image


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _spread(values: Sequence[float], step: float = 0.008) -> FloatArray:
    """Values with equal ones set side by side."""
    seen: dict[float, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    count: dict[float, int] = {}
    moved = []
    for value in values:
        i = count.get(value, 0)
        count[value] = i + 1
        moved.append(value + step * (i - (seen[value] - 1) / 2))
    return np.array(moved)
