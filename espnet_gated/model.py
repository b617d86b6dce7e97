"""Gated models: ESPnet's models with a gating context and a sparsity loss."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.mt.espnet_model import ESPnetMTModel
from espnet2.s2t.espnet_model import ESPnetS2TModel
from espnet2.st.espnet_model import ESPnetSTModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor, nn

from espnet_gated.gating.config import parse_sparsity
from espnet_gated.gating.context import GatingContext, TokenContext, context_of_batch, parse_fields
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.loss import sparsity_loss
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.gating.targets import TARGETS_PER, parse_joint_targets
from espnet_gated.passes import FurtherPasses, captured

SPARSITY_VARIABLE = "ESPNET_GATED_SPARSITY"
"""Environment variable that asks for a sparsity (``0.5``) where a stock ESPnet command line has no option for it."""
CONTEXT_VARIABLE = "ESPNET_GATED_CONTEXT"
"""Environment variable that names contexts (``lang=deu,device=phone``), for the same reason."""


class GatedModelMixin(FurtherPasses):
    """What gated models add to ESPnet's: every gated stack among their parts sees the context and pays for its gates.

    ``L = L_task + w(n) · Σ L_sparsity(stack)`` with ``L_sparsity = |ŝ − s*| + (ŝ − s*)²``; each stack (``encoder``,
    ``decoder``, ST's ``extra_asr_decoder``, …) has its own target. ``w(n)`` rises linearly over ``sparsity_warmup``
    updates.
    """

    usual_context: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **kwargs: Any):
        """Build ESPnet's model and connect its gate predictors.

        Args:
            args, kwargs: those of ESPnet's class, and those of :meth:`init_gating`.
        """
        gating = {name: kwargs.pop(name) for name in gating_options() if name in kwargs}
        super().__init__(*args, **kwargs)
        self.init_gating(**gating)

    def init_gating(
        self,
        *,
        sparsity_weight: float = 10.0,
        sparsity_warmup: int = 0,
        sparsity_level: str = "utterance",
        context: Mapping[str, Any] | None = None,
        default_context: Mapping[str, str] | None = None,
        context_dropout: float = 0.1,
        distill_weight: float = 0.0,
        distill_decoders: float = 0.0,
        distill_decoders_alone: bool = False,
        distill_encoder: float = 0.0,
        distill_encoder_share: float = 0.25,
        joint_targets: Sequence[Sequence[Any]] = (),
        targets_per: str = "utterance",
    ) -> None:
        """Connect the gate predictors of a ready-built model.

        Args:
            sparsity_weight: weight of the sparsity loss.
            sparsity_warmup: training batches over which the weight rises to its value.
            sparsity_level: ``utterance`` (each against its own target) or ``batch`` (means).
            context: declared contexts, see :func:`espnet_gated.gating.context.parse_fields`; ``None``: those of the
                task (S2T: language and task tokens; else none).
            default_context: name → category that stands in where none is known.
            context_dropout: probability that a context of an utterance is dropped in training.
            distill_weight: weight of the distillation loss: the posteriors (attention and CTC) of the same model
                with every gate open teach the gated one. Costs one more forward pass.
            distill_decoders: weight of another: where a batch has several decoder sparsities (``joint_targets``), the
                posteriors at the first teach the decoder at the others. They are there already.
            distill_decoders_alone: the others learn from the first alone, not from the labels too, and no gradient of
                theirs reaches the encoder: cheaper, as a training step has one attention loss then.
            distill_encoder: weight of a third: utterances whose encoder runs whole pass it again, pruned to a share
                drawn from its ``gating.target_sparsity`` and ``anchors`` (one for all of them), and its first output
                teaches the second. Prunes the encoder without taking batches from the whole one.
            distill_encoder_share: at most this share of a batch passes again.
            joint_targets: ``[encoder, decoder, share]`` each: share of the training utterances that are asked for
                this sparsity in encoders and decoders together. The others draw each stack's target by itself.
                Where ``decoder`` is a list, the batch passes the encoder once and the decoder once for each of them,
                and their losses are averaged (S2T and ASR; with ``targets_per: batch``).
            targets_per: ``utterance`` or ``batch``: what a target is drawn for. Where all utterances of a batch have
                one target, most of the modules that their final masks (``gating.freeze_steps``) close are closed for
                all of them, and are not computed.
        """
        if not self.gate_predictors():
            raise ValueError("model: gated needs a gated encoder or decoder (encoder: gated_…, decoder: gated_…)")
        if targets_per not in TARGETS_PER:
            raise ValueError(f"targets_per must be {' or '.join(TARGETS_PER)}, got {targets_per!r}")
        self.targets_per = targets_per
        self.joint_targets = parse_joint_targets(joint_targets)
        if any(len(target.decoders) > 1 for target in self.joint_targets):
            if targets_per != "batch":
                raise ValueError("joint_targets with a list of decoder sparsities need targets_per: batch")
            if not self.has_one_attention_loss:
                raise ValueError(f"joint_targets with a list of decoder sparsities: not for {type(self).__name__}")
        if not 0.0 <= context_dropout <= 1.0:
            raise ValueError(f"context_dropout must be in [0, 1], got {context_dropout}")
        self.sparsity_weight = sparsity_weight
        self.sparsity_warmup = sparsity_warmup
        self.sparsity_level = sparsity_level
        self.init_passes(
            distill_weight, distill_decoders, distill_decoders_alone, distill_encoder, distill_encoder_share
        )
        defaults = {**(default_context or {}), **_context_of_environment()}
        self.context_fields = parse_fields(
            self.usual_context if context is None else context, self.token_list, defaults
        )
        self.token_context = TokenContext(self.context_fields, self.token_list, self.sos)
        for name, predictor in self.gate_predictors().items():
            predictor.stack = name
            predictor.declare_context(self.context_fields, context_dropout)
        decoder: Any = getattr(self, "decoder", None)
        if hasattr(decoder, "connect"):
            decoder.connect(self.token_context)
        for scorer in (decoder, getattr(self, "ctc", None)):
            if scorer is not None:
                scorer.announce_primer = self.announce_primer  # see espnet_gated.primer
        self.set_sparsity(*parse_sparsity(os.environ.get(SPARSITY_VARIABLE), SPARSITY_VARIABLE))

    def set_sparsity(
        self, encoder: float | None = None, decoder: float | None = None, budget: str | None = None
    ) -> None:
        """Choose what the next utterances skip at inference, in all encoders and in all decoders of the model.

        ``None``: the model's defaults.
        """
        predictors = self.gate_predictors()
        before = 0.0 if encoder is None else encoder
        if encoder is None and "encoder" in predictors:
            before = predictors["encoder"].config.default_sparsity
        for name, predictor in predictors.items():
            if name.endswith("decoder"):
                predictor.set_policy(decoder, budget, before=before)
            else:
                predictor.set_policy(encoder, budget)

    # -- context ----------------------------------------------------------------------------------
    @contextmanager
    def gating(self, context: GatingContext | None) -> Iterator[None]:
        """Let every predictor see ``context`` for the utterances inside the ``with`` block."""
        self._see(context)
        try:
            yield
        finally:
            self._see(None)

    def _see(self, context: GatingContext | None) -> None:
        for predictor in self.gate_predictors().values():
            predictor.current = context

    def announce_primer(self, primer: Sequence[int] | None) -> None:
        """Tell every predictor the context in a search's primer, before the encoder runs.

        Args:
            primer: token ids (``<sos><deu><asr>…``); ``None`` forgets it.
        """
        known = self.token_context.from_primer(torch.tensor([list(primer)])) if primer else None
        self._see(None if known is None else GatingContext(known))

    def context_of(self, batch: Mapping[str, Tensor]) -> GatingContext:
        """Context of a training batch: tokens at the start of its text, other fields by their data names.

        With drawn targets, unless a sparsity was set for inference.
        """
        text = batch["text"]
        context = context_of_batch(self.context_fields, batch)
        sparsity = {}
        point = self._per_target(self._draw_points, text) if self.training and self.joint_targets else None
        self._further_decoders = () if point is None else self._decoders_beside(point)
        for name, predictor in self.gate_predictors().items():
            if self.training or predictor.policy.asks_nothing:
                sparsity[name] = self._per_target(predictor.draw_targets, text)
            if point is not None:
                joint = sparsity[name].new_tensor([*(target.of(name) for target in self.joint_targets), 0.0])
                sparsity[name] = torch.where(
                    point < len(self.joint_targets), predictor.ramp(joint[point]), sparsity[name]
                )
        categories = {**self.token_context.from_text(text), **context.categories}
        return GatingContext(categories, context.vectors, sparsity)

    def _per_target(self, draw: Callable[[int, torch.device], Tensor], text: Tensor) -> Tensor:
        """``draw`` for each utterance, or once for all of them, (B,)."""
        batch = text.size(0)
        return draw(1, text.device).expand(batch) if self.targets_per == "batch" else draw(batch, text.device)

    def _draw_points(self, number: int, device: torch.device) -> Tensor:
        """Which of the joint targets is asked for, (number,); their number stands for none."""
        shares = [target.share for target in self.joint_targets]
        shares.append(max(0.0, 1.0 - sum(shares)))
        return torch.multinomial(torch.tensor(shares), number, replacement=True).to(device)

    def _decoders_beside(self, point: Tensor) -> tuple[float, ...]:
        """Decoder sparsities of a batch's joint target, (B,), behind the first."""
        if self.targets_per != "batch" or int(point[0]) == len(self.joint_targets):
            return ()
        if "decoder" not in self.gate_predictors():
            return ()
        return self.joint_targets[int(point[0])].decoders[1:]

    # -- training ---------------------------------------------------------------------------------
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """ESPnet's forward under gates, and the losses of the gates. Arguments as in ESPnet, and declared contexts.

        Returns:
            loss, statistics (with ``loss_sparsity`` and ``sparsity_encoder`` … for each stack), weight.
        """
        batch = {**dict(zip(inspect.signature(super().forward).parameters, args, strict=False)), **kwargs}
        context = self.context_of(batch)
        for f in self.context_fields:
            for name in (f.name, f"{f.name}_lengths"):
                batch.pop(name, None)
        teacher = self._dense_posteriors(batch) if self.training and self.distill_weight > 0 else None
        updates = [(p.num_updates, p.num_updates + 1) for p in self.gate_predictors().values()]
        with self.gating(context):
            self._forget_passes()
            with captured(self) as student:
                loss, stats, weight = super().forward(**batch)
            for counted, most in updates:  # a batch is one update, though MT and ST share a decoder
                torch.minimum(counted, most, out=counted)
            if self.training:
                loss = loss + self._taught(student, teacher, stats).to(loss)
            penalty = self._sparsity(stats)
        if self.training:
            loss = loss + self._weight() * penalty.to(loss)
            stats["loss"] = loss.detach()
        return loss, force_gatherable(stats, loss.device), weight

    def _sparsity(self, stats: dict[str, Tensor]) -> Tensor:
        penalty: Tensor = torch.zeros(())
        for name, predictor in self.gate_predictors().items():
            gates = predictor.last
            if not isinstance(gates, Gates):
                continue  # a stack that this batch did not need
            skipped = gates.skipped()
            decided = [(gates, predictor.asked(skipped)), *self._further_gates.get(name, [])]
            stats[f"sparsity_{name}"] = torch.cat([g.skipped().detach() for g, _ in decided]).mean()
            stats[f"target_{name}"] = torch.cat([target for _, target in decided]).mean()
            losses = [self._sparsity_of(predictor, *pair) for pair in decided]
            penalty = penalty.to(losses[0]) + sum(losses) / len(losses)
        stats["loss_sparsity"] = penalty.detach()
        return penalty

    def _sparsity_of(self, predictor: GatePredictor, gates: Gates, target: Tensor) -> Tensor:
        # The budget sampler meets its targets by construction; there the loss teaches the probabilities, so that
        # thresholding them (the learned budget) gives the asked sparsity too.
        taught = gates.expected_skipped() if predictor.samples_budgets and gates.soft else gates.skipped()
        return sparsity_loss(taught, target.to(taught), self.sparsity_level)

    def _weight(self) -> float:
        if self.sparsity_warmup <= 0:
            return self.sparsity_weight
        # A stack whose masks are final counts no further.
        updates = max((int(p.num_updates) for p in self.gate_predictors().values()), default=0)
        return self.sparsity_weight * min(1.0, updates / self.sparsity_warmup)


class GatedESPnetS2TModel(GatedModelMixin, ESPnetS2TModel):
    """S2T: language and task are tokens at the start of the text."""

    usual_context = {"lang": "token", "task": "token"}


class GatedESPnetASRModel(GatedModelMixin, ESPnetASRModel):
    """ASR: with attention decoder, CTC or both."""


class GatedESPnetSTModel(GatedModelMixin, ESPnetSTModel):
    """ST: also the decoders and encoders of its extra ASR and MT tasks may be gated."""


class GatedESPnetMTModel(GatedModelMixin, ESPnetMTModel):
    """MT: text encoder and decoder are gated."""


MODELS: dict[type[nn.Module], type[GatedModelMixin]] = {
    ESPnetS2TModel: GatedESPnetS2TModel,
    ESPnetASRModel: GatedESPnetASRModel,
    ESPnetSTModel: GatedESPnetSTModel,
    ESPnetMTModel: GatedESPnetMTModel,
}


def gating_options() -> list[str]:
    """Names of the options that a gated model takes beside those of ESPnet's class."""
    return [name for name in inspect.signature(GatedModelMixin.init_gating).parameters if name != "self"]


def _context_of_environment() -> dict[str, str]:
    """Read ``lang=deu,device=phone``.

    Raises:
        ValueError: naming the variable.
    """
    text = os.environ.get(CONTEXT_VARIABLE, "")
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"context must be NAME=VALUE,…, got {text!r} ({CONTEXT_VARIABLE})")
    return {name.strip(): value.strip() for name, value in pairs}
