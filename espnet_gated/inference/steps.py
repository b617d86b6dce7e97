"""A decoder layer for the newest tokens alone: what is computed at a step of a search, from and into its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from espnet.nets.pytorch_backend.transformer.embedding import PositionalEncoding
from torch import Tensor
from torch.nn import functional as F

from espnet_gated.gating.gates import OPEN, ModuleGate, on_device
from espnet_gated.inference.cache import LayerCache, LayerPlan, SourceMemory
from espnet_gated.layers.attend import merge_heads, project, project_joined, query
from espnet_gated.layers.transformer_decoder import GatedDecoderLayer


def embed_new(embed: torch.nn.Module, ys: Tensor, start: int) -> Tensor:
    """Embedded tokens of ys (rows, L) from position ``start`` on: (rows, L − start, size)."""
    if isinstance(embed, torch.nn.Sequential) and len(embed) == 2 and type(embed[1]) is PositionalEncoding:
        table, positions = embed[0], embed[1]
        x = table(ys[:, start:])
        pe = positions.pe
        if pe.size(1) >= ys.size(1) and pe.dtype == x.dtype and pe.device == x.device:
            return x * positions.xscale + pe[:, start : ys.size(1)]
    return embed(ys)[:, start:]


def step_layer(
    layer: GatedDecoderLayer, cache: LayerCache, x: Tensor, plan: LayerPlan, per_token: bool = False
) -> tuple[Tensor, LayerCache]:
    """One decoder layer for the newest token(s) of every hypothesis.

    Args:
        layer: gated layer in evaluation mode.
        cache: its cache.
        x: (rows, n, size) the new positions.
        plan: what it does for the rows.
        per_token: gates may change at every step.

    Returns:
        (rows, n, size) and the new cache.
    """
    x, cache = step_self_attn(layer, cache, x, plan.gates.get("self_attn", OPEN), per_token)
    x = step_src_attn(layer, cache.source, x, plan)
    return step_feed_forward(layer, x, plan.gates.get("feed_forward", OPEN)), cache


def step_self_attn(
    layer: GatedDecoderLayer, cache: LayerCache, x: Tensor, gate: ModuleGate, per_token: bool
) -> tuple[Tensor, LayerCache]:
    """Self-attention of the new positions to all positions; see :func:`step_layer`."""
    attn = layer.self_attn
    if gate.closed and not per_token:
        return layer.run_self_attn(x, gate, attn), cache
    normed = layer.before(layer.norm1, x)
    if gate.closed:
        cache = replace(cache, pending=(*cache.pending, normed))
        return layer.run_self_attn(x, gate, attn), cache
    queries: Tensor | None = None
    # With gates fixed for the utterance, closed rows never look at their keys; with gates per token they may, later.
    rows = None if per_token else gate.rows
    if rows is None and not cache.pending:
        queries, new = project_joined(attn, normed)
    else:
        source = torch.cat((*cache.pending, normed), dim=1)
        new = torch.stack(project(attn, source if rows is None else source.index_select(0, rows)))
    kv = cache.self_kv.append(new, x.size(0), rows)
    mask = _causal(x.size(1), kv.length, x.device)

    def attend(new: Tensor, keys: Tensor, values: Tensor, q: Tensor | None) -> Tensor:
        out = F.scaled_dot_product_attention(query(attn, new) if q is None else q, keys, values, mask)
        return layer.after_attention(merge_heads(attn, out), new, "concat_linear1")

    x = layer.run_self_attn(x, gate, attend, normed, kv.keys, kv.values, queries)
    return x, replace(cache, self_kv=kv, pending=())


def step_src_attn(layer: GatedDecoderLayer, source: SourceMemory, x: Tensor, plan: LayerPlan) -> Tensor:
    """Source attention of the new positions; see :func:`step_layer`."""
    gate = plan.gates.get("src_attn", OPEN)
    if gate.closed:
        return layer.run_src_attn(x, gate, layer.src_attn)
    keys, values, mask = source.keys_values(layer, plan.utts)

    def attend(new: Tensor) -> Tensor:
        normed = layer.before(layer.norm2, new)
        out = _attend_memory(query(layer.src_attn, normed), keys, values, mask, plan.counts)
        return layer.after_attention(merge_heads(layer.src_attn, out), normed, "concat_linear2")

    return layer.run_src_attn(x, gate, attend, x)


def step_feed_forward(layer: GatedDecoderLayer, x: Tensor, gate: ModuleGate) -> Tensor:
    """Feed-forward of the new positions; see :func:`step_layer`."""
    return layer.run_feed_forward(x, gate)


def _attend_memory(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, counts: Sequence[int]) -> Tensor:
    """Source attention of rows that share their utterance's memory.

    The hypotheses of one utterance are queries of one product, so the memory is read once, not once for each.

    Args:
        q: (rows, heads, n, d_k).
        keys, values: (U, heads, T, d_k).
        mask: (U, 1, 1, T) or ``None``.
        counts: rows of each utterance; they sum to ``rows``.

    Returns:
        (rows, heads, n, d_k)
    """
    rows, heads, n, d_k = q.shape
    if len(set(counts)) == 1:
        per_utt = counts[0]
        grouped = q.view(-1, per_utt, heads, n, d_k).transpose(1, 2).reshape(-1, heads, per_utt * n, d_k)
        out = F.scaled_dot_product_attention(grouped, keys, values, mask)
        return out.view(-1, heads, per_utt, n, d_k).transpose(1, 2).reshape(rows, heads, n, d_k)
    index = torch.repeat_interleave(on_device(counts, q.device), output_size=rows)
    picked = None if mask is None else mask[index]
    return F.scaled_dot_product_attention(q, keys[index], values[index], picked)


def _causal(new: int, total: int, device: torch.device) -> Tensor | None:
    if new == 1:
        return None
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)
