"""Getting a loaded model ready for decoding: faster ways to the same numbers, behind the same names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from espnet.nets.pytorch_backend.conformer.swish import Swish
from espnet.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
from espnet.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from torch import Tensor, nn

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.layers.convolutions import PiecewiseSubsampling, lay_out_depthwise
from espnet_gated.layers.small_products import (
    join_projections,
    lay_out_for_few_rows,
    lay_out_for_many_rows,
    on_intel,
    pack_bfloat16,
)

HALF = (torch.bfloat16, torch.float16)
_LARGE = 1_000_000  # weights from which oneDNN's int8 products are faster than FBGEMM's on Intel, for a few rows


def optimize_for_inference(model: nn.Module) -> None:
    """Change the modules of an evaluated ESPnet model in place; the state dict keeps its names and values.

    Call it last: after loading, moving, converting and quantising.
    """
    _keep_frontend_in_float32(model)
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    encoder, decoder, ctc = (getattr(model, name, None) for name in ("encoder", "decoder", "ctc"))
    for stack in (encoder, decoder):
        if stack is not None:
            _fuse(stack)
    if on_cpu and ctc is not None:
        lay_out_for_many_rows(ctc)  # over OWSM's 50,002 tokens, 28.8 GFLOPs for 30 s at base's width
    if isinstance(encoder, GatedEBranchformerEncoder):
        plain = all(
            type(layer.attn) is MultiHeadedAttention and not layer.attn.use_flash_attn for layer in encoder.encoders
        )  # flash attention finds the lengths in the mask
        encoder.mask_optional = plain and not getattr(encoder, "ctc_trim", False)
        if on_cpu:
            _lay_out_convolutions(encoder)
            lay_out_for_many_rows(encoder.encoders)
    if isinstance(decoder, GatedTransformerDecoder):
        if on_cpu:
            for part in (decoder.decoders, decoder.output_layer):
                if part is not None:
                    lay_out_for_few_rows(part)
        for layer in decoder.decoders:
            join_projections(layer.self_attn)
    if on_cpu:
        pack_bfloat16(model)


def leave_out_interctc(encoder: nn.Module) -> None:
    """Compute no intermediate CTC outputs, in place, where no later layer depends on them."""
    if not (getattr(encoder, "interctc_use_conditioning", False) or getattr(encoder, "ctc_trim", False)):
        encoder.interctc_layer_idx = []  # type: ignore[assignment]


def quantize_for_inference(model: nn.Module, modules: Sequence[str], dtype: str) -> None:
    """ESPnet's dynamic quantisation, in place; gate predictors stay as they are, so that the gates do too.

    Args:
        model: evaluated model in float32 on the CPU.
        modules: names of ``torch.nn`` classes (``Linear``).
        dtype: ``qint8`` or ``float16``.
    """
    predictors = {name: p for name, child in model.named_children() if (p := getattr(child, "gate_predictor", None))}
    for name in predictors:
        getattr(model, name).gate_predictor = None
    usual = torch.backends.quantized.engine
    try:
        if dtype == "qint8" and "Linear" in modules and "onednn" in torch.backends.quantized.supported_engines:
            # The engine that packs a layer's weights multiplies with them later.
            torch.backends.quantized.engine = "onednn"
            torch.ao.quantization.quantize_dynamic(model, _worth_onednn(model), torch.qint8, inplace=True)
            torch.backends.quantized.engine = usual
        kinds = {getattr(nn, name) for name in modules}
        torch.ao.quantization.quantize_dynamic(model, kinds, getattr(torch, dtype), inplace=True)
    finally:
        torch.backends.quantized.engine = usual
        for name, predictor in predictors.items():
            getattr(model, name).gate_predictor = predictor


def _worth_onednn(model: nn.Module) -> dict[str, Any]:
    """Linear layers that see many rows at once (an encoder's) or, on Intel's processors, are large.

    Milliseconds with FBGEMM / oneDNN on one core of an EPYC (Zen 4): 384 → 1,536, 750 rows: 5.9 / 2.4; 384 → 50,002, 40
    rows: 6.5 / 21.7; 768 → 3,072, 5 rows: 0.09 / 0.11.
    """
    large = _LARGE if on_intel() else sys.maxsize
    return {
        name: torch.ao.quantization.default_dynamic_qconfig
        for name, module in model.named_modules()
        if type(module) is nn.Linear and (name.startswith("encoder.") or module.weight.numel() > large)
    }


def _fuse(stack: nn.Module) -> None:
    """Fused attention and activations that work in place."""
    for module in stack.modules():
        if type(module) is MultiHeadedAttention and not module.use_flash_attn:
            module.use_sdpa = True
        elif type(module) is PositionwiseFeedForward:
            if type(module.activation) is Swish:
                module.activation = nn.SiLU(inplace=True)
            elif type(module.activation) is nn.ReLU:
                module.activation = nn.ReLU(inplace=True)


def _lay_out_convolutions(encoder: nn.Module) -> None:
    lay_out_depthwise(encoder)
    for module in encoder.modules():
        if type(module) is Conv2dSubsampling:
            module.__class__ = PiecewiseSubsampling
            module.prepare()


def _keep_frontend_in_float32(model: nn.Module) -> None:
    """Spectra need more digits than half precision has: only what comes behind the features is converted."""
    dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)
    if dtype not in HALF:
        return
    for name in ("frontend", "normalize"):
        part = getattr(model, name, None)
        if part is not None:
            part.float()
    first = getattr(model, "preencoder", None) or getattr(model, "encoder", None)
    if first is not None:
        first.register_forward_pre_hook(lambda _, inputs: (_as_type(inputs[0], dtype), *inputs[1:]))


def _as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x
