"""Gated twin of ESPnet's Transformer encoder layer."""

from typing import ClassVar

import torch
from espnet.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer
from torch import Tensor

from espnet_gated.gating.costs import linear_flops, module_flops
from espnet_gated.gating.gates import OPEN, LayerGates
from espnet_gated.layers.attend import attend
from espnet_gated.layers.residual import add_residual, normed, survive


class GatedTransformerEncoderLayer(EncoderLayer):
    """Transformer encoder layer whose self-attention and feed-forward may be skipped.

    An instance is made from ESPnet's ready-built layer by changing its class: weights and their names stay.
    """

    gated_modules: ClassVar[tuple[str, ...]] = ("self_attn", "feed_forward")

    def module_costs(self, frames: float) -> dict[str, float]:
        """FLOPs of each module on ``frames`` frames."""
        costs = {name: module_flops(getattr(self, name), frames) for name in self.gated_modules}
        if self.concat_after:
            costs["self_attn"] += linear_flops(self.concat_linear, frames)
        return costs

    def forward(self, x, mask, cache=None, gates: LayerGates | None = None):  # type: ignore[no-untyped-def]
        """Compute encoded features.

        Args:
            x: (B, T, size).
            mask: (B, 1, T), true for frames that count.
            cache: not supported.
            gates: gates of this layer; missing ones are open.

        Returns:
            (B, T, size), and the mask.
        """
        if cache is not None:
            raise NotImplementedError("cache is not supported by gated encoder layers")
        scale = survive(self)
        if scale is not None:
            gate = (gates or {}).get
            x = add_residual(self, x, gate("self_attn", OPEN), self._attn, self.norm1, x, mask, scale=scale)
            x = add_residual(self, x, gate("feed_forward", OPEN), self._feed_forward, self.norm2, x, scale=scale)
        return x, mask

    def _attn(self, x: Tensor, mask: Tensor) -> Tensor:
        x = normed(self, self.norm1, x)
        attended = attend(self.self_attn, x, None, mask)
        if self.concat_after:
            return self.concat_linear(torch.cat((x, attended), dim=-1))
        return self.dropout(attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward(normed(self, self.norm2, x)))
