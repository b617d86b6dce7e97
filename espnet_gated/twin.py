"""Turning a ready-built dense ESPnet model into its gated twin, in place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from espnet_gated.registry import DECODERS, ENCODERS, load


@cache
def twins() -> dict[type[nn.Module], type[nn.Module]]:
    """ESPnet's classes and their gated twins, for every family in the registry."""
    gated = [load(path) for path in (*ENCODERS.values(), *DECODERS.values())]
    return {dense_class(cls): cls for cls in gated}


def dense_class(gated: type[nn.Module]) -> type[nn.Module]:
    """The ESPnet class behind a gated one: its last base."""
    return gated.__bases__[-1]


def gate_in_place(model: nn.Module, gating: Mapping[str, Any] | None = None) -> list[str]:
    """Give the encoder and decoder of a dense ESPnet model their gated classes, with every gate open.

    The dense weights stay; so a dense checkpoint is decoded with the cache and the batched search of this package.

    Args:
        model: any ESPnet model with ``encoder`` and ``decoder``.
        gating: options of the (untrained) predictors.

    Returns:
        names of the stacks that were changed (already gated ones and families without a twin are left alone).
    """
    changed = []
    for name in ("encoder", "decoder"):
        stack = getattr(model, name, None)
        twin = twins().get(type(stack))
        if stack is None or twin is None:
            continue
        like = next(stack.parameters())
        stack.__class__ = twin
        stack.gate(gating)
        stack.gate_predictor.to(device=like.device, dtype=like.dtype)
        stack.gate_predictor.always_open = True
        stack.gate_predictor.train(stack.training)
        changed.append(name)
    return changed


def load_weights(model: nn.Module, path: str) -> None:
    """Load a checkpoint without running code from it.

    A dense checkpoint loads into a gated model: only the gate predictors' keys may be missing.

    Args:
        model: where to.
        path: file of a state dict.

    Raises:
        ValueError: if the file is not a state dict, or its names or shapes are another model's, naming the first of
            them.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint") from None
    except Exception as error:  # pickle, zip and torch errors alike mean: not a checkpoint
        raise ValueError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(state, Mapping) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{path}: not a checkpoint of weights (it holds a {type(state).__name__})")
    own = model.state_dict()
    wrong = [
        f"{name} is {tuple(state[name].shape)}, the configuration says {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    # A dense checkpoint has no predictors; one that has some must have all of them, but for what came later.
    if any(".gate_predictor." in name for name in own) and not any(".gate_predictor." in name for name in state):
        logging.warning("%s: a dense checkpoint: the model's gates are untrained ones, whatever they skip", path)
    gated = any(".gate_predictor." in name for name in state)
    optional = ".gate_predictor.thresholds" if gated else ".gate_predictor."
    missing = [name for name in own if name not in state and optional not in name]
    unknown = [name for name in state if name not in own and ".gate_predictor." not in name]
    for problem, names in (("", wrong), ("missing ", missing), ("unknown ", unknown)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{path}: checkpoint does not fit the configuration: {problem}{names[0]}{more}")
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
