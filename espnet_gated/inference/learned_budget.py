"""The learned budget: thresholds of the logits under which the asked share is skipped on average.

A predictor's logits rank the modules of an utterance and of one utterance against another, but where they cross 0 is
what training left there. On some speech that is not the test set (the validation set) the threshold of each asked
sparsity is put where the average share is the asked one. It is stored in the checkpoint, so everything that decodes it
has it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from espnet_gated.gating.context import GatingContext
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.policy import THRESHOLD_SPARSITIES, threshold_for
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text


@dataclass(frozen=True)
class Look:
    """What a predictor saw of a batch, and what it decided.

    Attributes:
        pooled: (B, size) features.
        context: of the B utterances.
        skipped: (B,) shares.
    """

    pooled: Tensor
    context: GatingContext | None
    skipped: Tensor


def calibrate_thresholds(model: Speech2Text, batches: Sequence[Sequence[Request]]) -> dict[str, list[list[float]]]:
    """Set the thresholds of the learned budget, in the model.

    The encoder's need one pass. The decoder looks at what the encoder puts out, so it has two for each sparsity: behind
    the whole encoder, and behind one that skips the same share.

    Args:
        model: gated; another sparsity and budget are chosen afterwards.
        batches: utterances, in batches that fit into memory.

    Returns:
        thresholds of each stack, two lists at ``THRESHOLD_SPARSITIES``: see
        :func:`espnet_gated.gating.policy.interpolated`.

    Raises:
        ValueError: for a dense model.
    """
    predictors = one_look(model)
    model.s2t_model.set_sparsity(0.0, 0.0, "learned")
    whole = looks(model, batches)
    found: dict[str, list[list[float]]] = {}
    if (encoder := predictors.get("encoder")) is not None:
        found["encoder"] = _set(encoder, [whole["encoder"]] * len(THRESHOLD_SPARSITIES), None)
    if (decoder := predictors.get("decoder")) is not None:
        behind = []
        for sparsity in tqdm(THRESHOLD_SPARSITIES, desc="thresholds", unit="sparsity"):
            model.s2t_model.set_sparsity(sparsity, 0.0, "learned")
            behind.append(looks(model, batches)["decoder"])
        found["decoder"] = _set(decoder, [whole["decoder"]] * len(THRESHOLD_SPARSITIES), behind)
    return found


def one_look(model: Speech2Text) -> dict[str, GatePredictor]:
    """The predictors that decide an utterance by one look, by stack: those whose budgets can be told before decoding.

    Raises:
        ValueError: for a dense model.
    """
    if not model.is_gated:
        raise ValueError("a dense checkpoint has no gates, so no budget (--s2t_model_file)")
    predictors = model.s2t_model.gate_predictors()
    return {stack: predictor for stack, predictor in predictors.items() if not predictor.is_local}


def looks(model: Speech2Text, batches: Sequence[Sequence[Request]]) -> dict[str, list[Look]]:
    """How the predictors look at some utterances under the sparsity and budget that are set."""
    predictors = one_look(model)
    seen: dict[str, list[Look]] = {stack: [] for stack in predictors}

    def keep(stack: str) -> Any:
        return lambda p, inputs, gates: seen[stack].append(Look(inputs[0], p.current, gates.skipped()))

    handles = [predictor.register_forward_hook(keep(stack)) for stack, predictor in predictors.items()]
    try:
        for batch in batches:
            model.decide(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def margins(predictor: GatePredictor, seen: Sequence[Look], sparsity: float) -> Tensor:
    """By how much the modules of the utterances seen are above their threshold at a sparsity, (N, M)."""
    known, parts = predictor.current, []
    try:
        for look in seen:
            predictor.current = look.context
            asked = torch.full((len(look.pooled),), sparsity, device=look.pooled.device)
            parts.append(predictor.margins(look.pooled, asked).float().cpu())
    finally:
        predictor.current = known
    return torch.cat(parts)


def _set(
    predictor: GatePredictor, whole: Sequence[Sequence[Look]], behind: Sequence[Sequence[Look]] | None
) -> list[list[float]]:
    predictor.thresholds.zero_()

    def thresholds(seen: Sequence[Sequence[Look]]) -> list[float]:
        pairs = zip(THRESHOLD_SPARSITIES, seen, strict=True)
        return [threshold_for(margins(predictor, some, share), predictor.costs, share) for share, some in pairs]

    first = thresholds(whole)
    values = [first, first if behind is None else thresholds(behind)]
    predictor.thresholds.copy_(torch.tensor(values))
    return values


def save_thresholds(path: Path, thresholds: dict[str, list[list[float]]]) -> None:
    """Write thresholds into a checkpoint; all else in it stays as it is.

    The file that ``path`` leads to (ESPnet's ``valid.loss.best.pth`` is a link) is replaced in one step.

    Raises:
        ValueError: if the checkpoint has no gate predictor of a stack.
    """
    path = path.resolve()
    state = torch.load(path, map_location="cpu", weights_only=True)
    for stack, values in thresholds.items():
        if f"{stack}.gate_predictor.num_updates" not in state:
            raise ValueError(f"{path}: no gate predictor of the {stack} in this checkpoint")
        state[f"{stack}.gate_predictor.thresholds"] = torch.tensor(values)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        torch.save(state, name)
        os.chmod(name, path.stat().st_mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def measure_shares(
    model: Speech2Text, batches: Sequence[Sequence[Request]], sparsities: Sequence[float]
) -> list[dict[str, Any]]:
    """Shares asked and skipped, of both budgets.

    Returns:
        for each budget, sparsity and stack ``budget, sparsity, stack, behind, mean, farthest``: the average share
        skipped, and the greatest distance of an utterance's from what was asked. ``behind`` is the sparsity of the
        encoder in front of a decoder: the same, and 0.
    """
    decoder = one_look(model).get("decoder")
    model.set_sparsity(0.0, "exact")
    whole = looks(model, batches)
    rows = []
    for budget in ("exact", "learned"):
        for sparsity in tqdm(sparsities, desc=f"shares, {budget}", unit="sparsity"):
            model.set_sparsity(sparsity, budget)
            seen = looks(model, batches)
            found = [(stack, sparsity, [look.skipped for look in of_stack]) for stack, of_stack in seen.items()]
            if decoder is not None:
                model.set_sparsity((0.0, sparsity), budget)
                found.append(("decoder", 0.0, [_again(decoder, look) for look in whole["decoder"]]))
            for stack, behind, parts in found:
                skipped = torch.cat([part.float().cpu() for part in parts])
                about = {"budget": budget, "sparsity": sparsity, "stack": stack, "behind": behind}
                farthest = float((skipped - sparsity).abs().max())
                rows.append(about | {"mean": float(skipped.mean()), "farthest": farthest})
    return rows


@torch.no_grad()
def _again(predictor: GatePredictor, look: Look) -> Tensor:
    """Shares that a predictor skips, (B,), if it sees a batch again under today's policy."""
    known = predictor.current
    predictor.current = look.context
    try:
        gates = predictor(look.pooled)
        assert isinstance(gates, Gates)
        return gates.skipped()
    finally:
        predictor.current = known
