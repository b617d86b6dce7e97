"""Gated twin of ESPnet's Conformer layer (Gulati et al., Interspeech 2020)."""

from typing import ClassVar

import torch
from espnet.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from torch import Tensor

from espnet_gated.gating.costs import linear_flops, module_flops
from espnet_gated.gating.gates import OPEN, LayerGates
from espnet_gated.layers.attend import attend
from espnet_gated.layers.residual import add_residual, normed, survive


class GatedConformerEncoderLayer(EncoderLayer):
    """Conformer layer whose macaron feed-forward, attention, convolution and feed-forward may be skipped.

    An instance is made from ESPnet's ready-built layer by changing its class: weights and their names stay.
    """

    gated_modules: ClassVar[tuple[str, ...]] = ("feed_forward_macaron", "self_attn", "conv_module", "feed_forward")

    def module_costs(self, frames: float) -> dict[str, float]:
        """FLOPs of each module that the layer has on ``frames`` frames."""
        modules = {name: getattr(self, name) for name in self.gated_modules}
        costs = {name: module_flops(module, frames) for name, module in modules.items() if module is not None}
        if self.concat_after:
            costs["self_attn"] += linear_flops(self.concat_linear, frames)
        return costs

    def forward(self, x_input, mask, cache=None, gates: LayerGates | None = None):  # type: ignore[no-untyped-def]
        """Compute encoded features.

        Args:
            x_input: (B, T, size), or a tuple of it and the position embedding (1, T', size).
            mask: (B, 1, T), true for frames that count.
            cache: not supported.
            gates: gates of this layer; missing ones are open.

        Returns:
            output shaped as ``x_input``, and the mask.
        """
        if cache is not None:
            raise NotImplementedError("cache is not supported by gated encoder layers")
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)
        scale = survive(self)
        if scale is not None:
            x = self._modules_of_layer(x, pos_emb, mask, gates or {}, scale)
        return ((x, pos_emb) if pos_emb is not None else x), mask

    def _modules_of_layer(
        self, x: Tensor, pos_emb: Tensor | None, mask: Tensor, gates: LayerGates, scale: float
    ) -> Tensor:
        def gate(name: str):  # type: ignore[no-untyped-def]
            return gates.get(name, OPEN)

        half = scale * self.ff_scale
        if self.feed_forward_macaron is not None:
            norm = self.norm_ff_macaron
            x = add_residual(self, x, gate("feed_forward_macaron"), self._macaron, norm, x, scale=half)
        x = add_residual(self, x, gate("self_attn"), self._attn, self.norm_mha, x, pos_emb, mask, scale=scale)
        if self.conv_module is not None:
            x = add_residual(self, x, gate("conv_module"), self._conv, self.norm_conv, x, scale=scale)
        x = add_residual(self, x, gate("feed_forward"), self._feed_forward, self.norm_ff, x, scale=half)
        return x if self.conv_module is None else self.norm_final(x)

    def _macaron(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward_macaron(normed(self, self.norm_ff_macaron, x)))

    def _attn(self, x: Tensor, pos_emb: Tensor | None, mask: Tensor) -> Tensor:
        x = normed(self, self.norm_mha, x)
        attended = attend(self.self_attn, x, pos_emb, mask)
        if self.concat_after:
            return self.concat_linear(torch.cat((x, attended), dim=-1))
        return self.dropout(attended)

    def _conv(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv_module(normed(self, self.norm_conv, x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward(normed(self, self.norm_ff, x)))
