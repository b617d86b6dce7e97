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
narrow are stored by columns, which costs nothing; in bfloat16 every layer is packed, where oneDNN takes it. Names,
shapes and the state dict stay.

On processors that are not Intel's, ``F.linear`` (MKL) is further from what the memory gives. The same on one core of an
EPYC (Zen 4), rows 1 / 5 / 40, and milliseconds for 750 rows:

============  =====================  =====================  ====================  =========================
product       ``F.linear``           by columns             packed                750: ``F.linear``, packed
============  =====================  =====================  ====================  =========================
384 → 50,002  7946 / 35247 / 57017   3034 / 12105 / 33433   5144 / 3838 / 18584
384 → 1,536   263 / 488 / 1092       139 / 337 / 693        218 / 240 / 550       18.1, 13.6
1,536 → 384   161 / 289 / 669        265 / 292 / 745        257 / 272 / 557       17.7, 15.6
384 → 1,152   200 / 281 / 567        113 / 244 / 544        139 / 178 / 1233
384 → 384     45 / 49 / 226          18 / 55 / 168          27 / 62 / 147
3,072 → 768   551 / 1332 / 2589      678 / 1225 / 3944      - / 887 / 2144        78.2, 65.8 (768 → 3,072)
============  =====================  =====================  ====================  =========================

There every layer that is not tiny, the encoder's too, is packed for two or more rows; one row takes the other way.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 64
_LARGE = 4_000_000  # weights that no core's cache holds
_NOT_TINY = 200_000  # weights that are worth a packed copy where MKL is slow


class PackedLinear(nn.Linear):
    """Linear layer with a second copy of its weights in oneDNN's own layout.

    An instance is made from a ready-built layer by :meth:`pack`. Training, other devices, float64 and numbers of rows
    outside ``rows`` take ``nn.Linear``'s way.
    """

    rows: tuple[int, int] = (1, sys.maxsize)
    _packed: Tensor | None = None
    _packed_from: tuple[int, int] | None = None

    @classmethod
    def pack(cls, layer: nn.Linear, fewest: int = 1, most: int = sys.maxsize) -> None:
        """Change a layer's class, for products of ``fewest`` to ``most`` rows."""
        layer.__class__ = cls
        layer.rows = fewest, most  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)"""
        weight = self.weight
        fewest, most = self.rows
        if (
            not fewest <= x.numel() // self.in_features <= most
            or weight.device.type != "cpu"
            or torch.is_grad_enabled()
            or weight.dtype not in (torch.float32, torch.bfloat16)
            or torch.is_autocast_enabled("cpu")
        ):
            return F.linear(x, weight, self.bias)
        current = (weight.data_ptr(), version(weight))
        if self._packed is None or self._packed_from != current:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 8)
            self._packed_from = current
        return torch.ops.mkldnn._linear_pointwise.default(x, self._packed, self.bias, "none", [], "")

    def unpack(self) -> None:
        """Pack anew at the next product."""
        self._packed = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles pack anew."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_packed", "_packed_from")}


def version(parameter: Tensor) -> int:
    """How often it was changed in place (not through ``.data``); tensors of ``inference_mode`` do not know: -1."""
    return -1 if parameter.is_inference() else parameter._version


class JoinedLinears:
    """Linear layers of one input as one product.

    The layers keep their parameters, which become views of the joined ones.
    """

    def __init__(self, layers: Sequence[nn.Linear]):
        """Join layers that all have a bias."""
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.product = nn.Linear(weight.size(1), weight.size(0), device="meta")
        self.product.weight = nn.Parameter(weight, requires_grad=False)
        self.product.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
        if weight.device.type == "cpu":
            _lay_out(self.product)
        self._layers = tuple(layers)
        start = 0
        for layer in layers:
            end = start + layer.out_features
            layer.weight.data, layer.bias.data = self.product.weight[start:end], self.product.bias[start:end]
            start = end
        self._versions = self._current()

    def _current(self) -> list[int]:
        return [version(layer.weight) for layer in self._layers]

    @property
    def valid(self) -> bool:
        """Whether the layers still are views: moved or converted modules are not."""
        return self._layers[0].weight.data_ptr() == self.product.weight.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, sum of out_features)"""
        if isinstance(self.product, PackedLinear) and self._versions != (current := self._current()):
            self.product.unpack()  # other weights were loaded into the layers: its own version does not tell
            self._versions = current
        return self.product(x)


@cache
def on_intel() -> bool:
    """Whether the processor is Intel's."""
    vendor = platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        vendor = next(line for line in lines if line.startswith("vendor_id"))
    return "Intel" in vendor


def mkl_is_slow() -> bool:
    """Whether products are MKL's, but the processor is not one of those that MKL is written for."""
    return torch.backends.mkl.is_available() and not on_intel()


def _can_pack() -> bool:
    return torch.backends.mkldnn.is_available()


def takes_bfloat16() -> bool:
    """Whether oneDNN takes bfloat16 here. It wants AVX-512 or AVX-NE-CONVERT; AMD's have them from Zen 4 on."""
    return _can_pack() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lay_out_for_few_rows(part: nn.Module) -> None:
    """Lay out the linear layers of a decoder on a CPU for decoding steps; see the module."""
    for module in part.modules():
        if type(module) is nn.Linear:
            _lay_out(module)


def lay_out_for_many_rows(part: nn.Module) -> None:
    """Lay out float32 linear layers of many rows (an encoder's, CTC's) on a CPU; see the module."""
    for module in part.modules():
        if type(module) is nn.Linear and _packed_everywhere(module):
            PackedLinear.pack(module, fewest=2)


def pack_bfloat16(model: nn.Module) -> None:
    """Pack the bfloat16 linear layers of a model on a CPU whose oneDNN takes them; elsewhere warn of it."""
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16]
    if layers and not takes_bfloat16():
        logging.warning("oneDNN takes no bfloat16 on this processor: float32 is many times faster here")
        return
    for layer in layers:
        PackedLinear.pack(layer)


def join_projections(attn: nn.Module) -> None:
    """Let cached self-attention make queries, keys and values in one product (``attn.joined``)."""
    layers = [getattr(attn, name) for name in ("linear_q", "linear_k", "linear_v")]
    if all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in layers):
        weight = layers[0].weight
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:  # those stay apart
            attn.joined = JoinedLinears(layers)


def _lay_out(layer: nn.Linear) -> None:
    if layer.weight.dtype != torch.float32:
        return
    output_layer = layer.weight.numel() > _LARGE and layer.out_features > 8 * layer.in_features
    everywhere = _packed_everywhere(layer)
    if layer.out_features >= layer.in_features and (everywhere or not output_layer):
        layer.weight.data = _by_columns(layer.weight.data)
    if everywhere:
        PackedLinear.pack(layer, fewest=2)
    elif output_layer and _can_pack():
        PackedLinear.pack(layer, most=FEW_ROWS)


def _packed_everywhere(layer: nn.Linear) -> bool:
    return mkl_is_slow() and _can_pack() and layer.weight.dtype == torch.float32 and layer.weight.numel() >= _NOT_TINY


def _by_columns(weight: Tensor) -> Tensor:
    return weight.t().contiguous().t()
