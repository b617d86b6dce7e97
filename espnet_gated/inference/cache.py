"""Key/value cache of a gated Transformer decoder.

ESPnet caches layer outputs and projects keys and values of the whole prefix, and of the whole encoder output, again
at every step. Here
keys and values themselves are kept: the encoder output is projected once per utterance (and never, where ``src_attn``
is closed), and each
token once. Caches are values: a step returns a new one and leaves the old one usable, so any search may hold, branch
or drop them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from espnet_gated.gating.gates import OPEN, Gates, ModuleGate, on_device
from espnet_gated.gating.local import LocalGates, Walk
from espnet_gated.layers.attend import project
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

    storage: _Storage | None = None
    length: int = 0

    @property
    def keys(self) -> Tensor:
        """(rows, heads, length, d_k)"""
        assert self.storage is not None
        return self.storage.tensor[0, :, :, : self.length]

    @property
    def values(self) -> Tensor:
        """(rows, heads, length, d_k)"""
        assert self.storage is not None
        return self.storage.tensor[1, :, :, : self.length]

    def append(self, new: Tensor, total: int, rows: Tensor | None = None) -> KeyValues:
        """Add positions.

        Args:
            new: keys and values (2, rows, heads, n, d_k).
            total: number of rows.
            rows: only these rows have them (the others never look); ``None``: all.
        """
        end = self.length + new.size(3)
        storage = self._writable(new, total, end)
        target = storage.tensor[:, :, :, self.length : end]
        if rows is None:
            target.copy_(new)
        else:
            target.index_copy_(1, rows, new)
        storage.filled = end
        return KeyValues(storage, end)

    def _writable(self, new: Tensor, total: int, end: int) -> _Storage:
        if self.storage is None:
            return _Storage(new.new_zeros(2, total, new.size(2), end + _GROW, new.size(4)), 0)
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
        if self.storage is None:
            return self
        # With the free positions behind: one contiguous copy.
        return KeyValues(_Storage(self.storage.tensor.index_select(1, rows), self.length), self.length)


class SourceMemory:
    """Encoder output of the utterances and its keys and values for one layer, projected when first needed."""

    def __init__(self, memory: Tensor, mask: Tensor | None, utts: tuple[int, ...] | None = None):
        """Hold (U', T, size) and (U', 1, T) or ``None``; ``utts``: which of them are the utterances (``None``: all)."""
        self.memory = memory
        self._mask = mask
        self._utts = tuple(range(memory.size(0))) if utts is None else utts
        self._projected: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor | None]] = {}

    def __len__(self) -> int:
        """How many utterances."""
        return len(self._utts)

    def keys_values(
        self, layer: GatedDecoderLayer, utts: tuple[int, ...] | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values (U, heads, T, d_k) and mask (U, 1, 1, T) of some utterances (``None``: all)."""
        wanted = self._utts if utts is None else tuple(self._utts[u] for u in utts)
        if wanted not in self._projected:
            memory, mask = self.memory, self._mask
            if len(wanted) < memory.size(0):
                index = on_device(wanted, memory.device)
                memory = memory.index_select(0, index)
                mask = None if mask is None else mask.index_select(0, index)
            keys, values = (x.contiguous() for x in project(layer.src_attn, memory))
            self._projected[wanted] = keys, values, None if mask is None else mask[:, None]
        return self._projected[wanted]

    def select(self, utts: Sequence[int]) -> SourceMemory:
        """The memory of some utterances; projections that exist are kept."""
        kept = tuple(self._utts[u] for u in utts)
        chosen = SourceMemory(self.memory, self._mask, kept)
        for names, (keys, values, mask) in self._projected.items():
            left = [i for i, name in enumerate(names) if name in kept]
            if left:
                index = on_device(left, keys.device)
                smaller = None if mask is None else mask.index_select(0, index)
                entry = keys.index_select(0, index), values.index_select(0, index), smaller
                chosen._projected[tuple(names[i] for i in left)] = entry
        return chosen


@dataclass(frozen=True)
class LayerCache:
    """Cache of one layer: self-attention keys and values, and inputs whose keys nobody has needed yet."""

    source: SourceMemory
    self_kv: KeyValues = KeyValues()
    pending: tuple[Tensor, ...] = ()

    def select(self, rows: Tensor) -> LayerCache:
        """The cache of other rows; the utterances stay."""
        pending = tuple(p.index_select(0, rows) for p in self.pending)
        return replace(self, self_kv=self.self_kv.select(rows), pending=pending)


@dataclass(frozen=True)
class LayerPlan:
    """What one layer does for the rows of a cache.

    Attributes:
        gates: the layer's gates for the rows.
        utts: utterances whose memory ``src_attn`` reads; ``None``: all.
        counts: rows of each of those utterances.
    """

    gates: Mapping[str, ModuleGate]
    utts: tuple[int, ...] | None
    counts: tuple[int, ...]


class RowPlans:
    """The plans of all layers, worked out once for as long as the rows keep their utterances and gates."""

    def __init__(self, gates: Gates | LocalGates | None, utt_of_row: tuple[int, ...], utterances: int):
        self.gates = gates
        self.utt_of_row = utt_of_row
        self._utterances = utterances
        self._layers: dict[int, LayerPlan] = {}
        self._row_gates: Gates | LocalGates | None = None
        self._walk: Walk | None = None

    def layer(self, index: int, x: Tensor | None = None) -> LayerPlan:
        """The plan of layer ``index``, whose input is ``x`` (rows, n, size)."""
        if isinstance(self.gates, LocalGates):
            assert x is not None
            return self._decide(index, x)
        if index not in self._layers:
            gates = self._gates(index)
            open_rows = gates.get("src_attn", OPEN).host_rows
            rows = range(len(self.utt_of_row)) if open_rows is None else open_rows
            utts, counts = _runs([self.utt_of_row[r] for r in rows])
            everyone = len(utts) == self._utterances
            self._layers[index] = LayerPlan(gates, None if everyone else tuple(utts), tuple(counts))
        return self._layers[index]

    def _decide(self, index: int, x: Tensor) -> LayerPlan:
        """The plan of a layer whose gates are decided at every step; layer 0 starts a step."""
        if self._walk is None or index == 0:
            if self._row_gates is None:
                assert self.gates is not None
                self._row_gates = self.gates.select(self.utt_of_row)
            assert isinstance(self._row_gates, LocalGates)
            self._walk = self._row_gates.walk()
        gates = self._walk.layer(index, x)
        open_rows = gates.get("src_attn", OPEN).host_rows
        rows = range(len(self.utt_of_row)) if open_rows is None else open_rows
        # Of all utterances, also where no row of one looks: others will at the next step, and each is projected once.
        seen = [self.utt_of_row[r] for r in rows]
        return LayerPlan(gates, None, tuple(seen.count(u) for u in range(self._utterances)))

    def _gates(self, index: int) -> Mapping[str, ModuleGate]:
        if self.gates is None:
            return {}
        assert isinstance(self.gates, Gates)
        if self.gates.values.size(0) == 1:  # one utterance: open or closed for all rows alike
            return self.gates.layer(index)
        if self._row_gates is None:
            self._row_gates = self.gates.select(self.utt_of_row)
        assert isinstance(self._row_gates, Gates)
        return self._row_gates.layer(index)


@dataclass(frozen=True)
class DecoderCache:
    """Cache of a whole decoder for ``rows`` hypotheses of some utterances.

    Attributes:
        layers: one cache per layer.
        gates: gates of the utterances; ``None``: all open.
        utt_of_row: utterance of each row, ascending.
        length: tokens decoded so far.
        per_token: gates may change at every step, so the keys of skipped positions may be wanted later.
        plans: what follows from ``gates`` and ``utt_of_row`` (made when they change).
    """

    layers: tuple[LayerCache, ...]
    gates: Gates | LocalGates | None
    utt_of_row: tuple[int, ...]
    length: int = 0
    per_token: bool = False
    plans: RowPlans | None = None

    def __post_init__(self) -> None:
        old = self.plans
        if old is None or old.gates is not self.gates or old.utt_of_row is not self.utt_of_row:
            plans = RowPlans(self.gates, self.utt_of_row, len(self.layers[0].source))
            object.__setattr__(self, "plans", plans)

    @classmethod
    def start(
        cls,
        layers: Sequence[GatedDecoderLayer],
        memory: Tensor,
        mask: Tensor | None,
        gates: Gates | LocalGates | None,
        per_token: bool = False,
    ) -> DecoderCache:
        """Cache for one hypothesis of each utterance.

        Args:
            layers: the decoder's layers.
            memory: (U, T, size) encoder output.
            mask: (U, 1, T), true for frames that count; ``None``: all do.
            gates: of the U utterances.
            per_token: see the class; gates that are decided on the way are so anyhow.
        """
        per_token = per_token or isinstance(gates, LocalGates)
        caches = tuple(LayerCache(SourceMemory(memory, mask)) for _ in layers)
        return cls(caches, gates, tuple(range(memory.size(0))), per_token=per_token)

    def select(self, rows: Sequence[int]) -> DecoderCache:
        """The cache of other hypotheses: reordered, repeated or fewer (in ascending order of utterances)."""
        if list(rows) == list(range(len(self.utt_of_row))):
            return self
        device = self.layers[0].source.memory.device
        return self.reorder(on_device(rows, device), tuple(self.utt_of_row[r] for r in rows))

    def reorder(self, rows: Tensor, utt_of_row: tuple[int, ...]) -> DecoderCache:
        """:meth:`select` for indices that stay on their device, with the utterances that they belong to."""
        if utt_of_row == self.utt_of_row:
            utt_of_row = self.utt_of_row  # the same object: the plans stay
        return replace(self, layers=tuple(c.select(rows) for c in self.layers), utt_of_row=utt_of_row)

    def drop_utterances(self, kept: Sequence[int]) -> DecoderCache:
        """Keep only the rows of some utterances, which are renumbered from 0."""
        new_number = {utt: i for i, utt in enumerate(kept)}
        rows = [r for r, utt in enumerate(self.utt_of_row) if utt in new_number]
        smaller = self.select(rows)
        sources = [c.source.select(kept) for c in smaller.layers]
        layers = tuple(replace(c, source=s) for c, s in zip(smaller.layers, sources, strict=True))
        return replace(
            smaller,
            layers=layers,
            gates=None if self.gates is None else self.gates.select(kept),
            utt_of_row=tuple(new_number[u] for u in smaller.utt_of_row),
        )

    def hear(self, memory: Tensor) -> DecoderCache:
        """The cache with another encoder output (U, T', size) of the same utterances; their gates stay."""
        return replace(self, layers=tuple(replace(c, source=SourceMemory(memory, None)) for c in self.layers))

    def plan(self, index: int, x: Tensor | None = None) -> LayerPlan:
        """What layer ``index`` does for the rows, whose newest positions enter it as ``x`` (rows, n, size)."""
        assert self.plans is not None
        return self.plans.layer(index, x)


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
