"""Statistics of gates: open shares, how they differ between groups, how far they vary, whether budgets are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from espnet_gated.analysis.experiment import STACKS, TASKS, Decoding, FloatArray, GateTable, Row, task_group

Z95 = 1.959963984540054
TOLERANCE = 0.02
"""How far sparsity reached may be from sparsity asked."""
POSITION_BINS = 10
POSITIONS_KEY = "gates_decoder_by_position"


@dataclass(frozen=True)
class Contrast:
    """How much more often a module is open in group a than in group b.

    ``share_a`` and ``share_b`` are open shares, 0 to 1; ``difference`` is a - b with its 95 % interval.
    """

    stack: str
    module: str
    group_a: str
    group_b: str
    share_a: float
    share_b: float
    difference: float
    ci: tuple[float, float]

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.ci[0] <= 0.0 <= self.ci[1]


@dataclass(frozen=True)
class Variation:
    """How far the gates of a stack vary between utterances.

    Attributes:
        n: utterances.
        modules: gated modules.
        constant: modules that are open for every utterance or closed for every one.
        masks: different sets of gates seen.
        entropy: mean binary entropy of a module over all utterances, bits (1: open for half of them).
        entropy_within: the same within a task and language, weighted by their utterances.
        by_task, by_language, by_both: share of the gates' variance between the groups, 0 to 1;
            ``None`` with one group or without variance.
        chance_by_both: the share that as many groups without any meaning would explain.
    """

    n: int
    modules: int
    constant: int
    masks: int
    entropy: float
    entropy_within: float
    by_task: float | None
    by_language: float | None
    by_both: float | None
    chance_by_both: float | None


@dataclass(frozen=True)
class BudgetKept:
    """Sparsity asked of a stack and reached by it, over the utterances of a decoding.

    ``low`` and ``high`` are the least and the greatest deviation (reached - asked) of an utterance; ``exact`` says
    that every utterance was to keep the budget, not only their mean.
    """

    label: str
    system: str
    stack: str
    asked: float
    reached: float
    low: float
    high: float
    outside: int
    n: int
    exact: bool = False

    @property
    def deviation(self) -> float:
        """Mean of reached - asked."""
        return self.reached - self.asked

    @property
    def worst(self) -> float:
        """Greatest deviation of an utterance, either way."""
        return max(abs(self.low), abs(self.high))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``n``.

    Raises:
        ValueError: if ``n`` is not positive.
    """
    if n <= 0:
        raise ValueError(f"n must be above 0, got {n}")
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(a: float, n_a: int, b: float, n_b: int) -> tuple[float, float]:
    """95 % interval of the difference a - b of two independent shares (Newcombe 1998, method 10)."""
    (low_a, high_a), (low_b, high_b) = wilson(a, n_a), wilson(b, n_b)
    down = math.hypot(a - low_a, high_b - b)
    up = math.hypot(high_a - a, b - low_b)
    return a - b - down, a - b + up


def task_contrasts(table: GateTable, stack: str) -> list[Contrast]:
    """ASR against ST within each language that has both, as the mean of these; empty where there are none.

    Over all utterances at once, a gate that looks at the language alone would differ by task wherever languages have
    unequal shares of the tasks.
    """
    within = [
        _contrasts(table, stack, ("ASR", "ST"), table.rows(TASKS[0], lang), table.rows(TASKS[1], lang))
        for lang in languages_of_both(table)
    ]
    return [_mean_contrast(of_module) for of_module in zip(*within, strict=True)]


def languages_of_both(table: GateTable) -> list[str]:
    """Languages with utterances of both tasks."""
    return [lang for lang in sorted(set(table.langs)) if all(table.rows(task, lang).any() for task in TASKS)]


def _mean_contrast(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of independent differences of a module; the halves of its interval add up as their squares do."""
    n, first = len(contrasts), contrasts[0]
    share_a, share_b, mean = (sum(getattr(c, k) for c in contrasts) / n for k in ("share_a", "share_b", "difference"))
    down, up = (math.hypot(*(c.difference - c.ci[end] for c in contrasts)) / n for end in (0, 1))
    groups = first.group_a, first.group_b
    return Contrast(first.stack, first.module, *groups, share_a, share_b, mean, (mean - down, mean + up))


def language_contrasts(table: GateTable, stack: str) -> list[Contrast]:
    """Each language against the others, task by task (an audio file counts once a task)."""
    found = []
    for task in TASKS:
        langs = sorted(set(table.langs[table.rows(task)]))
        # two languages mirror each other: one of them says it all
        for lang in langs[:1] if len(langs) == 2 else langs if len(langs) > 2 else []:
            inside = table.rows(task, lang)
            names = (f"{lang} {task.upper()}", f"{langs[1] if len(langs) == 2 else 'others'} {task.upper()}")
            found += _contrasts(table, stack, names, inside, table.rows(task) & ~inside)
    return found


def ranked(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Greatest difference first; among equals the surer one."""
    return sorted(contrasts, key=lambda c: (-abs(c.difference), c.ci[1] - c.ci[0], c.stack, c.module))


def variation(table: GateTable) -> Variation:
    """How far the gates of a table vary, and how much of it task and language explain."""
    both = np.char.add(np.char.add(table.tasks, " "), table.langs)
    n, k = len(table.values), len(set(both))
    within = sum(float((both == g).sum()) / n * _entropy(table.values[both == g]) for g in sorted(set(both)))
    by_both = explained(table.values, both)
    spread = table.values.max(axis=0) - table.values.min(axis=0)
    return Variation(
        n=n,
        modules=len(table.names),
        constant=int((spread == 0).sum()),
        masks=len(np.unique(table.values, axis=0)),
        entropy=_entropy(table.values),
        entropy_within=within,
        by_task=explained(table.values, table.tasks),
        by_language=explained(table.values, table.langs),
        by_both=by_both,
        chance_by_both=None if by_both is None or n < 2 else (k - 1) / (n - 1),
    )


def explained(values: FloatArray, labels: NDArray[np.str_]) -> float | None:
    """Share of the variance of (n, M) values that lies between groups (eta squared over all modules)."""
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    groups = sorted(set(labels))
    if len(groups) < 2 or total <= 0.0:
        return None
    mean = values.mean(axis=0)
    between = 0.0
    for group in groups:
        members = values[labels == group]
        between += len(members) * float(((members.mean(axis=0) - mean) ** 2).sum())
    return between / total


def binary_entropy(share: FloatArray) -> FloatArray:
    """Entropy of gates that are open with these probabilities, bits."""
    p = np.clip(share, 1e-300, 1.0)
    q = np.clip(1.0 - share, 1e-300, 1.0)
    return np.asarray(-(share * np.log2(p) + (1.0 - share) * np.log2(q)), dtype=np.float64)


def budgets_kept(decodings: Sequence[Decoding]) -> list[BudgetKept]:
    """Asked and reached sparsity of every stack that was asked to skip."""
    found = []
    for d in decodings:
        for stack, asked in zip(STACKS, d.asked, strict=True):
            reached = [row[f"skipped_{stack}"] for row in d.stats if row.get(f"skipped_{stack}") is not None]
            if asked <= 0 or not reached:
                continue
            off = np.array(reached) - asked
            found.append(
                BudgetKept(
                    label=d.label,
                    system=d.system,
                    stack=stack,
                    asked=asked,
                    reached=float(np.mean(reached)),
                    low=float(off.min()),
                    high=float(off.max()),
                    outside=int((np.abs(off) > TOLERANCE + 1e-9).sum()),
                    n=len(reached),
                    exact=d.decode_meta.get("budget") == "exact",
                )
            )
    return found


def mean_interval(values: FloatArray, resamples: int = 1000, seed: int = 12345) -> tuple[float, float, float]:
    """Mean of (n,) values over utterances with a bootstrap 95 % interval: (mean, low, high)."""
    rng = np.random.default_rng(seed)
    means = [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def position_curves(stats: Sequence[Row], kind: str = "src_attn") -> dict[str, FloatArray]:
    """Open share of one kind of decoder module over the decoding position, where gates differ by token.

    Reads ``gates_decoder_by_position`` (module name -> open share at each output position) of each utterance.

    Returns:
        task -> (n, ``POSITION_BINS``) open share in each tenth of each utterance, mean over layers; utterances
        of fewer tokens than bins are left out.
    """
    curves: dict[str, list[FloatArray]] = {}
    for row in stats:
        by_position = row.get(POSITIONS_KEY) or {}
        layers = [v for name, v in by_position.items() if name.partition(".")[2] == kind and len(v) >= POSITION_BINS]
        if layers:
            shares = np.mean(np.array(layers, dtype=np.float64), axis=0)
            bins = np.array([part.mean() for part in np.array_split(shares, POSITION_BINS)])
            curves.setdefault(task_group(row.get("task")), []).append(bins)
    return {task: np.array(rows) for task, rows in curves.items()}


def _contrasts(
    table: GateTable, stack: str, names: tuple[str, str], a: NDArray[np.bool_], b: NDArray[np.bool_]
) -> list[Contrast]:
    n_a, n_b = int(a.sum()), int(b.sum())
    if not n_a or not n_b:
        return []
    shares = zip(table.names, table.values[a].mean(axis=0), table.values[b].mean(axis=0), strict=True)
    return [
        Contrast(
            *(stack, module, *names, float(p), float(q), float(p - q)),
            ci=difference_interval(float(p), n_a, float(q), n_b),
        )
        for module, p, q in shares
    ]


def _entropy(values: FloatArray) -> float:
    return float(binary_entropy(values.mean(axis=0)).mean())
