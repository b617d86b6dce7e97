"""Axes on which small differences near the best score can be seen beside ruined systems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

BEST = {"wer": 0.0, "cer": 0.0, "bleu": 100.0, "chrf": 100.0}
"""The best value that a score can have."""
_LINEAR = 1.0
"""Points from the best up to which an axis is about linear."""
_WIDE = 3.5
"""Ratio of the farthest to the nearest value from which an axis becomes logarithmic."""
_ROOM = 0.1
"""Room above and below the points, as a share of what they span."""


def scale_price(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic x axis with plain numbers where positive values span much."""
    if not values or min(values) <= 0 or max(values) <= _WIDE * min(values):
        return
    ladder = [m * 10.0**e for e in range(-5, 8) for m in (1, 1.5, 2, 3, 5, 7)]
    axes.set_xscale("log")
    _ticks(axes, "x", [t for t in ladder if min(values) * 0.7 <= t <= max(values) * 1.4])


def scale_score(axes: Axes, score: str, values: Sequence[float]) -> None:
    """Y axis by the logarithm of the distance to the best score, where distances span much; 0 has its place too."""
    best = BEST.get(score)
    if best is None or not values:
        return
    distances = [abs(best - value) for value in values]
    if max(distances) <= _WIDE * max(_LINEAR, min(distances)):
        return
    sign = 1.0 if best == 0 else -1.0

    def forward(y: NDArray[np.float64]) -> NDArray[np.float64]:
        d = (np.asarray(y, dtype=float) - best) / _LINEAR
        return np.asarray(np.sign(d) * np.log1p(np.abs(d)))

    def inverse(y: NDArray[np.float64]) -> NDArray[np.float64]:
        z = np.asarray(y, dtype=float)
        return np.asarray(best + _LINEAR * np.sign(z) * np.expm1(np.abs(z)))

    axes.set_yscale("function", functions=(forward, inverse))
    low, high = min(forward(np.array(values))), max(forward(np.array(values)))
    room = _ROOM * (high - low)
    axes.set_ylim(*inverse(np.array([low - room, high + room])))
    ladder = [0, 1, 2, 5, 10, 20, 50, 100] if best == 0 else [0, 1, 2, 5, 10, 20, 40, 60, 100]
    nearest, farthest = min(distances), max(distances)
    inside = [d for d in ladder if nearest / 2 - _LINEAR <= d <= farthest * 1.3]
    _ticks(axes, "y", sorted(best + sign * d for d in inside))


def _ticks(axes: Axes, name: str, ticks: Sequence[float]) -> None:
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
