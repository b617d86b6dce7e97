"""Linear layers laid out once for the products of a decoding step on a CPU: a few rows times a large matrix.

Such a product is as fast as its weights are read. Microseconds on one core of a Xeon with AVX-512 and AMX, with other
jobs on its memory, torch 2.11, weights not in the core's cache, rows 1 / 5 / 16:

============  =======================  ===========================  ========================================
product       ``F.linear``             other float32 layouts        bfloat16 → packed bfloat16; dynamic int8
============  =======================  ===========================  ========================================
384 → 50,002  5606 / 12728 / 12744     packed 5315 / 6703 / 9156    5158 / 4915 / 5832 → 2780 / 2778 / 5070;
                                                                    1078 / 2270 / 4259
384 → 1,536   178 / 307 / 429          packed 190 / 298 / 434,      174 / 184 / 197 → 116 / 115 / 124;
                                       by columns 154 / 268 / 524   75 / 95 / 129
1,536 → 384   167 / 271 / 448          packed 188 / 271 / 352,      143 / 155 / 166 → 108 / 110 / 116;
                                       by columns 173 / 301 / 434   75 / 93 / 133
768 → 768     165 / 241 / 357          packed 193 / 260 / 372,
                                       by columns 152 / 231 / 335
384 → 384     24 / 35 / 64             packed 41 / 44 / 65,         53 / 53 / 51 → 37 / 37 / 35;
                                       by columns 23 / 28 / 40      32 / 35 / 42
144 → 144     7 / 9 / 12               packed 22 / 22 / 25,         29 / 33 / 31 → 22 / 23 / 23;
                                       by columns 6 / 6 / 9         28 / 32 / 29
============  =======================  ===========================  ========================================

So the output layer is packed by oneDNN, up to :data:`FEW_ROWS` rows, beyond which nothing is gained; layers that do not
narrow are stored by columns, which costs nothing; in bfloat16 every layer is packed. Names, shapes and the state dict
stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 64
_LARGE = 4_000_000  # weights that no core's cache holds


class PackedLinear(nn.Linear):
    """Linear layer with a second copy of its weights in oneDNN's own layout, made when first needed.

    An instance is made from a ready-built layer by changing its class. Training, other devices and float64 take
    ``nn.Linear``'s way.
    """

    _packed: Tensor | None = None
    _packed_from: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)"""
        weight = self.weight
        if (
            weight.device.type != "cpu"
            or torch.is_grad_enabled()
            or weight.dtype not in (torch.float32, torch.bfloat16)
        ):
            return F.linear(x, weight, self.bias)
        if weight.dtype == torch.float32 and x.numel() > FEW_ROWS * self.in_features or x.numel() == 0:
            return F.linear(x, weight, self.bias)
        current = (weight.data_ptr(), weight._version)
        if self._packed is None or self._packed_from != current:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 8)
            self._packed_from = current
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles pack anew."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_packed", "_packed_from")}


class JoinedLinears:
    """Linear layers of one input as one product.

    The layers keep their parameters, which become views of the joined ones.
    """

    def __init__(self, layers: Sequence[nn.Linear], by_columns: bool):
        """Join layers that all have a bias."""
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.weight = _by_columns(weight) if by_columns else weight
        self.bias = torch.cat([layer.bias.detach() for layer in layers])
        self._first = layers[0]
        start = 0
        for layer in layers:
            end = start + layer.out_features
            layer.weight.data, layer.bias.data = self.weight[start:end], self.bias[start:end]
            start = end

    @property
    def valid(self) -> bool:
        """Whether the layers still are views: moved or converted modules are not."""
        return self._first.weight.data_ptr() == self.weight.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, sum of out_features)"""
        return F.linear(x, self.weight, self.bias)


def lay_out_for_few_rows(part: nn.Module) -> None:
    """Lay out the float32 linear layers of a decoder on a CPU for decoding steps; see the module."""
    for module in part.modules():
        if type(module) is not nn.Linear or module.weight.dtype != torch.float32:
            continue
        if module.weight.numel() > _LARGE and module.out_features > 8 * module.in_features:
            module.__class__ = PackedLinear
        elif module.out_features >= module.in_features:
            module.weight.data = _by_columns(module.weight.data)


def pack_bfloat16(model: nn.Module) -> None:
    """Pack the bfloat16 linear layers of a model on a CPU."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = PackedLinear


def join_projections(attn: nn.Module) -> None:
    """Let cached self-attention make queries, keys and values in one product (``attn.joined``)."""
    layers = [getattr(attn, name) for name in ("linear_q", "linear_k", "linear_v")]
    if all(type(layer) is nn.Linear and layer.bias is not None for layer in layers):
        weight = layers[0].weight
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:  # those are packed one by one
            attn.joined = JoinedLinears(layers, by_columns=weight.device.type == "cpu")


def _by_columns(weight: Tensor) -> Tensor:
    return weight.t().contiguous().t()
