"""Gated twin of ESPnet's Transformer decoder layer."""

from collections.abc import Callable
from typing import ClassVar

import torch
from espnet.nets.pytorch_backend.transformer.decoder_layer import DecoderLayer
from torch import Tensor, nn

from espnet_gated.gating.costs import attention_flops, linear_flops
from espnet_gated.gating.gates import OPEN, LayerGates, ModuleGate
from espnet_gated.layers.residual import add_residual, normed


class GatedDecoderLayer(DecoderLayer):
    """Decoder layer whose self-attention, source attention and feed-forward may be skipped.

    An instance is made from ESPnet's ready-built layer by changing its class: weights and their names stay.
    """

    gated_modules: ClassVar[tuple[str, ...]] = ("self_attn", "src_attn", "feed_forward")

    def module_costs(self, tokens: float, memory: float) -> dict[str, float]:
        """FLOPs of each module for ``tokens`` tokens that attend to ``memory`` encoder frames."""
        extra = 0.0
        if self.concat_after:
            extra = linear_flops(self.concat_linear1, tokens)
        source = attention_flops(self.src_attn, tokens, memory)
        return {
            "self_attn": attention_flops(self.self_attn, tokens) + extra,
            "src_attn": source + extra,
            "feed_forward": linear_flops(self.feed_forward, tokens),
        }

    def forward(  # type: ignore[no-untyped-def]
        self,
        tgt,
        tgt_mask,
        memory,
        memory_mask,
        cache=None,
        pre_memory=None,
        pre_memory_mask=None,
        gates: LayerGates | None = None,
    ):
        """Compute decoded features for whole token sequences.

        Args:
            tgt: (B, L, size).
            tgt_mask: (B, L, L) or (1, L, L).
            memory: encoder output (B, T, size).
            memory_mask: (B, 1, T) or ``None``.
            cache: this layer's outputs for the first L − 1 tokens (B, L − 1, size): only the last is computed.
            pre_memory, pre_memory_mask: sequential attention's memory, as in ESPnet (falls back to ESPnet's layer).
            gates: gates of this layer; missing ones are open.

        Returns:
            (B, L, size), tgt_mask, memory, memory_mask.
        """
        if pre_memory is not None:
            return super().forward(tgt, tgt_mask, memory, memory_mask, cache, pre_memory, pre_memory_mask)
        gate = (gates or {}).get
        if cache is None:
            query, query_mask = tgt, tgt_mask
        else:
            query = tgt[:, -1:]
            query_mask = None if tgt_mask is None else tgt_mask[:, -1:]
        if query_mask is not None and query_mask.size(0) != query.size(0):
            query_mask = query_mask.expand(query.size(0), -1, -1)

        x = self.run_self_attn(query, gate("self_attn", OPEN), self._attend_self, query, tgt, query_mask)
        x = self.run_src_attn(x, gate("src_attn", OPEN), self._attend_source, x, memory, memory_mask)
        x = self.run_feed_forward(x, gate("feed_forward", OPEN))
        if cache is not None:
            x = torch.cat([cache, x], dim=1)
        return x, tgt_mask, memory, memory_mask

    # The three residual blocks, shared by the training graph and by cached decoding (espnet_gated.inference.steps).
    def run_self_attn(self, x: Tensor, gate: ModuleGate, fn: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """``x + g · self_attn``, with the layer's norm before or after."""
        return add_residual(self, x, gate, fn, self.norm1, *inputs)

    def run_src_attn(self, x: Tensor, gate: ModuleGate, fn: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """``x + g · src_attn``, with the layer's norm before or after."""
        return add_residual(self, x, gate, fn, self.norm2, *inputs)

    def run_feed_forward(self, x: Tensor, gate: ModuleGate) -> Tensor:
        """``x + g · feed_forward``, with the layer's norm before or after."""
        return add_residual(self, x, gate, self._feed, self.norm3, x)

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What enters a block's module: normed for pre-norm layers, untouched for post-norm."""
        return normed(self, norm, x)

    def after_attention(self, attended: Tensor, query: Tensor, concat: str) -> Tensor:
        """Dropout, or the linear map of the concatenation where ``concat_after``."""
        if self.concat_after:
            return getattr(self, concat)(torch.cat((query, attended), dim=-1))
        return self.dropout(attended)

    def _attend_self(self, query: Tensor, tgt: Tensor, mask: Tensor | None) -> Tensor:
        keys = self.before(self.norm1, tgt)
        q = keys[:, -query.size(1) :]
        return self.after_attention(self.self_attn(q, keys, keys, mask), q, "concat_linear1")

    def _attend_source(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        q = self.before(self.norm2, x)
        return self.after_attention(self.src_attn(q, memory, memory, mask), q, "concat_linear2")

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward(self.before(self.norm3, x)))
