"""Gated S2T model: ESPnet's model with a gating context and a sparsity loss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet2.s2t.espnet_model import ESPnetS2TModel
from torch import Tensor

from espnet_gated.gating.config import parse_sparsity
from espnet_gated.gating.context import GatingContext, TokenContext, parse_fields
from espnet_gated.gating.distillation import distillation_loss
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.loss import sparsity_loss
from espnet_gated.gating.predictor import GatePredictor

DEFAULT_CONTEXT = {"lang": "token", "task": "token"}
SPARSITY_VARIABLE = "ESPNET_GATED_SPARSITY"
"""Environment variable that asks for a sparsity where a stock ESPnet command line has no option for it."""


class GatedESPnetS2TModel(ESPnetS2TModel):
    """``model: gated``: S2T model whose encoder and decoder skip modules.

    ``L = L_task + w(n) · (L_sparsity(encoder) + L_sparsity(decoder))`` with ``L_sparsity = |ŝ − s*| + (ŝ − s*)²``; each
    stack has its own target. ``w(n)`` rises linearly over ``sparsity_warmup`` updates.
    """

    def __init__(
        self,
        *args: Any,
        sparsity_weight: float = 10.0,
        sparsity_warmup: int = 0,
        sparsity_level: str = "utterance",
        context: Mapping[str, Any] | None = None,
        context_dropout: float = 0.1,
        distill_weight: float = 0.0,
        **kwargs: Any,
    ):
        """Build ESPnet's model and connect its gate predictors.

        Args:
            args, kwargs: those of ``ESPnetS2TModel``.
            sparsity_weight: weight of the sparsity loss.
            sparsity_warmup: updates over which the weight rises to its value.
            sparsity_level: ``utterance`` (each against its own target) or ``batch`` (means).
            context: declared contexts, see :func:`espnet_gated.gating.context.parse_fields`.
            context_dropout: probability that a context of an utterance is dropped in training.
            distill_weight: weight of the distillation loss: the posteriors (attention and CTC) of the same model
                with every gate open teach the gated one. Costs one more forward pass.
        """
        super().__init__(*args, **kwargs)
        if not 0.0 <= context_dropout <= 1.0:
            raise ValueError(f"context_dropout must be in [0, 1], got {context_dropout}")
        self.sparsity_weight = sparsity_weight
        self.sparsity_warmup = sparsity_warmup
        self.sparsity_level = sparsity_level
        self.distill_weight = distill_weight
        fields = parse_fields(DEFAULT_CONTEXT if context is None else context, self.token_list)
        self.token_context = TokenContext(fields, self.token_list, self.sos)
        for predictor in self.gate_predictors().values():
            predictor.declare_context(fields, context_dropout)
        if hasattr(self.decoder, "connect"):
            self.decoder.connect(self.token_context, list(self.gate_predictors().values()))
        self.set_sparsity(*parse_sparsity(os.environ.get(SPARSITY_VARIABLE), SPARSITY_VARIABLE))

    def gate_predictors(self) -> dict[str, GatePredictor]:
        """The predictors by stack name; a stack that is not gated is missing."""
        stacks = {"encoder": self.encoder, "decoder": self.decoder}
        found = {name: getattr(stack, "gate_predictor", None) for name, stack in stacks.items()}
        return {name: p for name, p in found.items() if p is not None}

    def set_sparsity(
        self, encoder: float | None = None, decoder: float | None = None, budget: str | None = None
    ) -> None:
        """Choose what the next utterances skip at inference (``None``: the model's defaults)."""
        asked = {"encoder": encoder, "decoder": decoder}
        for name, predictor in self.gate_predictors().items():
            predictor.set_policy(asked[name], budget)

    @contextmanager
    def gating(self, context: GatingContext | None) -> Iterator[None]:
        """Let every predictor see ``context`` for the utterances inside the ``with`` block."""
        predictors = self.gate_predictors().values()
        for predictor in predictors:
            predictor.current = context
        try:
            yield
        finally:
            for predictor in predictors:
                predictor.current = None

    def context_of_text(self, text: Tensor) -> GatingContext:
        """Context of S2T text (B, L) that starts with the language and task tokens; in training with drawn targets."""
        sparsity = {}
        if self.training:
            for name, predictor in self.gate_predictors().items():
                sparsity[name] = predictor.draw_targets(text.size(0), text.device)
        return GatingContext(self.token_context.from_text(text), sparsity=sparsity)

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        text_prev: Tensor,
        text_prev_lengths: Tensor,
        text_ctc: Tensor,
        text_ctc_lengths: Tensor,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Frontend, gated encoder, gated decoder, losses. Arguments as in ESPnet.

        Returns:
            loss, statistics (with ``loss_sparsity``, ``sparsity_encoder``, ``sparsity_decoder``), weight.
        """
        batch = (speech, speech_lengths, text, text_lengths, text_prev, text_prev_lengths, text_ctc, text_ctc_lengths)
        distill = self.training and self.distill_weight > 0
        teacher = self._dense_posteriors(batch, kwargs) if distill else None
        with self.gating(self.context_of_text(text)), _captured(self) as student:
            loss, stats, weight = super().forward(*batch, **kwargs)
            penalty = self._sparsity(stats)
        if teacher is not None:
            distillation = self._distillation(student, teacher)
            stats["loss_distill"] = distillation.detach()
            loss = loss + self.distill_weight * distillation.to(loss)
        if self.training:
            loss = loss + self._weight() * penalty.to(loss)
            stats["loss"] = loss.detach()
        return loss, stats, weight

    def _dense_posteriors(self, batch: tuple[Tensor, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the model says with every gate open, in evaluation mode (no dropout, no augmentation)."""
        policies = {name: p.policy for name, p in self.gate_predictors().items()}
        self.eval()
        try:
            for predictor in self.gate_predictors().values():
                predictor.set_policy(budget="open")
            with torch.no_grad(), _captured(self) as teacher:
                super().forward(*(t.clone() for t in batch), **kwargs)
        finally:
            self.train()
            for name, predictor in self.gate_predictors().items():
                predictor.policy = policies[name]
        return teacher

    def _distillation(self, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
        loss: Tensor = torch.zeros(())
        if "decoder" in student:
            scores, mask = student["decoder"]
            loss = (1 - self.ctc_weight) * distillation_loss(scores, teacher["decoder"][0], mask)
        if self.ctc is not None:
            frames, mask = student["encoder"]
            posteriors = self.ctc.ctc_lo(frames), self.ctc.ctc_lo(teacher["encoder"][0])
            loss = loss.to(frames) + self.ctc_weight * distillation_loss(*posteriors, mask)
        return loss

    def _sparsity(self, stats: dict[str, Tensor]) -> Tensor:
        penalty: Tensor = torch.zeros(())
        for name, predictor in self.gate_predictors().items():
            gates = predictor.last
            assert isinstance(gates, Gates)
            skipped = gates.skipped()
            stats[f"sparsity_{name}"] = skipped.detach().mean()
            target = predictor.asked(skipped)
            stats[f"target_{name}"] = target.mean()
            # The budget sampler meets its targets by construction; there the loss teaches the probabilities, so that
            # thresholding them (the learned budget) gives the asked sparsity too.
            taught = gates.expected_skipped() if predictor.samples_budgets and gates.soft else skipped
            penalty = penalty.to(taught) + sparsity_loss(taught, target, self.sparsity_level)
        stats["loss_sparsity"] = penalty.detach()
        return penalty

    def _weight(self) -> float:
        if self.sparsity_warmup <= 0:
            return self.sparsity_weight
        predictors = list(self.gate_predictors().values())
        updates = int(predictors[0].num_updates) if predictors else 0
        return self.sparsity_weight * min(1.0, updates / self.sparsity_warmup)


@contextmanager
def _captured(model: ESPnetS2TModel) -> Iterator[dict[str, Any]]:
    """Keep what encoder and decoder return inside the ``with`` block: name → (output (B, T, …), mask (B, T))."""
    found: dict[str, Any] = {}

    def keep_encoder(_: Any, __: Any, result: Any) -> None:
        out = result[0][0] if isinstance(result[0], tuple) else result[0]
        found["encoder"] = out, ~make_pad_mask(result[1], maxlen=out.size(1)).to(out.device)

    def keep_decoder(_: Any, inputs: Any, result: Any) -> None:
        out = result[0][0] if isinstance(result[0], tuple) else result[0]
        found["decoder"] = out, ~make_pad_mask(inputs[3], maxlen=out.size(1)).to(out.device)

    handles = [model.encoder.register_forward_hook(keep_encoder)]
    if model.decoder is not None:
        handles.append(model.decoder.register_forward_hook(keep_decoder))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
