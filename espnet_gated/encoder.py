"""Gated encoders: ESPnet's classes with a gate predictor, choosable by name in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from espnet.nets.pytorch_backend.nets_utils import make_pad_mask, trim_by_ctc_posterior
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError, check_short_utt
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.multiconvformer_encoder import MultiConvConformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from espnet_gated.gating.config import GatingConfig
from espnet_gated.gating.costs import shares
from espnet_gated.gating.predictor import GatePredictor, pool
from espnet_gated.layers.branchformer import GatedBranchformerEncoderLayer
from espnet_gated.layers.conformer import GatedConformerEncoderLayer
from espnet_gated.layers.e_branchformer import GatedEBranchformerEncoderLayer
from espnet_gated.layers.transformer import GatedTransformerEncoderLayer


def make_predictor(
    stack: str, layers: nn.Module, feature_size: int, config: GatingConfig, **cost_args: Any
) -> GatePredictor:
    """Build the predictor of a stack of gated layers.

    Raises:
        ValueError: if ``gating.modules`` names a module that the layers do not have.
    """
    names, costs = [], []
    for index, layer in enumerate(layers):
        table = layer.module_costs(config.nominal_length, **cost_args)
        wanted = tuple(table) if config.modules is None else config.modules
        for name in wanted:
            if name not in layer.gated_modules:
                raise ValueError(
                    f"gating.modules must be among {', '.join(layer.gated_modules)}, got {name!r} ({stack})"
                )
            if name in table:
                names.append((index, name))
                costs.append(1.0 if config.sparsity_unit == "modules" else table[name])
    return GatePredictor(stack, feature_size, names, shares(costs), config)


class GatedEncoderMixin:
    """What every gated encoder adds to ESPnet's class: a predictor, and a forward that obeys its gates.

    A family names the twin of its layer in ``layer_class``; where ESPnet's encoders differ from one another it says
    which way it goes.
    """

    layer_class: ClassVar[type[nn.Module]]
    # Whether return_all_hs or intermediate CTC decides what is returned where both are asked for.
    hidden_states_first: ClassVar[bool] = False
    # Set by espnet_gated.inference.optimize: the layers can do without a mask where nothing is padded.
    mask_optional: bool = False
    # What ESPnet's class brings.
    encoders: Any
    embed: Any
    after_norm: Any
    conditioning_layer: Any
    interctc_use_conditioning: bool
    training: bool
    output_size: Any

    def __init__(self, *args: Any, gating: Mapping[str, Any] | None = None, **kwargs: Any):
        """Build ESPnet's encoder and gate it.

        Args:
            args, kwargs: those of ESPnet's class.
            gating: options of :class:`espnet_gated.gating.config.GatingConfig`.
        """
        super().__init__(*args, **kwargs)
        self.gate(gating)

    def gate(self, gating: Mapping[str, Any] | None) -> None:
        """Give the ready-built layers their gated classes and make the predictor."""
        for layer in self.encoders:
            layer.__class__ = self.layer_class
        config = GatingConfig.from_yaml(gating)
        self.gate_predictor = make_predictor("encoder", self.encoders, self.output_size(), config)

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Tensor | None = None,
        masks: Tensor | None = None,
        ctc: CTC | None = None,
        max_layer: int | None = None,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """Encode a batch.

        Args:
            xs_pad: (B, T, input_size).
            ilens: (B,) valid frames.
            prev_states: not used, as in ESPnet.
            masks: (B, T), true for padding; ``None``: from ``ilens``.
            ctc: for self-conditioned intermediate CTC.
            max_layer: run only the first layers.
            return_all_hs: return every layer's output too.

        Returns:
            output (B, T', size), or a tuple of it and intermediate outputs; lengths (B,); ``None``.

        Raises:
            TooShortUttError: if the input is too short for the subsampling.
        """
        padding = make_pad_mask(ilens.cpu()) if masks is None else masks  # on the host: the sizes and any() are read
        x, mask = self._embed(xs_pad, (~padding[:, None, :]).to(xs_pad.device))
        gates = self.gate_predictor(pool(x[0] if isinstance(x, tuple) else x, mask)).walk()
        whole = mask if self.mask_optional and not self.training and not padding.any() else None
        if whole is not None:
            mask = None
        interctc = getattr(self, "interctc_layer_idx", ())
        all_hs = return_all_hs and (self.hidden_states_first or not interctc)
        drop_rate = self._layer_drop_rate() if self.training else 0.0
        intermediate: list[Any] = []
        for index, layer in enumerate(self.encoders):
            if max_layer is not None and index >= max_layer:
                break
            # Before a layer is dropped: the sparsity loss is about all of them.
            layer_gates = gates.layer(index, x[0] if isinstance(x, tuple) else x, mask)
            if drop_rate > 0 and torch.empty(1).uniform_().item() < drop_rate:
                continue
            x, mask = self._maybe_checkpoint(index + 1, layer, x, mask, None, layer_gates)
            if all_hs:
                intermediate.append(x[0] if isinstance(x, tuple) else x)
            elif index + 1 in interctc:
                x, mask = self._intermediate(index + 1, x, mask, ctc, intermediate)
        out = x[0] if isinstance(x, tuple) else x
        if getattr(self, "normalize_before", True):
            out = self.after_norm(out)
        olens = (mask if whole is None else whole).squeeze(1).sum(1)
        return ((out, intermediate) if intermediate else out), olens, None

    def _embed(self, xs_pad: Tensor, mask: Tensor) -> tuple[Any, Tensor]:
        if self.embed is None:
            return xs_pad, mask
        # Sequential, linear and embedding inputs keep the length; every other input layer subsamples and wants the
        # mask.
        subsamples = not isinstance(self.embed, (nn.Sequential, nn.Linear, nn.Embedding))
        if not subsamples:
            return self._maybe_checkpoint(0, self.embed, xs_pad), mask
        short, limit = check_short_utt(self.embed, xs_pad.size(1))
        if short:
            raise TooShortUttError(
                f"has {xs_pad.size(1)} frames and is too short for subsampling "
                f"(it needs more than {limit} frames), return empty results",
                xs_pad.size(1),
                limit,
            )
        return self._maybe_checkpoint(0, self.embed, xs_pad, mask)

    def _maybe_checkpoint(self, position: int, module: nn.Module, *inputs: Any) -> Any:
        if position in getattr(self, "gradient_checkpoint_layers", ()):
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _layer_drop_rate(self) -> float:
        return getattr(self, "layer_drop_rate", 0.0)

    def _intermediate(
        self, position: int, x: Any, mask: Tensor, ctc: CTC | None, outs: list[Any]
    ) -> tuple[Any, Tensor]:
        """Keep an intermediate CTC output; if asked, condition the next layers on it or trim blanks at the end."""
        hidden, pos_emb = x if isinstance(x, tuple) else (x, None)
        # Conformer and Transformer normalise intermediate outputs, E-Branchformer does not.
        out = self.after_norm(hidden) if getattr(self, "normalize_before", False) else hidden
        outs.append((position, out))
        if self.interctc_use_conditioning:
            assert ctc is not None
            hidden = hidden + self.conditioning_layer(ctc.softmax(out))
        if getattr(self, "ctc_trim", False) and ctc is not None:
            hidden, mask, pos_emb = trim_by_ctc_posterior(hidden, ctc.softmax(out), mask, pos_emb)
        return (hidden if pos_emb is None else (hidden, pos_emb)), mask


class GatedEBranchformerEncoder(GatedEncoderMixin, EBranchformerEncoder):
    """``encoder: gated_e_branchformer``: both branches and both feed-forwards of E-Branchformer are gated."""

    layer_class = GatedEBranchformerEncoderLayer
    hidden_states_first = True


class GatedBranchformerEncoder(GatedEncoderMixin, BranchformerEncoder):
    """``encoder: gated_branchformer``: both branches of Branchformer are gated, under each of its merges."""

    layer_class = GatedBranchformerEncoderLayer


class GatedTransformerEncoder(GatedEncoderMixin, TransformerEncoder):
    """``encoder: gated_transformer``: self-attention and feed-forward are gated."""

    layer_class = GatedTransformerEncoderLayer


class GatedConformerEncoder(GatedEncoderMixin, ConformerEncoder):
    """``encoder: gated_conformer``: both feed-forwards, self-attention and convolution are gated."""

    layer_class = GatedConformerEncoderLayer


class GatedMultiConvConformerEncoder(GatedEncoderMixin, MultiConvConformerEncoder):
    """``encoder: gated_multiconv_conformer`` (ASR): as Conformer, with convolutions of several widths."""

    layer_class = GatedConformerEncoderLayer

    def _layer_drop_rate(self) -> float:
        return 0.0 if self.interctc_layer_idx else self.encoders.layer_drop_rate
