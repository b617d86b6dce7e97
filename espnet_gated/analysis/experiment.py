"""What an experiment directory holds: scores, decoding statistics and gates, one object a decoding."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_gated.analysis.files import files_below
from espnet_gated.analysis.results import RESULTS_FILE, ResultsError, gather, overall
from espnet_gated.analysis.scoring import ALL, SCORE_FILE, read_stats
from espnet_gated.analysis.sparsity_table import pruned, search_of
from espnet_gated.analysis.speed import STATS_FILE
from espnet_gated.analysis.training import Training, read_trainings

STACKS = ("encoder", "decoder")
TASKS = ("asr", "st")
REFERENCES = ("control", "dense", "espnet")
"""What a gated system is held against: the first of these that was decoded."""
SERIES = ("none", "decoder", "encoder", "both")
"""What a decoding was asked to prune."""
UNKNOWN = "unknown"
HURTING = 0.7
"""Encoder sparsity from which on the published work found that quality falls."""
NEAR = 0.05
"""An asked sparsity this close to the one wanted counts as it."""

_ORDER = ("feed_forward_macaron", "self_attn", "attn", "cgmlp", "src_attn", "feed_forward")
_TIMES = ("encode_s", "search_s", "steps", "seconds", "latency_s")

Row = dict[str, Any]
FloatArray = NDArray[np.float64]


class ReportError(ValueError):
    """An experiment that cannot be reported: nothing scored, or broken files."""


@dataclass(frozen=True)
class GateTable:
    """Gates of one stack over the utterances of one decoding.

    Attributes:
        names: the M gated modules, such as ``0.self_attn``.
        values: (n, M) open share of each module in each utterance, 0 to 1.
        tasks, langs: (n,) ``asr`` or ``st``, and the spoken language.
    """

    names: tuple[str, ...]
    values: FloatArray
    tasks: NDArray[np.str_]
    langs: NDArray[np.str_]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the modules within a layer, in the order they run."""
        found = list(dict.fromkeys(name.partition(".")[2] for name in self.names))
        return tuple(sorted(found, key=lambda k: _ORDER.index(k) if k in _ORDER else len(_ORDER)))

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return 1 + max(int(name.partition(".")[0]) for name in self.names)

    def rows(self, task: str | None = None, lang: str | None = None) -> NDArray[np.bool_]:
        """(n,) which utterances are of a task and a language; ``None``: any."""
        keep = np.ones(len(self.values), dtype=bool)
        if task is not None:
            keep &= self.tasks == task
        if lang is not None:
            keep &= self.langs == lang
        return keep

    def of_kind(self, kind: str) -> NDArray[np.int_]:
        """Columns of the modules with one name, one a layer."""
        return np.array([i for i, name in enumerate(self.names) if name.partition(".")[2] == kind], dtype=int)

    def grid(self, values: FloatArray) -> FloatArray:
        """(M,) values as (layers, kinds), NaN where a layer has no such gate."""
        grid = np.full((self.n_layers, len(self.kinds)), np.nan)
        for name, value in zip(self.names, values, strict=True):
            layer, _, kind = name.partition(".")
            grid[int(layer), self.kinds.index(kind)] = value
        return grid


@dataclass(frozen=True)
class Decoding:
    """One test set decoded by one system at one asked sparsity.

    Attributes:
        name: directory, relative to the experiment.
        directory: the decoding directory.
        system: name in the tables.
        label: ``system``, with ``encoder/decoder`` sparsity where the system has a choice.
        asked: sparsity asked of encoder and decoder, 0 to 1.
        rows: (task, src, tgt) -> row of scores.
        stats: lines of ``decode_stats.jsonl``; empty where there is no such file.
        gates: stack -> its gates, where they were recorded.
        decode_meta, score_meta: how it was decoded and scored; may be empty.
    """

    name: str
    directory: Path
    system: str
    label: str
    asked: tuple[float, float]
    rows: Mapping[tuple[str, str, str], Row]
    stats: Sequence[Row] = ()
    gates: Mapping[str, GateTable] = field(default_factory=dict)
    decode_meta: Row = field(default_factory=dict)
    score_meta: Row = field(default_factory=dict)

    @property
    def search(self) -> str:
        """What the name of the system says of its search: ``+ctc``, or nothing."""
        return search_of(self.system)

    @property
    def batch_size(self) -> int:
        """How many utterances were decoded together; 1 where nothing is recorded."""
        return int(self.decode_meta.get("batch_size") or 1)

    @property
    def series(self) -> str:
        """Where it was asked to skip: ``none``, ``encoder``, ``decoder`` or ``both``."""
        return pruned(self.asked)

    def value(self, name: str, task: str = ALL) -> float | None:
        """A number of the row over all languages of a task; ``None`` where it was not measured."""
        return self.rows.get((task, ALL, ALL), {}).get(name)


@dataclass(frozen=True)
class TestSet:
    """All decodings of one test set."""

    __test__ = False  # the name is the field's, not pytest's

    corpus: str
    name: str
    decodings: Sequence[Decoding]

    @property
    def title(self) -> str:
        """``corpus/set``."""
        return f"{self.corpus}/{self.name}"

    @property
    def n(self) -> int:
        """Number of utterances."""
        return max(int(d.value("n") or 0) for d in self.decodings)

    @property
    def batch_size(self) -> int:
        """The greatest of the decodings."""
        return max(d.batch_size for d in self.decodings)

    def of(self, system: str | None) -> list[Decoding]:
        """The decodings of a system."""
        return [d for d in self.decodings if d.system == system]

    def reference(self, search: str = "") -> Decoding | None:
        """The dense system that gated ones are held against, of those with one :attr:`Decoding.search`."""
        return next((self.of(name + search)[0] for name in REFERENCES if self.of(name + search)), None)

    def gated_system(self, wanted: str | None = None) -> str | None:
        """The system with gates that the report is about; ``None`` without one.

        Args:
            wanted: its name; by default ``gated``, or else the one decoded at most sparsities.
        """
        levels: dict[str, int] = {}
        for d in self.decodings:
            levels[d.system] = levels.get(d.system, 0) + (d.series != "none")
        gated = [system for system, n in levels.items() if n]
        for name in (wanted, "gated"):
            if name in gated:
                return name
        return max(gated, key=lambda system: levels[system], default=None)

    def least_pruned_encoder(self, system: str | None, sparsity: float) -> Decoding | None:
        """The decoding of a system with an open decoder and the lowest encoder sparsity of at least ``sparsity``."""
        deep = [d for d in self.of(system) if d.asked[0] >= sparsity - 1e-9 and d.asked[1] == 0]
        return min(deep, key=lambda d: d.asked[0], default=None)

    def at(self, system: str | None, encoder: float, decoder: float) -> Decoding | None:
        """The decoding of a system nearest to an asked sparsity, within ``NEAR``; an open stack must be open."""

        def distance(d: Decoding) -> float:
            far = [abs(a - b) for a, b in zip(d.asked, (encoder, decoder), strict=True)]
            both_open = all((a == 0) == (b == 0) for a, b in zip(d.asked, (encoder, decoder), strict=True))
            return sum(far) if both_open and max(far) <= NEAR + 1e-9 else math.inf

        best = min(self.of(system), key=distance, default=None)
        return best if best is not None and distance(best) < math.inf else None


@dataclass(frozen=True)
class Experiment:
    """Everything below an experiment directory.

    Attributes:
        expdir: the directory.
        sets: decodings by test set.
        unscored: decoding directories without scores.
        trainings: of the models that were decoded.
    """

    expdir: Path
    sets: Sequence[TestSet]
    unscored: Sequence[str] = ()
    trainings: Sequence[Training] = ()

    @property
    def decodings(self) -> list[Decoding]:
        """All decodings of all test sets."""
        return [d for s in self.sets for d in s.decodings]


def read_experiment(expdir: str | Path) -> Experiment:
    """Read scores, statistics and gates below a directory.

    Raises:
        ResultsError: for missing, broken or contradicting scores.
        ScoringError, ReportError: for broken statistics, naming file and utterance.
    """
    expdir = Path(expdir)
    rows, score_metas, decode_metas = _scores(expdir)
    sets = []
    for (corpus, name), tops in overall(rows).items():
        choice = {top["system"] for top in tops if any(_asked(top))}
        of_set = [row for row in rows if (row["corpus"], row["set"]) == (corpus, name)]
        decodings = []
        for top in tops:
            where = top.get("decode_dir", "")
            decoding = Decoding(
                name=where,
                directory=expdir / where,
                system=top["system"],
                label=f"{top['system']} {_two(_asked(top))}" if top["system"] in choice else top["system"],
                asked=_asked(top),
                rows={(r["task"], r["src"], r["tgt"]): r for r in of_set if _same_decoding(r, top)},
                decode_meta=decode_metas.get(where, {}),
                score_meta=score_metas.get(where, {}),
            )
            decodings.append(_with_stats(decoding) if where else decoding)
        systems = list(dict.fromkeys(d.system for d in decodings))
        decodings.sort(key=lambda d: (systems.index(d.system), SERIES.index(d.series), d.asked))
        sets.append(TestSet(corpus, name, decodings))
    decoded = {d.name: d.system for s in sets for d in s.decodings}
    return Experiment(expdir, sets, _unscored(expdir, set(decoded)), read_trainings(expdir, decoded))


def gate_table(stats: Iterable[Row], stack: str, where: object) -> GateTable | None:
    """The gates of a stack as a table; ``None`` where no utterance has any.

    Raises:
        ReportError: for gates that differ in their modules or are no shares, naming the utterance.
    """
    kept = [row for row in stats if row.get(f"gates_{stack}")]
    if not kept:
        return None
    names = tuple(kept[0][f"gates_{stack}"])
    for row in kept:
        gates = row[f"gates_{stack}"]
        if not isinstance(gates, dict) or set(gates) != set(names):
            raise ReportError(f"{where}: {row['utt_id']}: gates_{stack} must hold the modules of the first utterance")
        for name, value in gates.items():
            if not name.partition(".")[0].isdigit() or not name.partition(".")[2]:
                raise ReportError(f"{where}: {row['utt_id']}: gates_{stack}: must be <layer>.<module>, got {name!r}")
            if not _is_number(value) or not 0.0 <= value <= 1.0:
                raise ReportError(f"{where}: {row['utt_id']}: gates_{stack}: {name} must be in [0, 1], got {value!r}")
    return GateTable(
        names=names,
        values=np.array([[row[f"gates_{stack}"][name] for name in names] for row in kept], dtype=np.float64),
        tasks=np.array([task_group(row.get("task")) for row in kept]),
        langs=np.array([str(row.get("lang") or UNKNOWN) for row in kept]),
    )


def task_group(task: object) -> str:
    """``asr`` or ``st``, as the scores group them."""
    return UNKNOWN if not task else "asr" if task == "asr" else "st"


def _scores(expdir: Path) -> tuple[list[Row], dict[str, Row], dict[str, Row]]:
    """Rows, score metas and decode metas, from the scores or else from what was gathered of them."""
    if not expdir.is_dir():
        raise ReportError(f"{expdir}: no such directory (--expdir)")
    gathered = expdir / RESULTS_FILE
    if files_below(expdir, SCORE_FILE) or not gathered.is_file():
        results = gather(expdir)
        return results.rows, results.score_metas, results.decode_metas
    try:
        rows = json.loads(gathered.read_text(encoding="utf-8"))
        overall(rows)
        for row in rows:
            _asked(row), row["system"], row["src"], row["tgt"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ResultsError(f"{gathered}: must be a list of rows of scores ({error}); score again") from None
    return rows, {}, {}


def _with_stats(decoding: Decoding) -> Decoding:
    file = decoding.directory / STATS_FILE
    stats = list(read_stats(decoding.directory, []).values())
    for row in stats:
        for name in _TIMES:
            if row.get(name) is not None and not _is_number(row[name]):
                raise ReportError(f"{file}: {row['utt_id']}: {name} must be a number or null, got {row[name]!r}")
    tables = {stack: gate_table(stats, stack, file) for stack in STACKS}
    return replace(decoding, stats=stats, gates={k: t for k, t in tables.items() if t is not None})


def _unscored(expdir: Path, known: set[str]) -> list[str]:
    """Decoding directories that hold statistics but no scores; parts and parallel jobs of others are left out."""
    found = []
    for file in files_below(expdir, STATS_FILE):
        name = file.parent.relative_to(expdir)
        parents = {p.as_posix() for p in (name, *name.parents)}
        if not parents & known and not any(part.startswith(".") for part in name.parts) and "log" not in name.parts:
            found.append(name.as_posix())
    return found


def _same_decoding(row: Row, top: Row) -> bool:
    if "decode_dir" in top:
        return bool(row.get("decode_dir") == top["decode_dir"])
    return bool(row["system"] == top["system"]) and _asked(row) == _asked(top)


def _asked(row: Row) -> tuple[float, float]:
    return float(row["sparsity_encoder"] or 0.0), float(row["sparsity_decoder"] or 0.0)


def _two(asked: tuple[float, float]) -> str:
    return f"{asked[0]:g}/{asked[1]:g}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
