"""Gated twin of ESPnet's E-Branchformer layer (Kim et al., SLT 2022)."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoderLayer
from torch import Tensor
from torch.nn import functional as F

from espnet_gated.gating.costs import linear_flops, module_flops
from espnet_gated.gating.gates import OPEN, LayerGates, ModuleGate
from espnet_gated.layers.attend import attend
from espnet_gated.layers.convolutions import depthwise_conv
from espnet_gated.layers.skipping import add_gated, run_gated
from espnet_gated.layers.small_products import version


class GatedEBranchformerEncoderLayer(EBranchformerEncoderLayer):
    """E-Branchformer layer whose modules may be skipped.

    An instance is made from ESPnet's ready-built layer by changing its class: weights and their names stay.
    """

    gated_modules: ClassVar[tuple[str, ...]] = (
        "feed_forward_macaron",
        "attn",
        "cgmlp",
        "feed_forward",
    )
    _bias_products: Mapping[int, tuple[tuple[int, ...], Tensor]] = MappingProxyType({})  # half → its weights, product

    def module_costs(self, frames: float) -> dict[str, float]:
        """FLOPs of each module on ``frames`` frames; each branch owns its half of the merge."""
        half_merge = 0.5 * (linear_flops(self.depthwise_conv_fusion, frames) + linear_flops(self.merge_proj, frames))
        costs = {}
        for name in self.gated_modules:
            module = getattr(self, name)
            if module is not None:
                branch = half_merge if name in ("attn", "cgmlp") else 0.0
                costs[name] = module_flops(module, frames) + branch
        return costs

    def forward(self, x_input, mask, cache=None, gates: LayerGates | None = None):  # type: ignore[no-untyped-def]
        """Compute encoded features.

        Args:
            x_input: (B, T, size), or a tuple of it and the position embedding (1, T', size).
            mask: (B, 1, T), true for frames that count.
            cache: not supported, as in ESPnet.
            gates: gates of this layer; missing ones are open.

        Returns:
            output shaped as ``x_input``, and the mask.
        """
        if cache is not None:
            raise NotImplementedError("cache is not supported by E-Branchformer layers (as in ESPnet)")
        gate = (gates or {}).get
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)

        if self.feed_forward_macaron is not None:
            x = add_gated(x, gate("feed_forward_macaron", OPEN), self._macaron, x, scale=self.ff_scale)
        x = self._branches(x, pos_emb, mask, gate("attn", OPEN), gate("cgmlp", OPEN))
        if self.feed_forward is not None:
            x = add_gated(x, gate("feed_forward", OPEN), self._feed_forward, x, scale=self.ff_scale)
        x = self.norm_final(x)
        return ((x, pos_emb) if pos_emb is not None else x), mask

    def _macaron(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed_forward(self.norm_ff(x)))

    def _attn(self, x: Tensor, pos_emb: Tensor | None, mask: Tensor) -> Tensor:
        return self.dropout(attend(self.attn, self.norm_mha(x), pos_emb, mask))

    def _cgmlp(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.dropout(self.cgmlp(self.norm_mlp(x), mask))

    def _branches(self, x: Tensor, pos_emb: Tensor | None, mask: Tensor, attn: ModuleGate, cgmlp: ModuleGate) -> Tensor:
        x1 = run_gated(attn, self._attn, x, pos_emb, mask)
        x2 = run_gated(cgmlp, self._cgmlp, x, mask)
        either = attn.either(cgmlp)
        if either.closed:
            return x
        if attn.is_open and cgmlp.is_open or attn.soft or cgmlp.soft or not self._can_split():
            zeros = torch.zeros_like(x)
            x1, x2 = (zeros if x1 is None else x1), (zeros if x2 is None else x2)
            return add_gated(x, either, self._merge, x1, x2)
        # A branch closed for everyone leaves a constant of its half of the merge; it and the biases ride on one
        # product.
        constant = self.merge_proj.bias + self._constant(0, attn) + self._constant(1, cgmlp)
        merged = None
        for index, (half_gate, branch) in enumerate(((attn, x1), (cgmlp, x2))):
            if branch is None:
                continue
            if half_gate.is_open:
                half = self._half(index, branch, constant)
                constant = torch.zeros_like(constant)
            else:
                # Rows of a half that are closed take its constant instead.
                half = run_gated(half_gate, partial(self._half, index), branch)
                half = half + self._closed_rows(index, half_gate, half)
            merged = half if merged is None else merged + half
        if not (attn.is_open or cgmlp.is_open):
            merged = merged + constant
        return add_gated(x, either, self.dropout, merged)

    def _merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        both = torch.cat([x1, x2], dim=-1)
        local = self.depthwise_conv_fusion(both.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.merge_proj(both + local))

    def _can_split(self) -> bool:
        """Whether the merge's product can be taken for one half alone.

        A dynamically quantised one is left whole: it scales its input by the largest value of both halves, so the
        product of one half is another function. The results differ by 2 %, as much as either does from float32, and
        skipping would be masking (law 2) to that digit only. What it costs at size 384 and 750 frames: 1.3 of the 2.5
        ms of a merge, beside 10 ms for the feed-forwards and 13 for the attention (one core of a Xeon).
        """
        return isinstance(self.merge_proj, torch.nn.Linear)

    def _slice(self, index: int) -> slice:
        return slice(index * self.size, (index + 1) * self.size)

    def _half(self, index: int, branch: Tensor, bias: Tensor | None = None) -> Tensor:
        """The merge's product with one branch; ``bias`` (size,) is all that is added."""
        part = self._slice(index)
        conv = self.depthwise_conv_fusion
        local = depthwise_conv(branch, conv.weight[part], conv.bias[part], conv.padding[0])
        return F.linear(branch + local, self.merge_proj.weight[:, part], bias)

    def _bias_product(self, index: int) -> Tensor:
        """What the merge makes of zeros in a half, (size,): made once at inference, and anew when a weight changes."""
        part, bias, weight = self._slice(index), self.depthwise_conv_fusion.bias, self.merge_proj.weight
        if self.training or torch.is_grad_enabled() or torch.is_autocast_enabled(weight.device.type):
            return F.linear(bias[part], weight[:, part])
        current = (bias.data_ptr(), version(bias), weight.data_ptr(), version(weight))
        made = self._bias_products.get(index)
        if made is None or made[0] != current:
            made = current, F.linear(bias[part], weight[:, part])
            self._bias_products = {**self._bias_products, index: made}
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make their products anew."""
        return {k: v for k, v in self.__dict__.items() if k != "_bias_products"}

    def _constant(self, index: int, gate: ModuleGate) -> Tensor:
        """What the merge makes of a closed branch: zeros through the convolution leave its bias, (size,)."""
        if gate.closed:
            return self._bias_product(index)
        return self.merge_proj.bias.new_zeros(self.size)

    def _closed_rows(self, index: int, gate: ModuleGate, like: Tensor) -> Tensor:
        if gate.rows is None or gate.value is None:
            return like.new_zeros(1)
        return (1.0 - gate.value.to(like))[:, None, None] * self._bias_product(index)
