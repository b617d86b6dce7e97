"""The gate predictor of one stack: features, context and asked sparsity in, gates out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_gated.gating.config import GatingConfig, check_sparsity
from espnet_gated.gating.context import ContextEncoder, ContextField, GatingContext
from espnet_gated.gating.gates import Gates, ModuleName, all_open, from_values, precise
from espnet_gated.gating.heads import LayerHead, OutputLayer, spread_layers
from espnet_gated.gating.hierarchy import Scores, prior_log_odds
from espnet_gated.gating.local import LocalGates, Tally, draw, per_row, pool
from espnet_gated.gating.policy import THRESHOLD_SPARSITIES, InferencePolicy, interpolated
from espnet_gated.gating.sampler import budget_gates

_SPARSITY_KNOTS = 9
_MULTIPLY_FROM = 0.3
"""Under final masks in training, a module that this share of the rows needs runs for all of them: picking rows forward
and backward takes longer than it spares (docs/experiments.md, «Picking rows in training»)."""


class GatePredictor(torch.nn.Module):
    """Predicts the gates of a stack: one per module and utterance, from one look at its pooled features.

    At the levels ``layer`` and ``token`` each layer has a look of its own (I3D's local predictors: Peng et al., ICASSP
    2023): context and asked sparsity are embedded once, and the gates of a layer are decided when its input is there.

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

    Raises:
        ValueError: for a level that the stack cannot have.
    """

    thresholds: Tensor

    def __init__(
        self,
        stack: str,
        feature_size: int,
        names: Sequence[ModuleName],
        costs: Tensor,
        config: GatingConfig,
    ):
        super().__init__()
        config.check_level(stack)
        self.stack = stack
        self.names = list(names)
        self.costs = costs.float()
        self.config = config
        width = config.hidden_units
        self._columns: dict[int, list[int]] = {}
        for column, (layer, _) in enumerate(self.names):
            self._columns.setdefault(layer, []).append(column)
        self._layer_of = torch.tensor([list(self._columns).index(layer) for layer, _ in self.names])
        if not self.is_local:
            self.norm = torch.nn.LayerNorm(feature_size)
            self.features = torch.nn.Linear(feature_size, width)
        self.sparsity = torch.nn.Linear(_SPARSITY_KNOTS, width, bias=False)
        self.context = ContextEncoder([], width)
        starts = self._starts()  # of the outputs of each layer
        if self.is_local:
            layers = zip(self._columns, starts, strict=True)
            self.heads = torch.nn.ModuleDict(
                {str(layer): LayerHead(feature_size, width, torch.cat(start)) for layer, start in layers}
            )
        else:
            self.output = OutputLayer(width, torch.cat([part for kind in zip(*starts, strict=True) for part in kind]))
        # Not an integer: of those ESPnet's averaged checkpoints have the sum.
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.float64))
        # Of the learned budget: 0 until espnet_gated.inference.learned_budget has seen some speech.
        self.register_buffer("thresholds", torch.zeros(2, len(THRESHOLD_SPARSITIES)))
        self.always_open = False  # of a dense stack in a gated class: nobody has trained these gates
        self.current: GatingContext | None = None
        self.policy = InferencePolicy()
        self._last: Gates | LocalGates | None = None

    def espnet_initialization_fn(self) -> None:
        """Start as without ESPnet's option ``init``, which sets every bias to 0 and every matrix as those of layers.

        ESPnet calls this after it.
        """
        for part in self.modules():
            if isinstance(part, torch.nn.Linear | torch.nn.LayerNorm | torch.nn.Embedding):
                part.reset_parameters()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As in torch; in ``model.to(torch.bfloat16)`` the predictor keeps its type: rounded, it would open others."""
        before = {name: value.detach() for name, value in self.state_dict(keep_vars=True).items()}
        super()._apply(fn, recurse)
        for name, value in self.state_dict(keep_vars=True).items():
            if value.is_floating_point() and value.dtype != precise(value.dtype):
                value.data = before[name].to(value.device)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}thresholds", self.thresholds)  # checkpoints from before there were any
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _starts(self) -> list[tuple[Tensor, Tensor]]:
        """For each layer, what the outputs for its modules (m,) and for itself (1 with a hierarchy, else 0) start with.

        Raises:
            ValueError: if ``module_prior`` names a module that no layer has.
        """
        known = sorted({name for _, name in self.names})
        for name in self.config.module_prior:
            if name not in known:
                raise ValueError(
                    f"gating.module_prior: the {self.stack} has no gated module {name!r}; it has {', '.join(known)}"
                )
        of_layers = self.config.prior * spread_layers(list(self._columns))
        starts = []
        for columns, of_layer in zip(self._columns.values(), of_layers, strict=True):
            of_modules = torch.tensor([self.config.module_prior.get(self.names[c][1], 0.0) for c in columns])
            pair = of_layer + of_modules, of_layer.repeat(int(self.config.hierarchy))
            starts.append((pair[0] / self.config.gate_speed, pair[1] / self.config.gate_speed))
        return starts

    @property
    def is_local(self) -> bool:
        """Whether each layer's gates look at that layer's own input."""
        return self.config.level != "utterance"

    @property
    def last(self) -> Gates | None:
        """What was decided last: for gates decided on the way the open shares of each utterance so far."""
        if isinstance(self._last, LocalGates):
            return self._last.tally.gates(soft=self._last.temperature is not None)
        return self._last

    @last.setter
    def last(self, gates: Gates | LocalGates | None) -> None:
        self._last = gates

    @property
    def tally(self) -> Tally | None:
        """What was counted of gates that differ by token, for the utterances decided on last."""
        return self._last.tally if isinstance(self._last, LocalGates) and self.config.level == "token" else None

    def columns(self, layer: int) -> list[int]:
        """Where the modules of a layer stand among the M."""
        return self._columns.get(layer, [])

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

    @property
    def samples(self) -> bool:
        """Whether gates are drawn, and multiplied in with a gradient: in training until masks are final."""
        return self.training and not self.frozen

    # -- deciding ---------------------------------------------------------------------------------
    def forward(self, pooled: Tensor) -> Gates | LocalGates:
        """Decide the gates of a batch, under ``current`` context and ``policy``.

        Args:
            pooled: (B, feature_size) features averaged over the frames of each utterance.

        Returns:
            gates of the M modules, or what decides them on the way; also kept in ``last``.
        """
        # Whatever the precision of the layers: masks of training must be those of decoding.
        with torch.autocast(pooled.device.type, enabled=False):
            return self._gates(pooled)

    def _gates(self, pooled: Tensor) -> Gates | LocalGates:
        gates: Gates | LocalGates | None = None
        if self.always_open or (not self.samples and self.policy.budget == "open"):
            gates = all_open(pooled.size(0), self.names, self.costs, pooled)
        elif self.is_local:
            gates = self._begin(pooled)
        elif self.samples:
            gates = self._sample(pooled)
        if gates is None:
            gates = self._decide(pooled)
        self.last = gates
        return gates

    def asked(self, like: Tensor) -> Tensor:
        """Asked sparsity of each utterance, (B,): the context's, the caller's or the model's default.

        In float32 at least, whatever the type of ``like``: in bfloat16 0.3 would be 0.30078, another budget.
        """
        dtype = precise(like.dtype)
        if self.current is not None and self.stack in self.current.sparsity:
            return self.current.sparsity[self.stack].to(like.device, dtype)
        return like.new_full((like.size(0),), self._usual_sparsity, dtype=dtype)

    def logits(self, pooled: Tensor, sparsity: Tensor) -> Tensor:
        """Log-odds of running each module, (B, M), from one look at the utterance."""
        return self._scores(pooled, sparsity).joint

    def margins(self, pooled: Tensor, sparsity: Tensor) -> Tensor:
        """By how much each module is above the threshold of the learned budget, (B, M): positive ones run."""
        threshold = interpolated(self.thresholds, sparsity, self.policy.before)
        return self._scores(pooled, sparsity).both - threshold[:, None]

    def _scores(self, pooled: Tensor, sparsity: Tensor) -> Scores:
        layer_of = self._layer_of if self.config.hierarchy else None
        return self._look(self, pooled, self._known(pooled, sparsity), sparsity, layer_of)

    def local_scores(self, layer: int, features: Tensor, known: Tensor, sparsity: Tensor) -> Scores:
        """What a layer's own predictor says.

        Args:
            layer: index of the layer.
            features: (B, feature_size), or (B, T, feature_size) with one look for each token.
            known: (B, hidden_units), see :class:`LocalGates`.
            sparsity: (B,) asked.
        """
        layer_of = torch.zeros(len(self.columns(layer)), dtype=torch.long) if self.config.hierarchy else None
        with torch.autocast(features.device.type, enabled=False):
            return self._look(self.heads[str(layer)], features, known, sparsity, layer_of)

    def _look(self, head: Any, features: Tensor, known: Tensor, sparsity: Tensor, layer_of: Tensor | None) -> Scores:
        hidden = head.features(head.norm(features.to(head.features.weight.dtype)))
        if "features" not in self.config.condition_on:
            hidden = torch.zeros_like(hidden)
        between = [1] * (hidden.dim() - 2)
        hidden = hidden + known.reshape(len(known), *between, -1)
        prior = prior_log_odds(sparsity, self.config.hierarchy).to(hidden)
        # Optimizers like Adam move parameters by a rate of their own: what they are multiplied with is their speed.
        output = self.config.gate_speed * head.output(torch.nn.functional.silu(hidden))
        return Scores.split(output + per_row(prior, hidden), layer_of)

    def _known(self, like: Tensor, sparsity: Tensor) -> Tensor:
        """Context and asked sparsity, embedded: (B, hidden_units)."""
        seen, like = self.config.condition_on, like.to(self.sparsity.weight.dtype)
        known = like.new_zeros(like.size(0), self.config.hidden_units)
        if "context" in seen:
            known = known + self.context(self.current, like)
        if "sparsity" in seen:
            known = known + self.sparsity(_hat(sparsity).to(known))
        return known

    def _asks_nothing(self, sparsity: Tensor) -> bool:
        """Whether every utterance is asked to run everything."""
        if self.current is not None and self.stack in self.current.sparsity:
            return not bool(sparsity.any())
        return not self._usual_sparsity

    @property
    def _budget(self) -> str:
        return self.policy.budget or self.config.inference_budget

    @property
    def keeps_average(self) -> bool:
        """Whether the learned budget is chosen."""
        return self._budget == "learned"

    @property
    def _usual_sparsity(self) -> float:
        """What is asked of utterances whose context says nothing."""
        asked = self.policy.sparsity
        return self.config.default_sparsity if asked is None else asked

    def _begin(self, like: Tensor) -> LocalGates | None:
        """Everything that can be known before the first layer runs; ``like`` (B, …) gives batch, type and device.

        ``None`` at inference where no layer needs to be looked at: nothing is to be skipped, or a fixed mask.
        """
        sparsity = self.asked(like)
        if not self.samples and (self.policy.budget == "fixed" or self._asks_nothing(sparsity)):
            return None
        utts = torch.arange(like.size(0), device=like.device)
        known = self._known(like, sparsity)
        tally = Tally(like.size(0), self.names, self.costs, known)
        gates = LocalGates(self, known, sparsity, utts, tally, self._temperature() if self.samples else None)
        self.num_updates += self.samples
        return gates

    # -- training ---------------------------------------------------------------------------------
    def draw_targets(self, batch: int, device: torch.device | None = None) -> Tensor:
        """Draw a target sparsity for each utterance of a training batch, (batch,), after the warm-up ramp.

        In evaluation it is the middle of the range: what the model is trained for is what validation should see.
        """
        low, high = self.config.target_range
        if not self.training:
            return torch.full((batch,), 0.5 * (low + high), device=device)
        target = self.draw_pruned(batch, device)
        if high > low:
            target = target * (torch.rand_like(target) >= self.config.dense_prob)
        return self.ramp(target)

    def draw_pruned(self, batch: int, device: torch.device | None = None) -> Tensor:
        """Draw target sparsities from the range and its anchors alone, (batch,): nobody is spared, no ramp."""
        low, high = self.config.target_range
        target = low + (high - low) * torch.rand(batch, device=device)
        if self.config.anchors:
            anchors = target.new_tensor(self.config.anchors)
            drawn = anchors[torch.randint(len(anchors), (batch,), device=device)]
            target = torch.where(torch.rand_like(target) < self.config.anchor_prob, drawn, target)
        return target

    def ramp(self, target: Tensor) -> Tensor:
        """What is asked in place of ``target`` while the warm-up lasts."""
        return target * self._progress(self.config.warmup_steps)

    def _sample(self, pooled: Tensor) -> Gates:
        sparsity = self.asked(pooled)
        scores = self._scores(pooled, sparsity)
        if not self.samples_budgets:
            values, soft_open = draw(scores, sparsity, self._temperature())
        else:
            noise = self._anneal(self.config.noise)
            values, soft_open = budget_gates(scores.joint, self.costs, sparsity, self._temperature(), noise)
        self.num_updates += 1
        self.thresholds.zero_()  # of an earlier training's logits
        costs = self.costs.to(values.device)
        return Gates(values, self.names, costs, scores.joint, soft=True, soft_open=soft_open)

    def _temperature(self) -> float:
        return self._anneal(self.config.temperature, geometric=True)

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
        if self.is_local:  # left to decide here is what needs no look (see ``_begin``)
            logits = pooled.new_zeros(pooled.size(0), len(self.names))
        else:
            logits = self.margins(pooled, sparsity) if self.keeps_average else self.logits(pooled, sparsity)
        # The one device-to-host copy of this stack: what follows needs the numbers on the host. An utterance has two,
        # as the decoder's predictor pools what the encoder puts out under gates that are decided already.
        table = torch.cat([logits, sparsity[:, None]], dim=1).detach().double().cpu().numpy()
        # Asked sparsities come as float32: take off its rounding, so that 0.3 stays affordable as 0.3.
        seeds = self._seeds(pooled) if self._budget == "random" else ()
        rows = self.policy.opened(self._budget, table[:, :-1], self.costs, table[:, -1].round(6), seeds)
        values = torch.tensor(rows, dtype=pooled.dtype).to(pooled.device, non_blocking=True)
        multiply_from = _MULTIPLY_FROM if self.training else None
        return Gates(values, self.names, self.costs, logits, soft=False, host=rows, multiply_from=multiply_from)

    def _seeds(self, pooled: Tensor) -> list[int]:
        """What tells the utterances apart, and this stack from the others: logits of one context are all the same."""
        stack = zlib.crc32(self.stack.encode())
        if self.current is not None and self.current.seeds is not None:
            return [hash((stack, seed)) for seed in self.current.seeds.tolist()]
        # Nobody said; a batch changes features in their last digits only.
        return [hash((stack, *(round(v, 3) for v in row))) for row in pooled.float().tolist()]

    def set_policy(self, sparsity: float | None = None, budget: str | None = None, **more: object) -> None:
        """Choose the sparsity and the kind of budget for the next utterances.

        Raises:
            ValueError: if ``sparsity`` is outside [0, 1).
        """
        if sparsity is not None:
            sparsity = check_sparsity(sparsity, f"--sparsity of the {self.stack}")
        self.policy = InferencePolicy(sparsity, budget, **more)  # type: ignore[arg-type]


def _hat(sparsity: Tensor) -> Tensor:
    """Piecewise-linear basis of the asked sparsity: (B,) → (B, knots)."""
    knots = torch.linspace(0.0, 1.0, _SPARSITY_KNOTS, device=sparsity.device, dtype=sparsity.dtype)
    return (1.0 - (sparsity[:, None] - knots).abs() * (_SPARSITY_KNOTS - 1)).clamp(min=0.0)


__all__ = ["GatePredictor", "all_open", "from_values", "pool"]
