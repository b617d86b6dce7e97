"""Calling ESPnet's attention modules, whatever their type."""

from espnet2.asr.layers.fastformer import FastSelfAttention
from torch import Tensor
from torch.nn import Module


def attend(attn: Module, x: Tensor, pos_emb: Tensor | None, mask: Tensor | None) -> Tensor:
    """Self-attention of a layer.

    Args:
        attn: any of ESPnet's self-attention modules.
        x: (B, T, size).
        pos_emb: position embedding for relative attention, else ``None``.
        mask: (B, 1, T) or ``None``.

    Returns:
        (B, T, size)
    """
    if isinstance(attn, FastSelfAttention):
        return attn(x, mask)
    if pos_emb is not None:
        return attn(x, x, x, pos_emb, mask)
    return attn(x, x, x, mask)
