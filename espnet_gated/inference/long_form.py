"""Speech longer than the model's window: windows, each decoded with gates of its own, and their times.

A model trained with time tokens says itself where an utterance starts and ends; the next window starts where its last
whole utterance ended (Whisper's and OWSM's way, ESPnet's ``decode_long``). A model without them is given windows cut at
pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SEGMENTATIONS = ("auto", "timestamps", "silence")
Segment = tuple[float, float, str]
"""Start and end in seconds, and text."""
Utterance = tuple[float, float, list[int]]
"""Start and end in seconds of a window, and tokens."""

FRAME = 0.02  # seconds over which loudness is measured
MARGIN = 0.1  # seconds kept around speech
SHORTEST = 0.1  # seconds; shorter sounds are clicks
SILENCE_DB = -70.0  # of full scale: nobody speaks
FLAT_DB = 6.0  # between the loudest and the softest frames: no pauses to find
BELOW_SPEECH_DB = 35.0
RISE = 0.25  # of the way from the softest to the loudest frames: noise ends and speech begins


@dataclass(frozen=True)
class TimeTokens:
    """The time tokens of a model.

    Attributes:
        first, last: ids of ``<0.00>`` and of the end of the window.
        resolution: seconds from one to the next.
    """

    first: int
    last: int
    resolution: float

    @classmethod
    def of(cls, token2id: dict[str, int], preprocessor_conf: dict[str, Any]) -> TimeTokens:
        """Read them from a model's token list and configuration."""
        first, last = (token2id[preprocessor_conf[f"{which}_time_symbol"]] for which in ("first", "last"))
        return cls(first, last, float(preprocessor_conf["speech_resolution"]))

    @property
    def are_real(self) -> bool:
        """Whether there are any between the first and the last (recipes without timestamps have these two alone)."""
        return self.last - self.first > 1

    def seconds(self, token: int) -> float:
        """The time that a token stands for."""
        return (token - self.first) * self.resolution

    def read(self, ids: Sequence[int], complete_until: int) -> tuple[list[Utterance], float | None]:
        """Utterances in a window's tokens.

        Args:
            ids: tokens without language and task.
            complete_until: an utterance that ends after this token is cut off by the window, unless it is the only one.

        Returns:
            The whole utterances, and where (seconds) the next window starts; ``None`` if the window does not say.
        """
        ids = list(ids)
        places = [i for i, token in enumerate(ids) if self.first <= token <= self.last]
        if len(places) == 1:  # a start alone: speech to the end of the window
            places.append(len(ids))
            ids.append(self.last)
        if not places:
            return [], None
        if len(places) % 2:  # the last utterance has no end
            next_start = self.seconds(ids[places.pop()])
        elif len(places) > 2 and ids[places[-1]] > complete_until:
            next_start = self.seconds(ids[places[-2]])
            places = places[:-2]
        else:
            next_start = self.seconds(ids[places[-1]])
        pairs = zip(places[::2], places[1::2], strict=True)
        found = [(self.seconds(ids[a]), self.seconds(ids[b]), ids[a + 1 : b]) for a, b in pairs]
        return found, next_start


@dataclass(frozen=True)
class LongForm:
    """How a recording is decoded.

    Attributes:
        segmentation: ``timestamps`` (predicted, as in ESPnet), ``silence`` (windows cut at pauses, for models trained
            without timestamps), or ``auto``: the first if the token list has time tokens between first and last.
        condition_on_prev_text: tell each window the text of the one before.
        end_time_threshold: time token after which a window's last utterance counts as cut off; ``None``: 29/30 of the
            window (ESPnet's ``<29.00>``).
        skip_last_chunk_threshold: seconds; a shorter rest or window is left out.
        min_silence: seconds of silence that end a window (``silence``).
        batch_size: windows decoded together (``silence`` without ``condition_on_prev_text``).

    Raises:
        ValueError: for an unknown ``segmentation`` or an impossible number.
    """

    segmentation: str = "auto"
    condition_on_prev_text: bool = False
    end_time_threshold: str | None = None
    skip_last_chunk_threshold: float = 0.2
    min_silence: float = 0.3
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.segmentation not in SEGMENTATIONS:
            raise ValueError(f"segmentation must be one of {', '.join(SEGMENTATIONS)}, got {self.segmentation!r}")
        for name, least in (("batch_size", 1), ("min_silence", 0), ("skip_last_chunk_threshold", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def decode_long(model: Any, request: Any, how: LongForm) -> list[Segment]:
    """Decode a recording in windows; ``model.stats`` then has a row for each window.

    Args:
        model: a ``Speech2Text``.
        request: its ``Request`` with the whole recording, (samples,), and the text before it.
        how: options.

    Raises:
        ValueError: if timestamps are asked of a model without time tokens, or a token is unknown.
    """
    conf, to_id = model.preprocessor_conf, model.converter.token2id
    times = TimeTokens.of(to_id, conf)
    if how.segmentation == "timestamps" and not times.are_real:
        raise ValueError("timestamps were asked of a model that has no time tokens (segmentation)")
    if how.end_time_threshold is not None and how.end_time_threshold not in to_id:
        raise ValueError(f"{how.end_time_threshold} is not in the token list (end_time_threshold)")
    stats: list[Any] = []

    def best(requests: list[Any]) -> list[Any]:
        results = model.decode_batch(requests)
        stats.extend(model.stats)
        return [(result[0] if isinstance(result, tuple) else result)[0] for result in results]

    if how.segmentation == "silence" or not times.are_real:
        segments = _decode_by_silence(model, request, how, best)
    else:

        def decode(start: int, end: int, previous: str | None) -> list[int]:
            text_prev = previous if how.condition_on_prev_text else None
            one = replace(request, speech=request.speech[start:end], text_prev=text_prev, predict_time=True)
            ids: list[int] = best([one])[0][2][2:]  # without language and task
            return ids

        threshold = times.first + round((times.last - times.first) * 29 / 30)
        segments = decode_by_timestamps(
            samples=len(request.speech),
            fs=int(conf["fs"]),
            window=int(conf["fs"] * conf["speech_length"]),
            times=times,
            decode=decode,
            to_text=lambda ids: model.tokenizer.tokens2text(model.converter.ids2tokens(ids)),
            complete_until=threshold if how.end_time_threshold is None else to_id[how.end_time_threshold],
            shortest=max(how.skip_last_chunk_threshold, model.least_samples / conf["fs"]),
            init_text=request.text_prev,
        )
    model.stats = stats
    return segments


def _decode_by_silence(
    model: Any, request: Any, how: LongForm, best: Callable[[list[Any]], list[Any]]
) -> list[Segment]:
    fs, longest = int(model.preprocessor_conf["fs"]), float(model.preprocessor_conf["speech_length"])
    speech = request.speech
    scale = 1.0 if speech.is_floating_point() else torch.iinfo(speech.dtype).max  # loudness is of samples up to 1
    found = speech_windows(speech.float().cpu().numpy() / scale, fs, longest, how.min_silence)
    shortest = max(how.skip_last_chunk_threshold * fs, model.least_samples)
    windows = [(start, end) for start, end in found if end - start >= shortest]
    size = 1 if how.condition_on_prev_text else how.batch_size
    previous, texts = request.text_prev if how.condition_on_prev_text else None, []
    for first in range(0, len(windows), size):
        parts = [request.speech[start:end] for start, end in windows[first : first + size]]
        some = [replace(request, speech=part, text_prev=previous, predict_time=False) for part in parts]
        texts += [result[3] for result in best(some)]
        previous = texts[-1] if how.condition_on_prev_text else None
    return [(round(a / fs, 2), round(b / fs, 2), text) for (a, b), text in zip(windows, texts, strict=True)]


def decode_by_timestamps(
    samples: int,
    fs: int,
    window: int,
    times: TimeTokens,
    decode: Callable[[int, int, str | None], list[int]],
    to_text: Callable[[list[int]], str],
    complete_until: int,
    shortest: float,
    init_text: str | None = None,
) -> list[Segment]:
    """Go through a recording window by window.

    Args:
        samples: of the recording.
        fs: their rate, Hz.
        window: samples that the model takes.
        times: its time tokens.
        decode: tokens (without language and task) of the speech from one sample to another, given the text before.
        to_text: words of tokens.
        complete_until: see :meth:`TimeTokens.read`.
        shortest: seconds under which the rest is left out.
        init_text: text before the recording.

    Returns:
        The utterances in order; a window whose tokens give no time is one utterance.
    """
    segments: list[Segment] = []
    offset, previous = 0, init_text
    while samples - offset >= max(1, round(shortest * fs)):
        end = min(samples, offset + window)
        ids = decode(offset, end, previous)
        found, next_start = times.read(ids, complete_until)
        if next_start is None:
            found = [(0.0, (end - offset) / fs, list(ids))]
        texts = []
        for start, stop, tokens in found:
            last = samples / fs
            begin, finish = (min(last, offset / fs + time) for time in (start, stop))
            texts.append(to_text(tokens))
            # ESPnet's score filter lets times fall behind a <sos> inside a hypothesis.
            segments.append((round(begin, 2), round(max(begin, finish), 2), texts[-1]))
        previous = "".join(texts)
        step = 0 if next_start is None else round(next_start * fs)
        offset += step if step > 0 else window  # a window that gets nowhere is passed over
    return segments


def speech_windows(
    speech: NDArray[np.floating[Any]], fs: int, longest: float, min_silence: float = 0.3
) -> list[tuple[int, int]]:
    """Where speech is, cut at its pauses.

    Args:
        speech: (T,).
        fs: Hz.
        longest: seconds that a window may last; speech without pauses is cut where it is softest, in the second half of
            the window.
        min_silence: seconds of silence that end a window.

    Returns:
        First sample and end of each window, in order; nothing for silence.

    Raises:
        ValueError: for impossible lengths.
    """
    if longest < 2 * FRAME or min_silence < 0:
        raise ValueError(
            f"longest must be at least {2 * FRAME} s and min_silence at least 0, got {longest} and {min_silence}"
        )
    hop = max(1, round(FRAME * fs))
    frames = len(speech) // hop
    if frames == 0:
        return [(0, len(speech))] if len(speech) else []
    power = np.square(speech[: frames * hop].astype(np.float64)).reshape(frames, hop).mean(axis=1)
    loudness = 10 * np.log10(power + 1e-10)
    margin = round(MARGIN / FRAME)
    windows = []
    for start, end in _regions(loudness >= _threshold(loudness), round(min_silence / FRAME)):
        if end - start >= SHORTEST / FRAME:
            windows += _split(loudness, max(0, start - margin), min(frames, end + margin), int(longest / FRAME))
    samples = [(start * hop, len(speech) if end == frames else end * hop) for start, end in _apart(windows)]
    return [(start, min(end, start + int(longest * fs))) for start, end in samples]


def _threshold(loudness: NDArray[np.float64]) -> float:
    """Loudness (dB) that speech has and pauses have not."""
    sounds = loudness[loudness >= SILENCE_DB]
    if not len(sounds):
        return float("inf")
    floor, top = np.percentile(loudness, 5), np.percentile(sounds, 95)
    if top - floor < FLAT_DB:
        return float("-inf")
    return float(max(top - BELOW_SPEECH_DB, floor + RISE * (top - floor)))


def _regions(loud: NDArray[np.bool_], min_gap: int) -> list[tuple[int, int]]:
    """Runs of loud frames; gaps of fewer than ``min_gap`` frames do not separate."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    regions: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if regions and start - regions[-1][1] < min_gap:
            regions[-1] = (regions[-1][0], end)
        else:
            regions.append((start, end))
    return regions


def _split(loudness: NDArray[np.float64], start: int, end: int, longest: int) -> list[tuple[int, int]]:
    """Pieces of at most ``longest`` frames, cut where it is softest."""
    pieces = []
    smooth = np.convolve(loudness, np.ones(5) / 5, mode="same")
    while end - start > longest:
        half = start + (longest + 1) // 2
        cut = half + int(np.argmin(smooth[half : start + longest]))
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def _apart(windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Windows whose margins overlap meet in the middle."""
    windows = list(windows)
    for i in range(len(windows) - 1):
        (start, end), (next_start, next_end) = windows[i], windows[i + 1]
        if next_start < end:
            middle = (next_start + end) // 2
            windows[i], windows[i + 1] = (start, middle), (middle, next_end)
    return windows
