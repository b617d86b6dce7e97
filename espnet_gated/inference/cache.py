"""Key/value cache of a gated Transformer decoder.

ESPnet caches layer outputs and projects keys and values of the whole prefix, and of the whole encoder output, again
at every step. Here
keys and values themselves are kept: the encoder output is projected once per utterance (and never, where ``src_attn``
is closed), and each
token once. Caches are values: a step returns a new one and leaves the old one usable, so any search may hold, branch
or drop them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_gated.gating.gates import OPEN, Gates, ModuleGate
from espnet_gated.layers.transformer_decoder import GatedDecoderLayer

_GROW = 32  # positions added when a buffer is full


class _Storage:
    """Buffer (2, rows, heads, capacity, d_k) and how much of it is written."""

    def __init__(self, tensor: Tensor, filled: int):
        self.tensor = tensor
        self.filled = filled


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of the first ``length`` positions: (rows, heads, length, d_k) each."""

    storage: _Storage
    length: int

    @classmethod
    def empty(cls, rows: int, heads: int, d_k: int, like: Tensor) -> KeyValues:
        """A cache of no positions."""
        return cls(_Storage(like.new_zeros(2, rows, heads, _GROW, d_k), 0), 0)

    @property
    def keys(self) -> Tensor:
        """(rows, heads, length, d_k)"""
        return self.storage.tensor[0, :, :, : self.length]

    @property
    def values(self) -> Tensor:
        """(rows, heads, length, d_k)"""
        return self.storage.tensor[1, :, :, : self.length]

    def append(self, keys: Tensor, values: Tensor, rows: Tensor | None = None) -> KeyValues:
        """Add positions (rows, heads, n, d_k); ``rows``: only these rows have them (the others never look)."""
        end = self.length + keys.size(2)
        storage = self._writable(end)
        target = storage.tensor[:, :, :, self.length : end]
        new = torch.stack((keys, values))
        if rows is None:
            target.copy_(new)
        else:
            target.index_copy_(1, rows, new)
        storage.filled = end
        return KeyValues(storage, end)

    def _writable(self, end: int) -> _Storage:
        # Writing behind our own end is safe only if nobody else has written there already.
        old = self.storage.tensor
        if self.storage.filled == self.length and end <= old.size(3):
            return self.storage
        capacity = max(old.size(3), end + _GROW)
        tensor = old.new_zeros(*old.shape[:3], capacity, old.size(4))
        tensor[:, :, :, : self.length] = old[:, :, :, : self.length]
        return _Storage(tensor, self.length)

    def select(self, rows: Tensor) -> KeyValues:
        """The cache of other rows (indices, repeats allowed)."""
        old = self.storage.tensor
        tensor = old.new_empty(2, rows.numel(), *old.shape[2:])
        tensor[:, :, :, : self.length] = old[:, :, :, : self.length].index_select(1, rows)
        return KeyValues(_Storage(tensor, self.length), self.length)


class SourceMemory:
    """Encoder output of the utterances and its keys and values for one layer, projected when first needed."""

    def __init__(self, memory: Tensor, mask: Tensor | None):
        self.memory = memory
        self.mask = mask
        self._projected: dict[tuple[int, ...] | None, tuple[Tensor, Tensor, Tensor | None]] = {}

    def keys_values(
        self, layer: GatedDecoderLayer, utts: tuple[int, ...] | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values (U, heads, T, d_k) and mask (U, 1, 1, T) of some utterances (``None``: all)."""
        if utts not in self._projected:
            memory, mask = self.memory, self.mask
            if utts is not None:
                index = torch.tensor(utts, device=memory.device)
                memory = memory.index_select(0, index)
                mask = None if mask is None else mask.index_select(0, index)
            keys, values = project(layer.src_attn, memory)
            self._projected[utts] = keys, values, None if mask is None else mask[:, None]
        return self._projected[utts]

    def select(self, utts: Sequence[int]) -> SourceMemory:
        """The memory of some utterances; projections that exist are kept."""
        index = torch.tensor(list(utts), device=self.memory.device)
        mask = None if self.mask is None else self.mask.index_select(0, index)
        chosen = SourceMemory(self.memory.index_select(0, index), mask)
        if None in self._projected:
            keys, values, old_mask = self._projected[None]
            new_mask = None if old_mask is None else old_mask.index_select(0, index)
            chosen._projected[None] = (
                keys.index_select(0, index),
                values.index_select(0, index),
                new_mask,
            )
        return chosen


@dataclass(frozen=True)
class LayerCache:
    """Cache of one layer: self-attention keys and values, and inputs whose keys nobody has needed yet."""

    self_kv: KeyValues
    source: SourceMemory
    pending: tuple[Tensor, ...] = ()

    def select(self, rows: Tensor) -> LayerCache:
        """The cache of other rows; the utterances stay."""
        pending = tuple(p.index_select(0, rows) for p in self.pending)
        return replace(self, self_kv=self.self_kv.select(rows), pending=pending)


@dataclass(frozen=True)
class DecoderCache:
    """Cache of a whole decoder for ``rows`` hypotheses of some utterances.

    Attributes:
        layers: one cache per layer.
        gates: gates of the utterances; ``None``: all open.
        utt_of_row: utterance of each row, ascending.
        length: tokens decoded so far.
        per_token: gates may change at every step, so the keys of skipped positions may be wanted later.
    """

    layers: tuple[LayerCache, ...]
    gates: Gates | None
    utt_of_row: tuple[int, ...]
    length: int = 0
    per_token: bool = False

    @classmethod
    def start(
        cls,
        layers: Sequence[GatedDecoderLayer],
        memory: Tensor,
        mask: Tensor | None,
        gates: Gates | None,
        per_token: bool = False,
    ) -> DecoderCache:
        """Cache for one hypothesis of each utterance.

        Args:
            layers: the decoder's layers.
            memory: (U, T, size) encoder output.
            mask: (U, 1, T), true for frames that count; ``None``: all do.
            gates: of the U utterances.
            per_token: see the class.
        """
        caches = []
        for layer in layers:
            attn = layer.self_attn
            empty = KeyValues.empty(memory.size(0), attn.h, attn.d_k, memory)
            caches.append(LayerCache(empty, SourceMemory(memory, mask)))
        return cls(tuple(caches), gates, tuple(range(memory.size(0))), per_token=per_token)

    def select(self, rows: Sequence[int]) -> DecoderCache:
        """The cache of other hypotheses: reordered, repeated or fewer (in ascending order of utterances)."""
        if list(rows) == list(range(len(self.utt_of_row))):
            return self
        device = self.layers[0].source.memory.device
        index = torch.tensor(list(rows), device=device)
        layers = tuple(c.select(index) for c in self.layers)
        return replace(self, layers=layers, utt_of_row=tuple(self.utt_of_row[r] for r in rows))

    def drop_utterances(self, kept: Sequence[int]) -> DecoderCache:
        """Keep only the rows of some utterances, which are renumbered from 0."""
        new_number = {utt: i for i, utt in enumerate(kept)}
        rows = [r for r, utt in enumerate(self.utt_of_row) if utt in new_number]
        smaller = self.select(rows)
        sources = [c.source.select(kept) for c in smaller.layers]
        layers = tuple(replace(c, source=s) for c, s in zip(smaller.layers, sources, strict=True))
        index = torch.tensor(list(kept), device=layers[0].source.memory.device)
        return replace(
            smaller,
            layers=layers,
            gates=None if self.gates is None else self.gates.select(index),
            utt_of_row=tuple(new_number[u] for u in smaller.utt_of_row),
        )

    def row_gates(self, index: int) -> dict[str, ModuleGate]:
        """Gates of a layer for the rows (each hypothesis has its utterance's)."""
        if self.gates is None:
            return {}
        if self.gates.values.size(0) == 1:  # one utterance: open or closed for all rows alike
            return dict(self.gates.layer(index))
        rows = torch.tensor(self.utt_of_row, device=self.gates.values.device)
        return dict(self.gates.select(rows).layer(index))


def project(attn: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, heads, T, d_k) of x (B, T, size) for an ESPnet attention module."""
    shape = (x.size(0), -1, attn.h, attn.d_k)
    keys = attn.k_norm(attn.linear_k(x).view(shape).transpose(1, 2))
    return keys, attn.linear_v(x).view(shape).transpose(1, 2)


def query(attn: torch.nn.Module, x: Tensor) -> Tensor:
    """Queries (B, heads, T, d_k) of x (B, T, size)."""
    return attn.q_norm(attn.linear_q(x).view(x.size(0), -1, attn.h, attn.d_k).transpose(1, 2))


def step_layer(
    layer: GatedDecoderLayer,
    cache: LayerCache,
    x: Tensor,
    whole: DecoderCache,
    gates: dict[str, ModuleGate],
) -> tuple[Tensor, LayerCache]:
    """One decoder layer for the newest token(s) of every hypothesis.

    Args:
        layer: gated layer in evaluation mode.
        cache: its cache.
        x: (rows, n, size) the new positions.
        whole: the decoder's cache (rows and utterances).
        gates: gates of this layer for the rows.

    Returns:
        (rows, n, size) and the new cache.
    """
    x, cache = _step_self_attn(layer, cache, x, gates.get("self_attn", OPEN), whole.per_token)
    x = _step_src_attn(layer, cache.source, x, gates.get("src_attn", OPEN), whole.utt_of_row)
    return layer.run_feed_forward(x, gates.get("feed_forward", OPEN)), cache


def _step_self_attn(
    layer: GatedDecoderLayer, cache: LayerCache, x: Tensor, gate: ModuleGate, per_token: bool
) -> tuple[Tensor, LayerCache]:
    if gate.closed and not per_token:
        return layer.run_self_attn(x, gate, layer.self_attn), cache
    normed = layer.before(layer.norm1, x)
    if gate.closed:
        cache = replace(cache, pending=(*cache.pending, normed))
        return layer.run_self_attn(x, gate, layer.self_attn), cache
    source = torch.cat((*cache.pending, normed), dim=1) if cache.pending else normed
    # With gates fixed for the utterance, closed rows never look at their keys; with gates per token they may, later.
    rows = None if per_token else gate.rows
    keys, values = project(layer.self_attn, source if rows is None else source.index_select(0, rows))
    cache = replace(cache, self_kv=cache.self_kv.append(keys, values, rows), pending=())
    kv = cache.self_kv
    mask = _causal(x.size(1), kv.length, x.device)

    def attend(new: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(query(layer.self_attn, new), keys, values, mask)
        return layer.after_attention(_merge_heads(layer.self_attn, out), new, "concat_linear1")

    return layer.run_self_attn(x, gate, attend, normed, kv.keys, kv.values), cache


def _step_src_attn(
    layer: GatedDecoderLayer,
    source: SourceMemory,
    x: Tensor,
    gate: ModuleGate,
    utt_of_row: tuple[int, ...],
) -> Tensor:
    if gate.closed:
        return layer.run_src_attn(x, gate, layer.src_attn)
    open_rows = range(len(utt_of_row)) if gate.rows is None else gate.rows.tolist()
    utts, counts = _runs([utt_of_row[r] for r in open_rows])
    keys, values, mask = source.keys_values(layer, None if len(utts) == source.memory.size(0) else tuple(utts))

    def attend(new: Tensor) -> Tensor:
        normed = layer.before(layer.norm2, new)
        out = _attend_memory(query(layer.src_attn, normed), keys, values, mask, counts)
        return layer.after_attention(_merge_heads(layer.src_attn, out), normed, "concat_linear2")

    return layer.run_src_attn(x, gate, attend, x)


def _attend_memory(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, counts: list[int]) -> Tensor:
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
    index = torch.repeat_interleave(torch.tensor(counts, device=q.device))
    picked = None if mask is None else mask[index]
    return F.scaled_dot_product_attention(q, keys[index], values[index], picked)


def _runs(utts: list[int]) -> tuple[list[int], list[int]]:
    """Distinct utterances of ascending rows and how many rows each has."""
    distinct: list[int] = []
    counts: list[int] = []
    for utt in utts:
        if distinct and distinct[-1] == utt:
            counts[-1] += 1
        else:
            distinct.append(utt)
            counts.append(1)
    return distinct, counts


def _merge_heads(attn: torch.nn.Module, x: Tensor) -> Tensor:
    return attn.linear_out(x.transpose(1, 2).reshape(x.size(0), x.size(2), attn.h * attn.d_k))


def _causal(new: int, total: int, device: torch.device) -> Tensor | None:
    if new == 1:
        return None
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)
