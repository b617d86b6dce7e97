"""ESPnet's convolutions on a CPU, with the frames laid out as torch's kernels like them.

Milliseconds on one core (a machine as in :mod:`espnet_gated.layers.small_products`) for 30 s of audio:

- depthwise convolution of a cgMLP or merge, 31 taps, 768 / 1,536 channels: ``conv1d`` 17.1 / 47.8, as a channels-last
  ``conv2d`` 0.6 / 1.8; forward and backward in bfloat16, 32 times 40 frames, 7 taps, 160 / 256 channels: 3.0 / 3.8 and
  1.8 / 1.7;
- subsampling by 4 to 384 / 768 channels: as in ESPnet 705 / 2,159, channels-last in pieces 410 / 1,521.
"""

from __future__ import annotations

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from torch import Tensor, nn
from torch.nn import functional as F

_PIECE = 32  # output frames of a piece: what lies between the two convolutions stays in the cache


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """``conv1d`` over time with one filter a channel.

    Args:
        x: (B, T, channels).
        weight: (channels, 1, taps).
        bias: (channels,).
        padding: zeros before and behind.

    Returns:
        (B, T, channels)
    """
    channels = weight.size(0)
    if x.device.type != "cpu":
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=channels).transpose(1, 2)
    # (B, channels, 1, T) whose memory is (B, T, channels): no copy, and the kernel runs along the channels.
    picture = x.contiguous().transpose(1, 2)[:, :, None]
    filters = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    return F.conv2d(picture, filters, bias, padding=(0, padding), groups=channels)[:, :, 0].transpose(1, 2)


class DepthwiseConv1d(nn.Conv1d):
    """Depthwise ``Conv1d``, fast on a CPU; made from a ready-built one by changing its class."""

    @staticmethod
    def suits(conv: nn.Module) -> bool:
        """Whether a module is a depthwise convolution of stride 1, padded with zeros."""
        return (
            type(conv) in (nn.Conv1d, DepthwiseConv1dInTraining)
            and conv.groups == conv.in_channels == conv.out_channels
            and conv.stride == conv.dilation == (1,)
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) → (B, channels, T)"""
        return depthwise_conv(x.transpose(1, 2), self.weight, self.bias, self.padding[0]).transpose(1, 2)


class DepthwiseConv1dInTraining(DepthwiseConv1d):
    """:class:`DepthwiseConv1d` in training, ESPnet's in evaluation: a baseline is decoded as ESPnet would."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) → (B, channels, T)"""
        return super().forward(x) if self.training else nn.Conv1d.forward(self, x)


def lay_out_depthwise(model: nn.Module, kind: type[DepthwiseConv1d] = DepthwiseConv1d) -> None:
    """Make all depthwise convolutions of a model fast ones, in place."""
    for module in model.modules():
        if DepthwiseConv1d.suits(module):
            module.__class__ = kind


class PiecewiseSubsampling(Conv2dSubsampling):
    """``input_layer: conv2d`` in evaluation on a CPU; made from a ready-built one by changing its class."""

    def prepare(self) -> None:
        """Lay out the filters channels-last."""
        for conv in (self.conv[0], self.conv[2]):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, x_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Subsample: (B, T, idim) → (B, T', odim); masks (B, 1, T) → (B, 1, T')."""
        if self.training or torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x, x_mask)
        frames = ((x.size(1) - 1) // 2 - 1) // 2
        first, _, second, _ = self.conv
        picture = x[:, None].contiguous(memory_format=torch.channels_last)
        features: Tensor | None = None
        for start in range(0, frames, _PIECE):
            end = min(frames, start + _PIECE)
            piece = first(picture[:, :, 4 * start : 4 * (end - 1) + 7]).relu_()
            piece = second(piece).relu_().transpose(1, 2)
            if features is None:
                features = piece.new_empty(x.size(0), frames, piece.size(2), piece.size(3))
            features[:, start:end] = piece
        assert features is not None
        out = self.out(features.flatten(2))
        return out, None if x_mask is None else x_mask[:, :, :-2:2][:, :, :-2:2]
