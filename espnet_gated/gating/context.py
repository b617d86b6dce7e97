"""What gates are conditioned on beside the features: language, task and further named contexts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

UNKNOWN = 0
"""Row of every category table that stands for «unknown» and «dropped»."""

_SPECIAL = re.compile(r"^<[^<>]+>$")
_TIME = re.compile(r"^<\d+(\.\d+)?>$")


@dataclass(frozen=True)
class GatingContext:
    """Context of the utterances of a batch, made once and handed to every predictor.

    Attributes:
        categories: field name → (B,) rows of the field's table, 0 = unknown or dropped.
        vectors: field name → (B, size).
        sparsity: stack name (``encoder``, ``decoder``) → (B,) asked sparsity in [0, 1).
    """

    categories: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    sparsity: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> GatingContext:
        """The context of some rows."""
        pick = lambda table: {k: v[rows] for k, v in table.items()}  # noqa: E731
        return GatingContext(pick(self.categories), pick(self.vectors), pick(self.sparsity))

    def with_sparsity(self, **sparsity: Tensor) -> GatingContext:
        """The same context with other asked sparsities."""
        return replace(self, sparsity={**self.sparsity, **sparsity})


@dataclass(frozen=True)
class ContextField:
    """One declared context.

    Attributes:
        name: e.g. ``lang``, ``task``, ``speaker``.
        kind: ``token`` (a special token of the text), ``category`` (a label) or ``vector``.
        values: names of the categories, rows 1 … n of the table.
        size: width of a vector.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    size: int = 0

    def row(self, value: str | None) -> int:
        """Row of a category; unknown values (and ``None``) give row 0."""
        return self.values.index(value) + 1 if value in self.values else UNKNOWN


def special_tokens(token_list: Sequence[str]) -> tuple[str, ...]:
    """Tokens such as ``<deu>`` and ``<asr>``; timestamps such as ``<1.20>`` are left out."""
    return tuple(t for t in token_list if _SPECIAL.match(t) and not _TIME.match(t))


def parse_fields(spec: Mapping[str, Any], token_list: Sequence[str] = ()) -> list[ContextField]:
    """Read the YAML option ``context``.

    ``{lang: token, task: token, speaker: {vector: 192}, device: {category: [phone, server]}}``; the order of the
    ``token``
    fields is their order in the text.

    Raises:
        ValueError: for an unknown kind or a malformed entry, naming the field.
    """
    fields = []
    for name, value in spec.items():
        if value == "token":
            fields.append(ContextField(name, "token", special_tokens(token_list)))
        elif isinstance(value, Mapping) and set(value) == {"vector"} and int(value["vector"]) > 0:
            fields.append(ContextField(name, "vector", size=int(value["vector"])))
        elif isinstance(value, Mapping) and set(value) == {"category"} and value["category"]:
            fields.append(ContextField(name, "category", tuple(map(str, value["category"]))))
        else:
            raise ValueError(
                f"context.{name} must be 'token', {{vector: SIZE}} or {{category: [NAMES]}}, got {value!r}"
            )
    return fields


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
        rows = []
        for y in ys.tolist():
            start = len(y) - y[::-1].index(self.sos) if self.sos in y else 0
            tokens = y[start : start + len(self.names)]
            rows.append(tokens + [-1] * (len(self.names) - len(tokens)))
        table = torch.cat([self.table, self.table.new_zeros(1)])  # id -1: unknown
        picked = table[torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)]
        return {name: picked[:, i].to(ys.device) for i, name in enumerate(self.names)}


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
                self.tables[f.name] = torch.nn.Embedding(len(f.values) + 1, size)
                torch.nn.init.normal_(self.tables[f.name].weight, std=size**-0.5)

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
            self._check(f.name, vector, like)
            return self.tables[f.name](vector.to(like)) * kept[:, None]
        rows = None if context is None else context.categories.get(f.name)
        if rows is None:
            rows = torch.zeros(like.size(0), dtype=torch.long, device=like.device)
        self._check(f.name, rows, like)
        return self.tables[f.name](rows.to(like.device) * kept.long())

    @staticmethod
    def _check(name: str, value: Tensor, like: Tensor) -> None:
        if value.size(0) != like.size(0):
            raise ValueError(f"context {name!r} is for {value.size(0)} utterances, the batch has {like.size(0)}")
