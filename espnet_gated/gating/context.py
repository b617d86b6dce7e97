"""What gates are conditioned on beside the features: language, task and further named contexts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

UNKNOWN = 0
"""Row of every category table that stands for «unknown» and «dropped»."""

MISSING = -1
"""In place of a row: the request does not name the field, so that a token may."""

_SPECIAL = re.compile(r"^<[^<>]+>$")
_TIME = re.compile(r"^<\d+(\.\d+)?>$")


@dataclass(frozen=True)
class GatingContext:
    """Context of the utterances of a batch, made once and handed to every predictor.

    Attributes:
        categories: field name → (B,) rows of the field's table, 0 = unknown or dropped.
        vectors: field name → (B, size).
        sparsity: stack name (``encoder``, ``decoder``) → (B,) asked sparsity in [0, 1).
        seeds: (B,) integers that tell utterances apart, from which random masks are drawn (a baseline); ``None``: not
            known.
    """

    categories: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    sparsity: Mapping[str, Tensor] = field(default_factory=dict)
    seeds: Tensor | None = None

    def select(self, rows: Tensor) -> GatingContext:
        """The context of some rows."""
        pick = lambda table: {k: v[rows] for k, v in table.items()}  # noqa: E731
        seeds = None if self.seeds is None else self.seeds[rows.to(self.seeds.device)]
        return GatingContext(pick(self.categories), pick(self.vectors), pick(self.sparsity), seeds)


@dataclass(frozen=True)
class ContextField:
    """One declared context.

    Attributes:
        name: e.g. ``lang``, ``task``, ``speaker``.
        kind: ``token`` (a special token of the text), ``category`` (a label) or ``vector``.
        values: names of the categories, rows 1 … n of the table.
        size: width of a vector.
        default: category that stands in where none is known (option ``default_context``).
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    size: int = 0
    default: str | None = None

    def row(self, value: str | None) -> int:
        """Row of a category (``deu`` finds the token ``<deu>`` too); unknown values and ``None`` give row 0."""
        for name in (value, f"<{value}>"):
            if name in self.values:
                return self.values.index(name) + 1
        return UNKNOWN

    def rows_of_labels(self, codes: Tensor) -> Tensor:
        """Rows of labels that come as UTF-8 bytes, as :meth:`row` finds them.

        Args:
            codes: (B, L) bytes, padded with -1.

        Returns:
            (B,) rows; 0 for unknown labels.
        """
        labels = [*self.values, *(v[1:-1] for v in self.values if _SPECIAL.match(v) and v[1:-1] not in self.values)]
        rows = torch.tensor([self.row(label) for label in labels], device=codes.device)
        table = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(list(label.encode())) for label in labels], batch_first=True, padding_value=-1
        ).to(codes.device)
        width = max(table.size(1), codes.size(1))
        table, codes = (F.pad(t, (0, width - t.size(1)), value=-1) for t in (table, codes))
        same = (codes[:, None] == table).all(-1)
        return (same * rows).sum(-1)


def special_tokens(token_list: Sequence[str]) -> tuple[str, ...]:
    """Tokens such as ``<deu>`` and ``<asr>``; timestamps such as ``<1.20>`` are left out."""
    return tuple(t for t in token_list if _SPECIAL.match(t) and not _TIME.match(t))


def parse_fields(
    spec: Mapping[str, Any], token_list: Sequence[str] = (), defaults: Mapping[str, str] | None = None
) -> list[ContextField]:
    """Read the YAML option ``context``.

    ``{lang: token, task: token, speaker: {vector: 192}, device: {category: [phone, server]}}``; the order of the
    ``token`` fields is their order in the text.

    Args:
        spec: name → kind.
        token_list: vocabulary, for ``token`` fields.
        defaults: name → category that stands in for unknown ones.

    Raises:
        ValueError: for an unknown kind, a malformed entry or a default that is no category, naming the field.
    """
    fields = []
    for name, value in spec.items():
        if value == "token":
            fields.append(ContextField(name, "token", special_tokens(token_list)))
        elif isinstance(value, Mapping) and set(value) == {"vector"} and int(value["vector"]) > 0:
            fields.append(ContextField(name, "vector", size=int(value["vector"])))
        elif isinstance(value, Mapping) and set(value) == {"category"} and value["category"]:
            _refuse_booleans(name, value["category"])
            fields.append(ContextField(name, "category", tuple(map(str, value["category"]))))
        else:
            raise ValueError(
                f"context.{name} must be 'token', {{vector: SIZE}} or {{category: [NAMES]}}, got {value!r}"
            )
    return _with_defaults(fields, dict(defaults or {}))


def _refuse_booleans(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, bool):  # what YAML makes of a bare no, off, yes, on
            raise ValueError(f"context.{name}: a category is {value}; put it in quotes in the YAML ('no', 'on', …)")


def _with_defaults(fields: Sequence[ContextField], defaults: dict[str, str]) -> list[ContextField]:
    found = []
    for f in fields:
        default = defaults.pop(f.name, None)
        if default is not None and not f.row(default):
            allowed = ", ".join(f.values) or "nothing (it is a vector)"
            raise ValueError(f"default_context.{f.name} must be one of {allowed}, got {default!r}")
        found.append(replace(f, default=default))
    if defaults:
        declared = ", ".join(f.name for f in fields) or "none"
        raise ValueError(f"default_context.{min(defaults)} is not declared in context; declared are: {declared}")
    return found


def context_of_batch(fields: Sequence[ContextField], batch: Mapping[str, Tensor]) -> GatingContext:
    """Categories and vectors of a training batch, where the data has them.

    Args:
        fields: declared contexts; those of kind ``category`` and ``vector`` are looked for.
        batch: data name → tensor: labels as (B, L) bytes padded with -1, vectors (B, size).

    Raises:
        ValueError: for a vector of another size than declared.
    """
    context = GatingContext()
    for f in fields:
        value = batch.get(f.name)
        if value is not None and f.kind == "category":
            context = replace(context, categories={**context.categories, f.name: f.rows_of_labels(value)})
        elif value is not None and f.kind == "vector":
            context = replace(context, vectors={**context.vectors, f.name: value})
    return context


def context_of_requests(
    fields: Sequence[ContextField], categories: Sequence[Mapping[str, str]], vectors: Sequence[Mapping[str, Any]]
) -> GatingContext:
    """Categories and vectors of utterances to decode; each may lack any.

    Args:
        fields: declared contexts.
        categories, vectors: for each utterance, name → label, name → (size,).

    Returns:
        the context; its categories are ``MISSING`` where an utterance does not name one that others do
        (:func:`with_tokens`).

    Raises:
        ValueError: for a name that is not declared.
    """
    for kind, given in (("vector", vectors), ("category", categories)):
        declared = {f.name for f in fields if (f.kind == "vector") == (kind == "vector")}
        for name in {name for one in given for name in one} - declared:
            raise ValueError(
                f"{kind} {name!r} is not declared in context; declared are: {', '.join(declared) or 'none'}"
            )
    rows, found = {}, {}
    for f in fields:
        if f.kind == "vector" and any(f.name in one for one in vectors):
            missing = torch.full((f.size,), torch.nan)
            found[f.name] = torch.stack(
                [torch.as_tensor(one[f.name]).float() if f.name in one else missing for one in vectors]
            )
        elif f.kind != "vector" and any(f.name in one for one in categories):
            rows[f.name] = torch.tensor([f.row(one[f.name]) if f.name in one else MISSING for one in categories])
    return GatingContext(rows, found)


def with_tokens(context: GatingContext, tokens: Mapping[str, Tensor]) -> GatingContext:
    """The context with what tokens say, field → (B,) rows, for the utterances that name no category themselves."""
    named = {name: rows.masked_fill(rows == MISSING, UNKNOWN) for name, rows in context.categories.items()}
    for name, rows in tokens.items():
        own = context.categories.get(name)
        named[name] = rows if own is None else torch.where(own == MISSING, rows, own)
    return replace(context, categories=named)


class TokenContext:
    """Reads the categories of ``token`` fields from token ids.

    Args:
        fields: declared contexts; those of kind ``token`` are read.
        token_list: vocabulary.
        sos: id after which the tokens stand in a decoder input (``<sos><deu><asr>…``).
    """

    def __init__(self, fields: Sequence[ContextField], token_list: Sequence[str], sos: int):
        self.names = [f.name for f in fields if f.kind == "token"]
        self.sos = sos
        rows = {token: i + 1 for i, token in enumerate(special_tokens(token_list))}
        self.table = torch.tensor([rows.get(token, UNKNOWN) for token in token_list])

    def from_text(self, text: Tensor) -> dict[str, Tensor]:
        """Categories from S2T text (B, L) that starts with the tokens; ids < 0 are padding."""
        table = torch.cat([self.table, self.table.new_zeros(1)]).to(text.device)  # id -1: unknown
        found = {}
        for position, name in enumerate(self.names):
            if position < text.size(1):
                found[name] = table[text[:, position].clamp(min=-1)]
            else:
                found[name] = text.new_zeros(text.size(0))
        return found

    def from_primer(self, ys: Tensor) -> dict[str, Tensor]:
        """Categories from decoder inputs (B, L): the tokens behind the last ``<sos>``."""
        if not self.names:
            return {}
        rows = []
        for y in ys.tolist():
            start = len(y) - y[::-1].index(self.sos) if self.sos in y else 0
            tokens = y[start : start + len(self.names)]
            rows.append(tokens + [-1] * (len(self.names) - len(tokens)))
        table = torch.cat([self.table, self.table.new_zeros(1)])  # id -1: unknown
        picked = table[torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)]
        return {name: picked[:, i].to(ys.device) for i, name in enumerate(self.names)}


class _Table(torch.nn.Embedding):
    """Embeddings whose sum with others is no larger than the features."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def espnet_initialization_fn(self) -> None:
        """ESPnet's option ``init`` may have drawn them anew, after those of the predictor were reset."""
        self.reset_parameters()


class ContextEncoder(torch.nn.Module):
    """Sum of the embeddings of all declared contexts.

    Args:
        fields: declared contexts.
        size: width of the embedding.
        dropout: probability, in training, that a field of an utterance is dropped (replaced by «unknown»),
            so that decoding without it works.
    """

    def __init__(self, fields: Sequence[ContextField], size: int, dropout: float = 0.1):
        super().__init__()
        self.fields = list(fields)
        self.dropout = dropout
        self.size = size
        self.tables = torch.nn.ModuleDict()
        for f in self.fields:
            if f.kind == "vector":
                self.tables[f.name] = torch.nn.Linear(f.size, size)
            else:
                self.tables[f.name] = _Table(len(f.values) + 1, size)

    def forward(self, context: GatingContext | None, like: Tensor) -> Tensor:
        """Embed the context.

        Args:
            context: the context, or ``None`` (everything unknown).
            like: (B, …) gives batch size, type and device.

        Returns:
            (B, size)
        """
        total = like.new_zeros(like.size(0), self.size)
        for f in self.fields:
            total = total + self._field(f, context, like)
        return total

    def _field(self, f: ContextField, context: GatingContext | None, like: Tensor) -> Tensor:
        kept = like.new_ones(like.size(0))
        if self.training and self.dropout > 0:
            kept = (torch.rand_like(kept) >= self.dropout).to(like)
        if f.kind == "vector":
            vector = None if context is None else context.vectors.get(f.name)
            if vector is None:
                return like.new_zeros(like.size(0), self.size)
            return self._vector(f, vector.to(like), kept)
        rows = None if context is None else context.categories.get(f.name)
        if rows is None:
            rows = torch.zeros(like.size(0), dtype=torch.long, device=like.device)
        self._check(f.name, rows, like)
        rows = rows.to(like.device)
        if f.default is not None:
            rows = rows.masked_fill(rows == UNKNOWN, f.row(f.default))
        return self.tables[f.name](rows * kept.long())

    def _vector(self, f: ContextField, vector: Tensor, kept: Tensor) -> Tensor:
        """Embed vectors (B, size); not-a-number stands for an utterance that has none."""
        self._check(f.name, vector, kept)
        if vector.size(1) != f.size:
            raise ValueError(
                f"context {f.name!r} has {vector.size(1)} values, {f.size} are declared (context.{f.name})"
            )
        known = ~vector.isnan().any(-1)
        return self.tables[f.name](vector.nan_to_num()) * (kept * known)[:, None]

    @staticmethod
    def _check(name: str, value: Tensor, like: Tensor) -> None:
        if value.size(0) != like.size(0):
            raise ValueError(
                f"context {name!r} is for {value.size(0)} utterances, the batch has {like.size(0)} (that of a search's "
                "primer stays until the next search, or announce_primer(None))"
            )
