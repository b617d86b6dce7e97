"""The gate predictor of one stack: features, context and asked sparsity in, gates out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_gated.gating.budget import budget_in_order, exact_budget
from espnet_gated.gating.config import GatingConfig, check_sparsity
from espnet_gated.gating.context import ContextEncoder, ContextField, GatingContext
from espnet_gated.gating.gates import Gates, ModuleName, all_open, from_values
from espnet_gated.gating.sampler import budget_gates, gumbel_gates

_SPARSITY_KNOTS = 9


@dataclass(frozen=True)
class InferencePolicy:
    """How logits become gates at inference.

    Attributes:
        sparsity: asked share to skip; ``None``: the model's default.
        budget: ``exact`` (every utterance within its budget), ``learned`` (logit > 0), ``open`` (dense), ``random``
            or ``fixed``
            (baselines: random masks within the budget; the same mask, ``mask``, for everyone).
        mask: (M,) for ``fixed``.
        seed: of ``random``.
    """

    sparsity: float | None = None
    budget: str | None = None
    mask: tuple[float, ...] | None = None
    seed: int = 0


class GatePredictor(torch.nn.Module):
    """Predicts one gate per module and utterance.

    A linear map of the pooled features, the context embedding and an embedding of the asked sparsity are added,
    passed through one
    hidden layer and mapped to a logit per module (Someki et al., ICLR 2025, add language and task embeddings to the
    predictor's input).
    The log-odds of the asked sparsity are added to every logit, so that an untrained predictor already opens the
    asked share.

    Args:
        stack: ``encoder`` or ``decoder``: whose sparsity is meant in a context.
        feature_size: width of the features.
        names: the M modules.
        costs: (M,) shares of the cost, sum one.
        config: options.
    """

    def __init__(
        self,
        stack: str,
        feature_size: int,
        names: Sequence[ModuleName],
        costs: Tensor,
        config: GatingConfig,
    ):
        super().__init__()
        self.stack = stack
        self.names = list(names)
        self.costs = costs.float()
        self.config = config
        width = config.hidden_units
        self.norm = torch.nn.LayerNorm(feature_size)
        self.features = torch.nn.Linear(feature_size, width)
        self.sparsity = torch.nn.Linear(_SPARSITY_KNOTS, width, bias=False)
        self.context = ContextEncoder([], width)
        self.output = torch.nn.Linear(width, len(self.names))
        torch.nn.init.normal_(self.output.weight, std=0.1 * width**-0.5)
        with torch.no_grad():
            prior = config.prior * spread_layers([layer for layer, _ in self.names])
            self.output.bias.copy_(prior / config.gate_speed)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        self.current: GatingContext | None = None
        self.policy = InferencePolicy()
        self.last: Gates | None = None

    def declare_context(self, fields: Sequence[ContextField], dropout: float) -> None:
        """Say which contexts exist (the model knows the vocabulary, the encoder does not)."""
        self.context = ContextEncoder(fields, self.config.hidden_units, dropout)

    @property
    def samples_budgets(self) -> bool:
        """Whether training draws masks within each utterance's budget."""
        return self.config.sampler == "budget"

    @property
    def frozen(self) -> bool:
        """Whether training has come to the updates in which masks are final."""
        return 0 < self.config.freeze_steps <= int(self.num_updates)

    # -- deciding ---------------------------------------------------------------------------------
    def forward(self, pooled: Tensor) -> Gates:
        """Decide the gates of a batch, under ``current`` context and ``policy``.

        Args:
            pooled: (B, feature_size) features averaged over the frames of each utterance.

        Returns:
            Gates of the M modules; also kept in ``last``.
        """
        if self.training and not self.frozen:
            gates = self._sample(pooled)
        elif self.policy.budget == "open":
            gates = all_open(pooled.size(0), self.names, self.costs, pooled)
        else:
            gates = self._decide(pooled)
        self.last = gates
        return gates

    def asked(self, like: Tensor) -> Tensor:
        """Asked sparsity of each utterance, (B,): the context's, the caller's or the model's default."""
        if self.current is not None and self.stack in self.current.sparsity:
            return self.current.sparsity[self.stack].to(like)
        sparsity = self.policy.sparsity
        if sparsity is None:
            sparsity = self.config.default_sparsity
        return like.new_full((like.size(0),), sparsity)

    def logits(self, pooled: Tensor, sparsity: Tensor) -> Tensor:
        """Log-odds of running each module, (B, M)."""
        seen = self.config.condition_on
        hidden = self.features(self.norm(pooled.to(self.features.weight.dtype)))
        if "features" not in seen:
            hidden = torch.zeros_like(hidden)
        if "context" in seen:
            hidden = hidden + self.context(self.current, hidden)
        if "sparsity" in seen:
            hidden = hidden + self.sparsity(_hat(sparsity).to(hidden))
        prior = torch.logit(1.0 - sparsity.clamp(0.01, 0.99)).to(hidden)
        # Optimizers like Adam move parameters by a rate of their own: what they are multiplied with is their speed.
        return self.config.gate_speed * self.output(torch.nn.functional.silu(hidden)) + prior[:, None]

    # -- training ---------------------------------------------------------------------------------
    def draw_targets(self, batch: int, device: torch.device | None = None) -> Tensor:
        """Draw a target sparsity for each utterance of a training batch, (batch,), after the warm-up ramp.

        In evaluation it is the middle of the range: what the model is trained for is what validation should see.
        """
        low, high = self.config.target_range
        if not self.training:
            return torch.full((batch,), 0.5 * (low + high), device=device)
        target = low + (high - low) * torch.rand(batch, device=device)
        if self.config.anchors:
            anchors = target.new_tensor(self.config.anchors)
            drawn = anchors[torch.randint(len(anchors), (batch,), device=device)]
            target = torch.where(torch.rand_like(target) < self.config.anchor_prob, drawn, target)
        if high > low:
            target = target * (torch.rand_like(target) >= self.config.dense_prob)
        return target * self._progress(self.config.warmup_steps)

    def _sample(self, pooled: Tensor) -> Gates:
        sparsity = self.asked(pooled)
        logits = self.logits(pooled, sparsity)
        temperature = self._anneal(self.config.temperature, geometric=True)
        if not self.samples_budgets:
            values, soft_open = gumbel_gates(logits, temperature)
            values = torch.where(sparsity[:, None] > 0, values, torch.ones_like(values))
        else:
            noise = self._anneal(self.config.noise)
            values, soft_open = budget_gates(logits, self.costs, sparsity, temperature, noise)
        self.num_updates += 1
        costs = self.costs.to(values)
        return Gates(values, self.names, costs, logits, soft=True, soft_open=soft_open)

    def _progress(self, steps: int) -> float:
        return 1.0 if steps <= 0 else min(1.0, float(self.num_updates) / steps)

    def _anneal(self, ends: tuple[float, float], geometric: bool = False) -> float:
        start, end = ends
        t = self._progress(self.config.anneal_steps)
        if geometric:
            return math.exp((1 - t) * math.log(start) + t * math.log(end))
        return (1 - t) * start + t * end

    # -- inference --------------------------------------------------------------------------------
    def _decide(self, pooled: Tensor) -> Gates:
        sparsity = self.asked(pooled)
        logits = self.logits(pooled, sparsity)
        # The one device-to-host copy: everything below needs the numbers on the host.
        table = torch.cat([logits, sparsity[:, None]], dim=1).double().cpu().tolist()
        rows = [self._open(row[:-1], row[-1]) for row in table]
        values = torch.tensor(rows, dtype=pooled.dtype, device=pooled.device)
        return Gates(values, self.names, self.costs, logits, soft=False, host=rows)

    def _open(self, logits: list[float], sparsity: float) -> list[float]:
        # Asked sparsities come as float32: take off its rounding, so that 0.3 stays affordable as 0.3.
        sparsity = round(sparsity, 6)
        budget = self.policy.budget or self.config.inference_budget
        if sparsity == 0.0:
            return [1.0] * len(logits)
        if budget == "learned":
            return [float(v > 0) for v in logits]
        if budget == "fixed" and self.policy.mask is not None:
            return list(self.policy.mask)
        if budget == "random":
            # The utterance is known by its logits, which a batch changes in the last digits only.
            seed = hash((self.policy.seed, *(round(v, 3) for v in logits))) % 2**31
            order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).tolist()
            return [float(v) for v in budget_in_order(order, self.costs.tolist(), sparsity)]
        if budget != "exact":
            raise ValueError(f"budget must be exact, learned, open, fixed or random, got {budget!r}")
        return [float(v) for v in exact_budget(logits, self.costs.tolist(), sparsity)]

    def set_policy(self, sparsity: float | None = None, budget: str | None = None, **more: object) -> None:
        """Choose the sparsity and the kind of budget for the next utterances.

        Raises:
            ValueError: if ``sparsity`` is outside [0, 1).
        """
        if sparsity is not None:
            sparsity = check_sparsity(sparsity, f"--sparsity of the {self.stack}")
        self.policy = InferencePolicy(sparsity, budget, **more)  # type: ignore[arg-type]


def spread_layers(layers: Sequence[int]) -> Tensor:
    """Which layers to keep before anything is learned: the first, the last, then always the one farthest from these.

    Pruned depth is regained best when the layers that stay are spread evenly (every other layer, Fan et al., ICLR
    2020; distilled Transformers start from such layers too). Gradients alone find this slowly: of many redundant
    self-attentions each can close at no loss, but not all of them.

    Args:
        layers: (M,) layer of each module.

    Returns:
        (M,) from 1 (kept longest) to -1 (closed first), the same for all modules of a layer.
    """
    left = sorted(set(layers))
    kept = [left.pop(0), *([left.pop()] if left else [])]
    while left:
        farthest = max(left, key=lambda layer: min(abs(layer - other) for other in kept))
        left.remove(farthest)
        kept.append(farthest)
    step = 2.0 / max(1, len(kept) - 1)
    return torch.tensor([1.0 - step * kept.index(layer) for layer in layers])


def pool(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average over frames.

    Args:
        features: (B, T, size).
        mask: (B, 1, T) or (B, T), true for frames that count.

    Returns:
        (B, size)
    """
    if mask is None:
        return features.mean(1)
    weight = mask.reshape(mask.size(0), -1).to(features)
    return (features * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1.0)


def _hat(sparsity: Tensor) -> Tensor:
    """Piecewise-linear basis of the asked sparsity: (B,) → (B, knots)."""
    knots = torch.linspace(0.0, 1.0, _SPARSITY_KNOTS, device=sparsity.device, dtype=sparsity.dtype)
    return (1.0 - (sparsity[:, None] - knots).abs() * (_SPARSITY_KNOTS - 1)).clamp(min=0.0)


__all__ = ["GatePredictor", "InferencePolicy", "all_open", "from_values", "pool"]
