"""Further passes of a training batch: through one stack at another sparsity, or through the whole model, to teach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor

from espnet_gated.gating.context import GatingContext
from espnet_gated.gating.distillation import distillation_loss, matching_loss
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.gating.targets import JointTarget


class FurtherPasses(AbsESPnetModel):
    """The part of a gated model that passes a training batch more than once, before ESPnet's class among its bases."""

    joint_targets: list[JointTarget]

    def init_passes(
        self,
        distill_weight: float,
        distill_decoders: float,
        distill_decoders_alone: bool,
        distill_encoder: float,
        distill_encoder_share: float,
    ) -> None:
        """Take the options described at :meth:`espnet_gated.model.GatedModelMixin.init_gating`.

        Raises:
            ValueError: for a teacher that has nothing to teach.
        """
        self.distill_weight = distill_weight
        self.distill_decoders = distill_decoders
        self.distill_decoders_alone = distill_decoders_alone
        if distill_decoders_alone and distill_decoders <= 0:
            raise ValueError("distill_decoders_alone needs distill_decoders above 0: nothing else teaches the others")
        several = any(len(target.decoders) > 1 for target in self.joint_targets)
        if several and "decoder" not in self.gate_predictors():
            raise ValueError("joint_targets with a list of decoder sparsities need a gated decoder")
        if distill_decoders > 0 and not several:
            raise ValueError(
                "distill_decoders needs joint_targets with a list of decoder sparsities: no decoder to teach"
            )
        self.distill_encoder, self.distill_encoder_share = distill_encoder, distill_encoder_share
        if distill_encoder > 0:
            self._check_distill_encoder()
        if distill_weight > 0 and getattr(self, "postencoder", None) is not None:
            raise ValueError(
                f"distill_weight compares what CTC hears, which is not the encoder's output behind a "
                f"{type(self.postencoder).__name__}; leave the postencoder out, or distill_weight"
            )
        if distill_weight > 0 and getattr(self, "mt_weight", 0.0) > 0:
            raise ValueError(
                f"distill_weight compares the first pass of a batch through the decoder, which is MT's with mt_weight "
                f"{self.mt_weight}; leave out one of the two"
            )
        self._further_decoders: tuple[float, ...] = ()
        self._forget_passes()

    @property
    def has_one_attention_loss(self) -> bool:
        """Whether ESPnet's class has an attention loss that can be had for several decoder sparsities (S2T, ASR)."""
        return hasattr(super(), "_calc_att_loss")

    def _forget_passes(self) -> None:
        self._further_gates: dict[str, list[tuple[Gates, Tensor]]] = {}
        self._divergences: list[Tensor] = []
        for predictor in self.gate_predictors().values():
            predictor.last = None

    def _taught(self, student: dict[str, Any], teacher: dict[str, Any] | None, stats: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the distillation losses of a batch; each is noted in ``stats``.

        Args:
            student: what :func:`captured` kept of the batch.
            teacher: what it kept of the open model, if that teaches.
            stats: of the batch.
        """
        losses: list[tuple[str, float, Tensor]] = []
        if teacher is not None:
            losses.append(("loss_distill", self.distill_weight, self._distillation(student, teacher)))
        if self._divergences:
            divergence = torch.stack(self._divergences).mean()
            losses.append(("loss_distill_decoder", self.distill_decoders, divergence))
        mismatch = self._mismatch(student) if self.distill_encoder > 0 else None
        if mismatch is not None:
            losses.append(("loss_distill_encoder", self.distill_encoder, mismatch))
        # Data-parallel processes exchange what every one of them has: not a number stands for «not in this batch».
        weights = {"loss_distill_decoder": self.distill_decoders, "loss_distill_encoder": self.distill_encoder}
        for name in (name for name, weight in weights.items() if weight > 0):
            stats[name] = torch.full((), math.nan, device=stats["loss"].device)
        total = torch.zeros(())
        for name, weight, loss in losses:
            stats[name] = loss.detach()
            total = total.to(loss) + weight * loss
        return total

    def gate_predictors(self) -> dict[str, GatePredictor]:
        """The predictors by stack name; a stack that is not gated is missing."""
        found = {name: getattr(child, "gate_predictor", None) for name, child in self.named_children()}
        return {name: p for name, p in found.items() if p is not None and not p.always_open}

    def _check_distill_encoder(self) -> None:
        if not 0.0 < self.distill_encoder_share <= 1.0:
            raise ValueError(f"distill_encoder_share must be in (0, 1], got {self.distill_encoder_share}")
        predictor = self.gate_predictors().get("encoder")
        if predictor is None:
            raise ValueError(f"distill_encoder needs a gated encoder, got {type(self.encoder).__name__}")
        low, high = predictor.config.target_range
        drawn = low < high and predictor.config.dense_prob > 0
        if not drawn and all(target.encoder > 0 for target in self.joint_targets):
            raise ValueError(
                "distill_encoder: no utterance trains with its encoder open; give gating.target_sparsity a range with "
                f"a dense_prob, or joint_targets an encoder sparsity of 0 (target_sparsity is {low}"
                f"{f' to {high}' if high > low else ''})"
            )

    def _dense_posteriors(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the model says with every gate open, in evaluation mode (no dropout, no augmentation)."""
        policies = {name: p.policy for name, p in self.gate_predictors().items()}
        further, self._further_decoders = self._further_decoders, ()
        # In evaluation ESPnet's models decode for error rates, which nobody asks for here.
        calculators = {name: part for name, part in self.__dict__.items() if "error_calculator" in name}
        self.__dict__.update(dict.fromkeys(calculators))
        self.eval()
        try:
            for predictor in self.gate_predictors().values():
                predictor.set_policy(budget="open")
            with torch.no_grad(), captured(self) as teacher:
                super().forward(**{k: v.clone() if torch.is_tensor(v) else v for k, v in batch.items()})
        finally:
            # Before torch 2.11 it kept what was cast without a gradient, for the student that comes next.
            torch.clear_autocast_cache()
            self.train()
            self.__dict__.update(calculators)
            self._further_decoders = further
            for name, predictor in self.gate_predictors().items():
                predictor.policy = policies[name]
        return teacher

    def _distillation(self, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
        # The weight between attention and CTC, where the model's CTC is for the decoder's text (S2T, ASR).
        ctc_weight = getattr(self, "ctc_weight", 0.0)
        loss: Tensor = torch.zeros(())
        if "decoder" in student:
            scores, mask = student["decoder"]
            loss = (1 - ctc_weight) * distillation_loss(scores, teacher["decoder"][0], mask)
        if ctc_weight > 0:
            frames, mask = student["encoder"]
            posteriors = self.ctc.ctc_lo(frames), self.ctc.ctc_lo(teacher["encoder"][0])
            loss = loss.to(frames) + ctc_weight * distillation_loss(*posteriors, mask)
        return loss

    def _calc_att_loss(self, encoder_out: Tensor, *args: Any) -> tuple[Any, ...]:
        """Attention loss, accuracy, CER and WER of a batch, over all decoder sparsities of its joint target."""
        calculate: Callable[..., tuple[Any, ...]] = super()._calc_att_loss  # type: ignore[misc]

        def copied(tensors: Sequence[Any]) -> list[Any]:
            # With a language token ESPnet's ASR model adds 1 to the lengths in place, at every call.
            return [t.clone() if isinstance(t, Tensor) else t for t in tensors]

        with captured(self) as first:
            results = [calculate(encoder_out, *copied(args))]
        for sparsity in self._further_decoders:
            with self._asking("decoder", sparsity), captured(self) as further:
                if self.distill_decoders_alone:
                    memory, *inputs = first["decoder_call"]
                    self.decoder(memory.detach(), *inputs)
                else:
                    results.append(calculate(encoder_out, *copied(args)))
            if self.distill_decoders > 0:
                self._divergences.append(distillation_loss(further["decoder"][0], *first["decoder"]))
        return tuple(None if values[0] is None else sum(values) / len(values) for values in zip(*results, strict=True))

    def _mismatch(self, whole: dict[str, Any]) -> Tensor | None:
        """What a pruned encoder's output lacks of the whole one's, for some utterances that ran all of it.

        Args:
            whole: what :func:`captured` kept of the batch.
        """
        predictor = self.gate_predictors()["encoder"]
        out, mask = whole["encoder"]
        most = max(1, round(self.distill_encoder_share * len(out)))
        rows = (predictor.asked(out[:, 0, 0]) == 0).nonzero().flatten()[:most]
        if not len(rows):
            return None
        (features, lengths, *more), options = whole["encoder_call"]
        lengths = lengths[rows]
        with self._asking("encoder", float(predictor.draw_pruned(1)), rows):
            pruned = _first(self.encoder(features[rows, : int(lengths.max())], lengths, *more, **options))
        frames = pruned.size(1)  # the longest utterance of the batch need not be among them
        return matching_loss(pruned, out[rows, :frames], mask[rows, :frames])

    @contextmanager
    def _asking(self, stack: str, sparsity: float, rows: Tensor | None = None) -> Iterator[None]:
        """Ask a stack for another sparsity inside the ``with`` block, as if it were another batch's.

        What it decides there is kept for the sparsity loss; its count of updates stays that of batches.

        Args:
            stack: ``encoder`` or ``decoder``.
            sparsity: what the warm-up ends with.
            rows: (n,) utterances that the other batch consists of; ``None``: all.
        """
        predictor = self.gate_predictors()[stack]
        known, gates, updates = predictor.current, predictor.last, predictor.num_updates.clone()
        context = known or GatingContext()
        if rows is not None:
            context = context.select(rows)
        target = predictor.ramp(torch.full_like(context.sparsity[stack], sparsity))
        predictor.current = replace(context, sparsity={**context.sparsity, stack: target})
        try:
            yield
            if isinstance(predictor.last, Gates):
                self._further_gates.setdefault(stack, []).append((predictor.last, target))
        finally:
            predictor.current, predictor.last = known, gates
            predictor.num_updates.copy_(updates)


@contextmanager
def captured(model: Any) -> Iterator[dict[str, Any]]:
    """Keep what encoder and decoder return first inside the ``with`` block: name → (output (B, T, …), mask (B, T)).

    ``encoder_call`` is what the encoder was called with: positional and named arguments; ``decoder_call`` the decoder's
    positional ones.
    """
    found: dict[str, Any] = {}

    # Replicas of torch's DataParallel have one dictionary of hooks: each keeps what its own parts return.
    def keep_encoder(part: Any, inputs: Any, options: Any, result: Any) -> None:
        if "encoder" not in found and part is model.encoder:
            out = _first(result)
            found["encoder_call"] = inputs, options
            found["encoder"] = out, ~make_pad_mask(result[1], maxlen=out.size(1)).to(out.device)

    def keep_decoder(part: Any, inputs: Any, result: Any) -> None:
        if "decoder" not in found and part is model.decoder and len(inputs) == 4:  # a transducer's has one
            out = _first(result)
            found["decoder_call"] = inputs
            real = ~make_pad_mask(inputs[3], maxlen=out.size(1)).to(out.device)
            found["decoder"] = out, real & behind_last(model.sos, inputs[2], real)

    handles = [model.encoder.register_forward_hook(keep_encoder, with_kwargs=True)]
    if getattr(model, "decoder", None) is not None:
        handles.append(model.decoder.register_forward_hook(keep_decoder))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def behind_last(sos: int, ys: Tensor, real: Tensor) -> Tensor:
    """Positions from the last ``<sos>`` on: in front of it stands S2T's previous text, which no label trains.

    Args:
        sos: its id.
        ys: (B, L) decoder input.
        real: (B, L), false for padding, which may have the same id.

    Returns:
        (B, L)
    """
    starts = ((ys == sos) & real).long()
    return starts.flip(1).cumsum(1).flip(1) == starts


def _first(result: Any) -> Tensor:
    """The last layer's output, (B, T, …), among what an encoder or decoder returns."""
    out: Tensor = result[0][0] if isinstance(result[0], tuple) else result[0]
    return out
