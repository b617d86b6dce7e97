"""What is asked of a decoder, and what the answer took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Speech: TypeAlias = Any
"""Waveform: tensor or numpy array, (samples,) or (samples, 1)."""


@dataclass(frozen=True)
class Request:
    """One utterance to decode.

    Attributes:
        speech: (samples,) or (samples, 1).
        lang_sym, task_sym: e.g. ``<deu>``, ``<asr>``; ``None``: the defaults of :class:`Speech2Text`.
        text_prev: previous text to condition on (words or token ids).
        predict_time: predict timestamps.
        categories, vectors: contexts beside language and task, by the names declared in the model's ``context``: name →
            label, name → (size,). What is not given is unknown.
    """

    speech: Speech
    lang_sym: str | None = None
    task_sym: str | None = None
    text_prev: Any = None
    predict_time: bool | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DecodeStats:
    """What decoding one utterance took.

    Attributes:
        seconds: of audio.
        encode_s, search_s: wall-clock seconds (a batch's time is shared out equally).
        steps: length of the search in tokens.
        gates: stack → module name (``0.attn``) → 1 open, 0 closed.
        skipped: stack → share of the gated cost that was skipped.
        by_position: stack → module name → open share at each output position, over the rows of the search that the
            decoder ran there: the hypotheses that were extended, and once more those that had just ended; only of
            stacks whose gates differ by token, and of our own search.
    """

    seconds: float
    encode_s: float
    search_s: float
    steps: int
    gates: dict[str, dict[str, float]]
    skipped: dict[str, float]
    by_position: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def refuse_partial_ar(options: Mapping[str, Any]) -> None:
    """Say at once what would be a TypeError of the first utterance.

    Args:
        options: of ESPnet's ``Speech2Text``.

    Raises:
        ValueError: if partially autoregressive decoding is among them.
    """
    if options.get("partial_ar"):
        raise ValueError(
            "partial_ar True cannot work with this version of ESPnet: its Speech2Text calls PartiallyARInference with "
            "x=, which takes enc_out= (--partial_ar)"
        )
