"""Speed of ESPnet's decoding, ours, and ours with modules skipped, measured in turns in one run.

Every run decodes the same random audio for a fixed number of steps with each system, one after the other, so that a
machine that slows down slows all of them.
"""

from __future__ import annotations

import copy
import gc
import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from espnet_gated.analysis.memory import PeakMemory, give_back, resident_mib
from espnet_gated.analysis.module_times import gate_prediction_time, module_times, open_share, open_shares
from espnet_gated.analysis.shapes import ModelFiles, write_models
from espnet_gated.inference.baseline import ESPnetBaseline
from espnet_gated.inference.ctc import rescoring
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text
from espnet_gated.machine import device_name

ROW_KEYS = (
    *("system", "arch", "device", "dtype", "seconds", "beam_size", "batch_size", "sparsity_encoder"),
    *("sparsity_decoder", "encode_s", "step_ms", "total_s", "gflops", "peak_mib"),
    *("speedup_vs_espnet", "speedup_vs_dense", "ideal_speedup_vs_dense"),
)
PARTS = {"encoder": (1, 0), "decoder": (0, 1), "both": (1, 1)}
ONE_PASS = "one_pass"
"""System: ours with everything open, and CTC in every step (:attr:`Settings.ctc_weight`)."""
DTYPES = ("float32", "int8", "bfloat16", "float16", "float64")
BUDGETS = ("random", "exact", "learned")
"""What may choose the modules that are skipped."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        arch: shape or configuration file, see :func:`espnet_gated.analysis.shapes.find_config`.
        seconds: of audio, of the shortest and the longest utterance of a batch. Where they differ, the utterances are
            spread evenly between them (a single one is as long as the mean), and ours encodes each at its real length.
        beam_size: hypotheses of an utterance.
        steps: tokens that every hypothesis grows by.
        batch_size: utterances decoded together (ESPnet decodes them one by one).
        sparsity: shares to skip; 0 is the dense model, always measured.
        parts: what skips: ``encoder``, ``decoder``, ``both``.
        against_espnet: measure ESPnet's own path too (in the first float32 or float64 of ``dtypes``, else float32).
        device: as in ``Speech2Text``.
        dtypes: of ours, one model each; ``int8``: quantised linear layers, on a CPU. The first is measured in all
            ``parts``, the others dense and in the last part.
        runs: of each system.
        seed: of weights and audio.
        checkpoint: trained weights instead of random ones.
        budget: what chooses the modules that are skipped: ``random`` draws for each utterance, which is fair to a model
            without trained gates; ``exact`` and ``learned`` look for the predictor's masks, as decoding does.
        ctc_weight: of CTC in joint decoding. Above 0, ESPnet's CTC scores every step; ours does so in a row of its own
            (``one_pass``), and in all others scores the hypotheses that end.
    """

    arch: str
    seconds: tuple[float, float] = (30.0, 30.0)
    beam_size: int = 5
    steps: int = 40
    batch_size: int = 1
    sparsity: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7)
    parts: tuple[str, ...] = tuple(PARTS)
    against_espnet: bool = True
    device: str = "cpu"
    dtypes: tuple[str, ...] = ("float32",)
    runs: int = 3
    seed: int = 0
    checkpoint: Path | None = None
    budget: str = "random"
    ctc_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beam_size", "steps", "batch_size", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)} (--{name})")
        if not 0.0 <= self.ctc_weight < 1.0:
            raise ValueError(f"ctc_weight must be in [0, 1), got {self.ctc_weight} (--ctc_weight)")
        shortest, longest = self.seconds
        if shortest <= 0:
            raise ValueError(f"seconds must be > 0, got {shortest} (--seconds)")
        if shortest > longest:
            raise ValueError(f"seconds must be SHORTEST-LONGEST, got {shortest:g}-{longest:g} (--seconds)")
        for value in self.sparsity:
            if not 0.0 <= value < 1.0:
                raise ValueError(f"sparsity must be in [0, 1), got {value} (--sparsity)")
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r} (--parts)")
        if not self.dtypes or len(set(self.dtypes)) < len(self.dtypes):
            raise ValueError(f"dtypes must be different ones, got {self.dtypes} (--dtype)")
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r} (--dtype)")
        if self.budget not in BUDGETS:
            raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {self.budget!r} (--budget)")
        if "int8" in self.dtypes and self.device != "cpu":
            raise ValueError(f"int8 needs the CPU, got {self.device} (--dtype, --device)")

    @property
    def durations(self) -> list[float]:
        """Seconds of each utterance of a batch."""
        shortest, longest = self.seconds
        if self.batch_size == 1:
            return [0.5 * (shortest + longest)]
        step = (longest - shortest) / (self.batch_size - 1)
        return [shortest + i * step for i in range(self.batch_size)]


@dataclass
class System:
    """One row: a loaded model and what it skips."""

    name: str
    dtype: str
    model: Any
    load_mib: float | None
    sparsity: tuple[float, float] = (0.0, 0.0)
    budget: str = "open"
    runs: list[Run] = field(default_factory=list)
    gflops: float | None = None

    @property
    def is_dense(self) -> bool:
        """Whether this is ours with everything open."""
        return self.name == "dense"


@dataclass(frozen=True)
class Run:
    """One decode of the batch."""

    encode_s: float
    step_ms: float
    total_s: float
    peak_mib: float | None
    gates_share: float = 0.0
    ideal_speedup: float | None = None


@dataclass(frozen=True)
class Result:
    """A row of the table and what lies behind it.

    Attributes:
        row: the keys of :data:`ROW_KEYS`; times are medians over the runs, ``seconds`` is the mean of the utterances.
        seconds: of the shortest and the longest utterance asked for.
        spread: name of a time → lowest and highest of the runs.
        step_speedup_vs_espnet: ratio of the times of a step.
        gates_share: share of the time spent on deciding gates.
    """

    row: dict[str, Any]
    seconds: tuple[float, float]
    spread: dict[str, tuple[float, float]]
    step_speedup_vs_espnet: float | None
    gates_share: float


def benchmark(
    settings: Settings, seconds: Sequence[tuple[float, float]] | None = None, batch_sizes: Sequence[int] | None = None
) -> list[list[Result]]:
    """Load the models of a shape once and measure them at one or more durations and sizes of batches.

    Returns:
        for each of ``seconds`` and ``batch_sizes`` (``None``: those of the settings) the results, ESPnet first.
    """
    cases = [
        replace(settings, seconds=duration, batch_size=size)
        for duration in (seconds or (settings.seconds,))
        for size in (batch_sizes or (settings.batch_size,))
    ]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        files = write_models(settings.arch, Path(folder), settings.seed, settings.checkpoint)
        models = load_models(settings, files)
    results = []
    for now in cases:
        for model, _ in models.values():
            # ESPnet pads every utterance to this, and so do we where all are of one length.
            model.preprocessor_conf["speech_length"] = now.seconds[1]
            model.pad_to_speech_length = now.seconds[0] == now.seconds[1]
        systems = _systems(now, models)
        measure(now, systems)
        results.append(_results(now, systems))
    return results


def load_models(settings: Settings, files: ModelFiles) -> dict[str, tuple[Any, float | None]]:
    """The models (``espnet``, ours by dtype, ``one_pass``), and the MiB that each took to load and lay out weights."""
    common: dict[str, Any] = {
        "device": settings.device,
        "beam_size": settings.beam_size,
        "maxlenratio": -float(settings.steps),
        "lang_sym": files.language,
        "task_sym": "<asr>",
        "ctc_weight": settings.ctc_weight,
    }
    if settings.ctc_weight > 0 and not files.has_ctc:
        raise ValueError(f"ctc_weight {settings.ctc_weight} was asked of a model without CTC (--ctc_weight)")
    makers: dict[str, Any] = {}
    if settings.against_espnet:
        # ESPnet's frontend does not run in half precision.
        dtype = next((d for d in settings.dtypes if d in ("float32", "float64")), "float32")
        makers["espnet"] = partial(ESPnetBaseline, files.dense_config, files.checkpoint, dtype=dtype, **common)
    for dtype in settings.dtypes:
        how = {"quantize_s2t_model": True} if dtype == "int8" else {"dtype": dtype}
        makers[dtype] = partial(Speech2Text, files.gated_config, files.checkpoint, **how, **common)
    models = {}
    for name, make in makers.items():
        give_back()
        before = resident_mib(settings.device)
        model = make()
        _warm_up(System(name if name == "espnet" else "dense", name, model, None), _requests(settings, -1, _fs(model)))
        give_back()
        after = resident_mib(settings.device)
        models[name] = model, None if before is None or after is None else after - before
    return _judged_by_ctc(settings, models) if settings.ctc_weight > 0 else models


def _judged_by_ctc(
    settings: Settings, models: dict[str, tuple[Any, float | None]]
) -> dict[str, tuple[Any, float | None]]:
    """Ours with CTC for complete hypotheses; the first of them in every step too (``one_pass``: the same weights)."""
    found = {name: pair for name, pair in models.items() if name == "espnet"}
    found[ONE_PASS] = models[settings.dtypes[0]]
    for dtype in settings.dtypes:
        one_pass, load_mib = models[dtype]
        model = copy.copy(one_pass)
        model.beam_search = rescoring(one_pass.beam_search)
        found[dtype] = model, load_mib
    return found


def _systems(settings: Settings, models: dict[str, tuple[Any, float | None]]) -> list[System]:
    systems = []
    for name, (model, load_mib) in models.items():
        if name == "espnet":
            systems.append(System("espnet", model.dtype, model, load_mib))
            continue
        if name == ONE_PASS:
            systems.append(System(name, settings.dtypes[0], model, load_mib))
            continue
        systems.append(System("dense", name, model, load_mib))
        for part in settings.parts if name == settings.dtypes[0] else settings.parts[-1:]:
            encoder, decoder = PARTS[part]
            for value in settings.sparsity:
                if value > 0.0:
                    skipped = encoder * value, decoder * value
                    systems.append(System("gated", name, model, load_mib, skipped, settings.budget))
    return systems


def measure(settings: Settings, systems: Sequence[System]) -> None:
    """Run every system in turn, ``settings.runs`` times, and fill in ``runs`` and ``gflops``."""
    gc.collect()
    gc.freeze()  # what is loaded is no garbage: collections between the runs need not look at it
    try:
        _measure(settings, systems)
    finally:
        gc.unfreeze()


def _measure(settings: Settings, systems: Sequence[System]) -> None:
    fs = _fs(systems[0].model)
    for run in range(-1, settings.runs):
        requests = _requests(settings, run, fs)
        times: dict[str, Any] = {}
        for system in systems:
            if run < 0:
                _warm_up(system, requests)
                continue
            logging.info("run %d of %d: %s %s %s", run + 1, settings.runs, system.name, system.dtype, system.sparsity)
            if system.is_dense:
                times[system.dtype] = _time_modules(settings, system, requests)
            system.runs.append(_run(settings, system, requests, times.get(system.dtype)))
    requests = _requests(settings, settings.runs - 1, fs)
    for system in systems:
        _choose(system)
        counts = [sum(system.model.measure_flops(r).values()) for r in requests]
        system.gflops = sum(counts) / 1e9


def _requests(settings: Settings, run: int, fs: int) -> list[Request]:
    generator = torch.Generator().manual_seed(1000 * settings.seed + run + 1)
    shape = settings.batch_size, int(settings.seconds[1] * fs)
    waves = (0.1 * torch.randn(shape, generator=generator)).numpy()
    return [Request(wave[: int(length * fs)]) for wave, length in zip(waves, settings.durations, strict=True)]


def _fs(model: Any) -> int:
    return int(model.preprocessor_conf["fs"])


def _choose(system: System) -> None:
    """Set what the next decode skips."""
    if system.name in ("dense", ONE_PASS):
        system.model.set_sparsity(None, "open")
    elif system.name == "gated":
        system.model.set_sparsity(system.sparsity, system.budget)


def _warm_up(system: System, requests: list[Request]) -> None:
    _choose(system)
    longest, system.model.maxlenratio = system.model.maxlenratio, -3.0
    try:
        system.model.decode_batch(requests)
    finally:
        system.model.maxlenratio = longest


def _time_modules(settings: Settings, system: System, requests: list[Request]) -> Any:
    """Seconds of each module and of the whole, in a dense decode of its own: clocks cost a little."""
    _choose(system)
    with module_times(system.model.s2t_model, settings.device) as times:
        system.model.decode_batch(requests)
    return times, _seconds(system.model)[2]


def _run(settings: Settings, system: System, requests: list[Request], times: Any) -> Run:
    _choose(system)
    model = system.model
    gc.collect()
    with PeakMemory(settings.device) as memory:
        if system.name == "espnet":
            model.decode_batch(requests)
            gates_s = 0.0
        else:
            with gate_prediction_time(model.s2t_model, settings.device) as spent:
                model.decode_batch(requests)
            gates_s = spent()
    encode_s, search_s, total_s = _seconds(model)
    peak = None if memory.above_mib is None or system.load_mib is None else system.load_mib + memory.above_mib
    ideal = None
    if system.name not in ("espnet", ONE_PASS) and times is not None:
        left = open_share(times[0], times[1], open_shares(model.stats))
        ideal = None if left is None else 1.0 / left
    return Run(encode_s, 1000.0 * search_s / settings.steps, total_s, peak, gates_s / total_s, ideal)


def _seconds(model: Any) -> tuple[float, float, float]:
    encode_s, search_s = sum(s.encode_s for s in model.stats), sum(s.search_s for s in model.stats)
    return encode_s, search_s, encode_s + search_s


def _results(settings: Settings, systems: Sequence[System]) -> list[Result]:
    medians = [_median(s) for s in systems]
    espnet = next((m for s, m in zip(systems, medians, strict=True) if s.name == "espnet"), None)
    dense = {s.dtype: m for s, m in zip(systems, medians, strict=True) if s.is_dense}
    results = []
    for system, median in zip(systems, medians, strict=True):
        own_dense = None if system.name == "espnet" else dense[system.dtype]
        row = {
            "system": system.name,
            "arch": Path(settings.arch).name.removesuffix(".yaml"),  # «owsm_v3.1_base» has a dot of its own
            "device": device_name(settings.device),
            "dtype": system.dtype,
            "seconds": statistics.fmean(settings.durations),
            "beam_size": settings.beam_size,
            "batch_size": settings.batch_size,
            "sparsity_encoder": system.sparsity[0],
            "sparsity_decoder": system.sparsity[1],
            "encode_s": median.encode_s,
            "step_ms": median.step_ms,
            "total_s": median.total_s,
            "gflops": system.gflops,
            "peak_mib": median.peak_mib,
            "speedup_vs_espnet": None if espnet is None else espnet.total_s / median.total_s,
            "speedup_vs_dense": None if own_dense is None else own_dense.total_s / median.total_s,
            "ideal_speedup_vs_dense": median.ideal_speedup,
        }
        assert tuple(row) == ROW_KEYS
        steps = None if espnet is None else espnet.step_ms / median.step_ms
        results.append(Result(row, settings.seconds, _spread(system), steps, median.gates_share))
    return results


def _median(system: System) -> Run:
    middle = {}
    for name in asdict(system.runs[0]):
        values = [value for run in system.runs if (value := getattr(run, name)) is not None]
        middle[name] = statistics.median(values) if values else None
    return Run(**middle)  # type: ignore[arg-type]


def _spread(system: System) -> dict[str, tuple[float, float]]:
    found = {}
    for name in ("encode_s", "step_ms", "total_s"):
        values = [getattr(run, name) for run in system.runs]
        found[name] = min(values), max(values)
    return found
