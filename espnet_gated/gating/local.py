"""Gates that are decided on the way: each layer's from that layer's own input (levels ``layer`` and ``token``)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from espnet_gated.gating.budget import TOLERANCE
from espnet_gated.gating.gates import Gates, LayerGates, ModuleGate, ModuleName, hard_gate, on_device, precise
from espnet_gated.gating.hierarchy import Scores

if TYPE_CHECKING:
    from espnet_gated.gating.predictor import GatePredictor

RESERVE = 0.5
"""Share of their even part of a budget that later layers keep, whatever the earlier ones would like."""


@dataclass(frozen=True)
class LocalGates:
    """What a predictor knows before the first layer runs; a :class:`Walk` through the layers decides the rest.

    The counterpart of :class:`Gates` for gates that look at every layer's own input.

    Attributes:
        predictor: decides.
        known: (B, hidden_units) embedded context and asked sparsity.
        sparsity: (B,) asked.
        utts: (B,) which utterance each row is, for the tally.
        tally: what was decided so far, shared by all selections.
        temperature: of the samples in training; ``None``: decide as at inference.
    """

    predictor: GatePredictor
    known: Tensor
    sparsity: Tensor
    utts: Tensor
    tally: Tally
    temperature: float | None

    def walk(self) -> Walk:
        """Start a pass through the layers."""
        return Walk(self)

    def select(self, rows: Sequence[int]) -> LocalGates:
        """The same for some rows (indices on the host; repeats allowed)."""
        index = on_device(rows, self.known.device)
        return replace(self, known=self.known[index], sparsity=self.sparsity[index], utts=self.utts[index])


class Tally:
    """How much was open for each utterance, summed over the tokens (or the one look) of all walks.

    Args:
        utterances: their number.
        names: the M modules, layer by layer.
        costs: (M,) shares of the cost.
        like: gives device and type (half precision could not count past 256: float32 in its place).
    """

    def __init__(self, utterances: int, names: list[ModuleName], costs: Tensor, like: Tensor):
        self.names = names
        self.costs = costs
        like = like.new_zeros((), dtype=precise(like.dtype))
        layers: dict[int, int] = {}
        for layer, _ in names:
            layers[layer] = layers.get(layer, 0) + 1
        self._open = {layer: like.new_zeros(utterances, count) for layer, count in layers.items()}
        self._logits = {layer: like.new_zeros(utterances, count) for layer, count in layers.items()}
        self._looks = {layer: like.new_zeros(utterances) for layer in layers}
        self._tokens: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def add(self, layer: int, utts: Tensor, opened: Tensor, logits: Tensor, looks: Tensor) -> None:
        """Add a layer's decisions: rows' sums over their tokens (R, m), and their numbers of tokens (R,)."""
        for table, part in ((self._open, opened), (self._logits, logits.detach()), (self._looks, looks)):
            table[layer] = table[layer].index_add(0, utts, part.to(table[layer]))  # autocast may have halved it

    def add_tokens(self, layer: int, utts: Tensor, opened: Tensor) -> None:
        """Keep a layer's decisions for the next tokens of rows, (R, T, m); an utterance is there until its end."""
        self._tokens[layer].append((utts, opened))

    def by_position(self) -> list[dict[str, list[float]]]:
        """Open share of each module (``0.src_attn``) at each output position of each utterance, mean over its rows.

        The first is read at the last token of the primer, the only step of more than one token; a search that began
        anew counts from there. Waits for the device once a layer.
        """
        found: list[dict[str, list[float]]] = [{} for _ in next(iter(self._looks.values()))]
        for layer, looks in self._tokens.items():
            names = [f"{layer}.{name}" for of, name in self.names if of == layer]
            shares: list[list[np.ndarray]] = [[] for _ in found]
            for utts, opened in _on_host(looks):
                for utt in np.unique(utts):
                    rows = opened[utts == utt]
                    shares[utt] = [*([] if rows.shape[1] > 1 else shares[utt]), rows[:, -1].mean(0)]
            for utt, tokens in enumerate(shares):
                if tokens:
                    found[utt] |= dict(zip(names, np.stack(tokens).T.tolist(), strict=True))
        return found

    def gates(self, soft: bool) -> Gates:
        """Open shares of each utterance and module, as ``Gates`` whose values lie between 0 and 1.

        A layer that nobody has run counts as closed.
        """
        looks = {layer: count.clamp(min=1.0)[:, None] for layer, count in self._looks.items()}
        values = torch.cat([self._open[layer] / looks[layer] for layer in looks], dim=1)
        logits = torch.cat([self._logits[layer] / looks[layer] for layer in looks], dim=1)
        host = None if soft else values.tolist()
        return Gates(values, self.names, self.costs.to(values), logits, soft=soft, host=host)


class Walk:
    """One pass through the layers, in order: each is asked with its input."""

    def __init__(self, gates: LocalGates):
        self._of = gates
        self._left: Tensor | None = None  # of the budget

    def layer(self, index: int, x: Tensor, mask: Tensor | None = None) -> LayerGates:
        """Decide the gates of a layer.

        Args:
            index: of the layer, from 0.
            x: (B, T, size) its input.
            mask: (B, 1, T) or (B, T), true for frames or tokens that count; ``None``: all do.

        Returns:
            its gates: (B,) per utterance, or (B, T) per token where the level says so.
        """
        of, predictor = self._of, self._of.predictor
        columns = predictor.columns(index)
        if not columns:
            return {}
        per_token = predictor.config.level == "token"
        scores = predictor.local_scores(index, x if per_token else pool(x, mask), of.known, of.sparsity)
        if of.temperature is None:
            values = self._decide(scores, index)
        else:
            values, _ = draw(scores, of.sparsity, of.temperature)
        self._count(index, values, scores, mask if per_token else None)
        names = [predictor.names[c][1] for c in columns]
        if of.temperature is not None:
            return {n: ModuleGate(value=values[..., i], soft=True) for i, n in enumerate(names)}
        flat = values.reshape(len(values), -1, len(names))
        host = flat[:, 0].tolist() if flat.size(1) == 1 else None  # one copy for the layer
        return {
            n: hard_gate(values[..., i], None if host is None else [row[i] for row in host])
            for i, n in enumerate(names)
        }

    def _count(self, index: int, values: Tensor, scores: Scores, mask: Tensor | None) -> None:
        logits = scores.joint.to(values)
        if values.dim() == 2:
            looks = values.new_ones(len(values))
            self._of.tally.add(index, self._of.utts, values, logits, looks)
            return
        weight = values.new_ones(values.shape[:2]) if mask is None else mask.reshape(values.shape[:2]).to(values)
        opened, said = ((part * weight[..., None]).sum(1) for part in (values, logits))
        self._of.tally.add(index, self._of.utts, opened, said, weight.sum(1))
        if self._of.temperature is None:
            self._of.tally.add_tokens(index, self._of.utts, values)

    def _decide(self, scores: Scores, index: int) -> Tensor:
        """Zeros and ones (B, m) or (B, T, m)."""
        predictor = self._of.predictor
        budget = predictor.policy.budget or predictor.config.inference_budget
        sparsity = per_row(self._of.sparsity, scores.modules)
        if budget == "learned":
            values = (scores.both > 0).to(self._of.known)
        elif budget == "exact":
            values = self._within_budget(scores.joint, index).to(self._of.known)
        else:
            raise ValueError(
                f"budget must be exact, learned, open or fixed with gating.level: {predictor.config.level}, "
                f"got {budget!r} ({predictor.stack})"
            )
        return torch.where(sparsity > 0, values, torch.ones_like(values))

    def _within_budget(self, logits: Tensor, index: int) -> Tensor:
        """The layer's best modules between what is left for it and what later layers could not use up any more.

        Every utterance (token) keeps its budget; it may stay below it by a part of the last layer.
        """
        predictor = self._of.predictor
        columns, costs = predictor.columns(index), predictor.costs.double()
        share = 1.0 - per_row(self._of.sparsity, logits)[..., 0].double()
        if self._left is None:
            self._left = share.expand(logits.shape[:-1])
        after = float(costs[columns[-1] + 1 :].sum())  # on the host, where the costs are
        costs = costs[columns].to(logits.device)
        highest = self._left - RESERVE * share * after
        values = best_within(logits, costs, self._left - after - TOLERANCE, highest)
        self._left = self._left - (values * costs).sum(-1)
        return values


def best_within(logits: Tensor, costs: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Of the sets of modules that cost between two bounds the one of the greatest total logit.

    Where there is none, the costliest below the upper bound (among equals the one of the greatest total logit). All
    2^m sets are tried: m is the number of modules of one layer.

    Args:
        logits: (…, m).
        costs: (m,).
        lowest, highest: (…,) bounds; ``highest`` ≥ 0.

    Returns:
        (…, m) zeros and ones.
    """
    sets = torch.tensor(list(itertools.product([0.0, 1.0], repeat=costs.numel())), device=logits.device).to(costs)
    cost = sets @ costs
    fits = cost <= highest[..., None] + 1e-6
    costliest = torch.where(fits, cost, -torch.inf).amax(-1)
    wanted = fits & (cost >= torch.minimum(lowest, costliest)[..., None] - 1e-6)
    total = torch.where(wanted, logits.to(sets) @ sets.T, -torch.inf)
    return sets[total.argmax(-1)]


def _on_host(looks: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (R,) and (R, T, m) in one copy for all of the former and one for all of the latter."""
    if not looks:
        return []
    utts = torch.cat([u for u, _ in looks]).cpu().numpy()
    opened = torch.cat([o.float().flatten() for _, o in looks]).cpu().numpy()
    ends = np.cumsum([[len(u), o.numel()] for u, o in looks], axis=0)[:-1]
    pairs = zip(np.split(utts, ends[:, 0]), np.split(opened, ends[:, 1]), looks, strict=True)
    return [(u, o.reshape(like.shape)) for u, o, (_, like) in pairs]


def draw(scores: Scores, sparsity: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Straight-through samples and probabilities, of the shape of the scores; open where the sparsity (B,) is 0."""
    values, soft_open = scores.sample(temperature)
    return torch.where(per_row(sparsity, values) > 0, values, torch.ones_like(values)), soft_open


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """(B,) shaped to broadcast over (B, …)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def pool(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average over frames.

    Args:
        features: (B, T, size).
        mask: (B, 1, T) or (B, T), true for frames that count.

    Returns:
        (B, size), in float32 at least: a sum of many frames is too large for float16.
    """
    features = features.to(precise(features.dtype))
    if mask is None:
        return features.mean(1)
    weight = mask.reshape(mask.size(0), -1).to(features)
    return (features * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1.0)
