"""Where the time of one decode goes, module by module."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import espnet_gated.decoder
import espnet_gated.encoder
from espnet_gated.inference import steps
from espnet_gated.inference.request import DecodeStats

GatedModule = tuple[str, int, str]
"""Stack (``encoder``, ``decoder``), layer, name."""

# Attributes of encoder layers → modules, of those that a layer has, which share their time. A branch owns half of the
# merge, as in the costs.
ENCODER_PARTS: Mapping[str, tuple[str, ...]] = {
    "norm_ff_macaron": ("feed_forward_macaron",),
    "feed_forward_macaron": ("feed_forward_macaron",),
    "norm_mha": ("attn", "self_attn"),
    "norm1": ("self_attn",),
    "attn": ("attn",),
    "self_attn": ("self_attn",),
    "concat_linear": ("self_attn",),
    "norm_conv": ("conv_module",),
    "conv_module": ("conv_module",),
    "norm_mlp": ("cgmlp",),
    "cgmlp": ("cgmlp",),
    "depthwise_conv_fusion": ("attn", "cgmlp"),
    "merge_proj": ("attn", "cgmlp"),
    "norm_ff": ("feed_forward",),
    "norm2": ("feed_forward",),
    "feed_forward": ("feed_forward",),
}
DECODER_STEPS = {"step_self_attn": "self_attn", "step_src_attn": "src_attn", "step_feed_forward": "feed_forward"}


class Stopwatch:
    """Seconds by key; waits for the device, so that its time is the key's."""

    def __init__(self, device: str):
        self.seconds: dict[Any, float] = defaultdict(float)
        self._wait = torch.cuda.synchronize if device.startswith("cuda") else None

    def now(self) -> float:
        """The time, in seconds."""
        if self._wait is not None:
            self._wait()
        return time.perf_counter()

    def timed(self, fn: Callable[..., Any], key_of: Callable[..., Any]) -> Callable[..., Any]:
        """``fn`` whose calls count for ``key_of(*args)``."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            result = fn(*args, **kwargs)
            self.seconds[key_of(*args)] += self.now() - start
            return result

        return wrapper


@contextmanager
def module_times(model: nn.Module, device: str) -> Iterator[dict[GatedModule, float]]:
    """Seconds of each gated module inside the ``with`` block, norms and merges included.

    Args:
        model: ESPnet model with a gated encoder and decoder.
        device: where it runs.
    """
    watch = Stopwatch(device)
    number = {id(layer): index for index, layer in enumerate(model.decoder.decoders)}
    found: dict[GatedModule, float] = {}
    with ExitStack() as stack:
        for function, name in DECODER_STEPS.items():

            def key(layer: Any, *_: Any, name: str = name) -> Any:
                return ("decoder", number[id(layer)], name)

            stack.enter_context(patch.object(steps, function, watch.timed(getattr(steps, function), key)))
        parts: dict[GatedModule, tuple[str, ...]] = {}
        for index, layer in enumerate(model.encoder.encoders):
            for attribute, known in ENCODER_PARTS.items():
                part = getattr(layer, attribute, None)
                owners = tuple(name for name in known if name in layer.gated_modules)
                if part is not None and owners:
                    place = ("encoder", index, attribute)
                    parts[place] = owners
                    # Instances hide the class's forward; deleting the attribute brings it back.
                    part.forward = watch.timed(part.forward, lambda *_, place=place: place)
                    stack.callback(part.__dict__.pop, "forward")
        yield found
    for place, seconds in watch.seconds.items():
        owners = parts.get(place, place[2:])
        for owner in owners:
            module = (place[0], place[1], owner)
            found[module] = found.get(module, 0.0) + seconds / len(owners)


@contextmanager
def gate_prediction_time(model: nn.Module, device: str) -> Iterator[Callable[[], float]]:
    """Seconds spent on gates inside the ``with`` block: pooling, prediction, budget."""
    watch = Stopwatch(device)
    total = lambda *_: "gates"  # noqa: E731
    with ExitStack() as stack:
        for module in (espnet_gated.encoder, espnet_gated.decoder):
            stack.enter_context(patch.object(module, "pool", watch.timed(module.pool, total)))
        for child in model.children():
            predictor = getattr(child, "gate_predictor", None)
            if predictor is not None:
                predictor.forward = watch.timed(predictor.forward, total)
                stack.callback(predictor.__dict__.pop, "forward")
        yield lambda: watch.seconds["gates"]


def open_share(
    times: Mapping[GatedModule, float], total: float, opened: Mapping[str, Mapping[str, float]]
) -> float | None:
    """Share of a dense decode's time that is left when closed modules take none.

    What is not gated counts as open. ``None`` where a module that closes was never timed (of an encoder that is not
    known here).

    Args:
        times: seconds of each module in the dense decode.
        total: seconds of the whole dense decode.
        opened: stack → module name (``0.attn``) → share of the work for which it was open.
    """
    closed = 0.0
    for stack, shares in opened.items():
        for module, share in shares.items():
            layer, _, name = module.partition(".")
            seconds = times.get((stack, int(layer), name), None if share < 1.0 else 0.0)
            if seconds is None:
                return None
            closed += (1.0 - share) * seconds
    return 1.0 - closed / total


def open_shares(stats: Sequence[DecodeStats]) -> dict[str, dict[str, float]]:
    """Stack → module → mean open share of the utterances; in the encoder a long one has more work than a short one."""
    found: dict[str, dict[str, float]] = {}
    for stack, modules in stats[0].gates.items():
        weights = [s.seconds if stack == "encoder" else 1.0 for s in stats]
        found[stack] = {
            module: sum(w * s.gates[stack][module] for w, s in zip(weights, stats, strict=True)) / sum(weights)
            for module in modules
        }
    return found
