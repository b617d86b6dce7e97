"""A fifth encoder family: convolutions and feed-forwards, no attention. docs/add_an_encoder.md explains it."""

import torch
from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet.nets.pytorch_backend.transformer.layer_norm import LayerNorm
from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
from espnet.nets.pytorch_backend.transformer.repeat import repeat
from espnet.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import nn

from espnet_gated.encoder import GatedEncoderMixin
from espnet_gated.gating.costs import module_flops
from espnet_gated.gating.gates import OPEN
from espnet_gated.layers.skipping import add_gated


# -- the dense family: leave this out where ESPnet has it -------------------------------------------------
class ConvEncoderLayer(nn.Module):
    """Convolution module and feed-forward, each with its norm and residual."""

    def __init__(self, size, linear_units, kernel, dropout_rate):
        super().__init__()
        self.conv_module = ConvolutionModule(size, kernel, nn.SiLU())
        self.feed_forward = PositionwiseFeedForward(size, linear_units, dropout_rate)
        self.norm_conv, self.norm_ff = LayerNorm(size), LayerNorm(size)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x, mask, cache=None):
        """Compute encoded features (B, T, size)."""
        x = x + self.dropout(self.conv_module(self.norm_conv(x)))
        return x + self.dropout(self.feed_forward(self.norm_ff(x))), mask


class ConvEncoder(AbsEncoder):
    """Subsampling, layers, norm."""

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        linear_units: int = 1024,
        num_blocks: int = 6,
        kernel: int = 15,
        dropout_rate: float = 0.1,
    ):
        super().__init__()
        self._output_size = output_size
        self.embed = Conv2dSubsampling(input_size, output_size, dropout_rate)
        self.encoders = repeat(num_blocks, lambda _: ConvEncoderLayer(output_size, linear_units, kernel, dropout_rate))
        self.after_norm = LayerNorm(output_size)

    def output_size(self) -> int:
        """Width of the output."""
        return self._output_size

    def forward(self, xs_pad, ilens, prev_states=None):
        """Encode a batch: output (B, T', size), lengths (B,), None."""
        x, mask = self.embed(xs_pad, ~make_pad_mask(ilens)[:, None, :].to(xs_pad.device))
        x, mask = self.encoders(x, mask)
        return self.after_norm(x), mask.squeeze(1).sum(1), None


# -- its gated twin -------------------------------------------------------------------------------------
class GatedConvEncoderLayer(ConvEncoderLayer):
    """The same layer, whose two modules may be skipped."""

    gated_modules = ("conv_module", "feed_forward")

    def module_costs(self, frames: float) -> dict[str, float]:
        """FLOPs of each module on ``frames`` frames."""
        return {name: module_flops(getattr(self, name), frames) for name in self.gated_modules}

    def forward(self, x, mask, cache=None, gates=None):
        """The dense forward with ``add_gated`` where it has ``x +``."""
        if cache is not None:
            raise NotImplementedError("cache is not supported by gated encoder layers")
        gate = (gates or {}).get
        x = add_gated(x, gate("conv_module", OPEN), self._conv, x)
        return add_gated(x, gate("feed_forward", OPEN), self._feed_forward, x), mask

    def _conv(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.conv_module(self.norm_conv(x)))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.feed_forward(self.norm_ff(x)))


class GatedConvEncoder(GatedEncoderMixin, ConvEncoder):
    """``encoder: gated_conv``."""

    layer_class = GatedConvEncoderLayer
