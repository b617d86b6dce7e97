"""Calling ESPnet's attention modules, whatever their type, and their parts one by one."""

from typing import Any

import torch
from espnet2.asr.layers.fastformer import FastSelfAttention
from torch import Tensor
from torch.nn import Identity, Module


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


def project(attn: Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, heads, T, d_k) of x (B, T, size) for an ESPnet attention module."""
    shape = (x.size(0), -1, attn.h, attn.d_k)
    keys = attn.k_norm(attn.linear_k(x).view(shape).transpose(1, 2))
    return keys, attn.linear_v(x).view(shape).transpose(1, 2)


def query(attn: Module, x: Tensor) -> Tensor:
    """Queries (B, heads, T, d_k) of x (B, T, size)."""
    return attn.q_norm(attn.linear_q(x).view(x.size(0), -1, attn.h, attn.d_k).transpose(1, 2))


def project_joined(attn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (B, heads, T, d_k) and keys with values (2, B, heads, T, d_k) of x (B, T, size)."""
    joined = getattr(attn, "joined", None)
    if joined is not None and joined.valid and isinstance(attn.k_norm, Identity):
        parts = joined(x).view(x.size(0), x.size(1), 3, attn.h, attn.d_k).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1:]
    return query(attn, x), torch.stack(project(attn, x))


def merge_heads(attn: Module, x: Tensor) -> Tensor:
    """Output (B, T, size) of the heads' results x (B, heads, T, d_k)."""
    return attn.linear_out(x.transpose(1, 2).reshape(x.size(0), x.size(2), attn.h * attn.d_k))
