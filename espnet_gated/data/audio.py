"""Read audio files of any rate and format; the one place that opens them.

libsndfile reads wav, flac, mp3 and ogg (Vorbis and Opus), :mod:`espnet_gated.data.g722` raw G.722; what else there is
(m4a, webm, ...) goes to torchcodec or ffmpeg (:mod:`espnet_gated.data.ffmpeg`). ``file.ark:offset`` is audio in an
archive (:mod:`espnet_gated.data.ark`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from espnet_gated.data import ark, ffmpeg

if TYPE_CHECKING:  # torch takes seconds to import: who only looks into data directories does without
    import torchaudio

Samples = NDArray[np.float32]
G722_RATE = 16000
G722_SAMPLES_PER_OCTET = 2
G722_SUFFIX = ".g722"
LEAD = 0.25  # seconds decoded before a part of a lossy file, whose decoder needs them to get going
BLOCK = 1 << 16  # samples decoded at a time where the whole is not kept
UNKNOWN_LENGTH = 2**63 - 1  # what libsndfile says then
SILENCE = 2.0**-15  # what moves less is flat in 16 bits


# TypeError: soundfile's answer to suffixes that stand for raw samples
_REFUSALS = (soundfile.LibsndfileError, OSError, TypeError, ffmpeg.DecodeError)


class AudioError(ValueError):
    """An audio file that is missing, broken, empty, or in a format that nothing here decodes; the message names it."""


@dataclass(frozen=True)
class AudioInfo:
    """What the head of an audio file says: Hz, channels, samples of one channel."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


@dataclass(frozen=True)
class AudioRange:
    """All samples of an audio file: how many of one channel, the lowest and the highest of all (NaN where one is)."""

    frames: int
    low: float
    high: float

    @property
    def is_finite(self) -> bool:
        """Whether all samples are numbers (a file of floats may hold others)."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def is_silent(self) -> bool:
        """Whether nothing moves: every sample is zero, or all are the same."""
        return self.high - self.low < SILENCE


def is_there(path: str | Path) -> bool:
    """Whether the file exists, or the archive that ``file.ark:offset`` points into."""
    return (ark.archive_of(path) or Path(path)).is_file()


def is_native(path: str | Path) -> bool:
    """Whether libsndfile, and with it ESPnet's loader of training data, reads files of this suffix."""
    path = Path(path)
    return not _is_g722(path) and not ffmpeg.is_needed(path) and ark.archive_of(path) is None


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, channels and length, without decoding.

    Raises:
        AudioError: naming the file.
        MissingDecoderError: if it takes torchcodec or ffmpeg and there is neither.
    """
    path = _existing(path)
    if _is_g722(path):
        return AudioInfo(G722_RATE, 1, G722_SAMPLES_PER_OCTET * path.stat().st_size)
    try:
        if ark.archive_of(path) is not None:
            rate, samples = ark.read(path)
            return AudioInfo(rate, samples.shape[1], len(samples))
        if ffmpeg.is_needed(path):
            return AudioInfo(*ffmpeg.probe(path))
        info = soundfile.info(path)
        return AudioInfo(int(info.samplerate), int(info.channels), _frames(info))
    except _REFUSALS as error:
        raise _unreadable(path, error) from None


def decode_audio(path: str | Path) -> AudioRange:
    """Decode all of a file at its own rate, keeping none of it; other threads go on meanwhile.

    Raises:
        AudioError: naming the file, where the decoder stops before the end.
        MissingDecoderError: as :func:`audio_info`.
    """
    path = _existing(path)
    try:
        if not is_native(path):
            return sample_range(_decode(path, audio_info(path).rate))
        with soundfile.SoundFile(path) as file:
            parts = [sample_range(block) for block in _blocks(file)]
    except _REFUSALS as error:
        raise _unreadable(path, error) from None
    if not parts:
        return AudioRange(0, 0.0, 0.0)
    # numpy's, because Python's min and max pass over a NaN
    low, high = np.min([part.low for part in parts]), np.max([part.high for part in parts])
    return AudioRange(sum(part.frames for part in parts), float(low), float(high))


def sample_range(samples: Samples) -> AudioRange:
    """The range of samples at hand, (T,) or (T, channels)."""
    if not samples.size:
        return AudioRange(0, 0.0, 0.0)
    return AudioRange(len(samples), float(samples.min()), float(samples.max()))


def _blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    """All that can be decoded, (T, channels) at a time (soundfile's ``blocks`` fills up what is missing at the end)."""
    buffer = np.empty((max(1, min(BLOCK, _frames(file))), file.channels), dtype=np.float32)
    while len(block := file.read(out=buffer)):
        yield block


def _frames(file: soundfile.SoundFile) -> int:
    """Samples of one channel that the head says, of an open file or its ``info``."""
    if file.frames >= UNKNOWN_LENGTH:
        raise OSError("its head does not say how long it is, as when it was written to a pipe")
    return int(file.frames)


def read_audio(path: str | Path, fs: int) -> Samples:
    """Read a whole file as one channel (the mean of all) at ``fs`` Hz.

    Returns:
        float32 (T,), T > 0, nominally within [-1, 1].

    Raises:
        AudioError: naming the file.
        MissingDecoderError: if it takes torchcodec or ffmpeg and there is neither.
    """
    (samples,) = read_spans(path, [(0.0, None)], fs)
    if not len(samples):
        raise AudioError(f"{path}: audio is empty")
    return samples


def read_spans(path: str | Path, spans: Sequence[tuple[float, float | None]], fs: int) -> Iterator[Samples]:
    """Read parts of one file, each as one channel at ``fs`` Hz; the file is opened (or decoded) once.

    Args:
        path: the file.
        spans: start and end in seconds; ``None`` is the end of the file. What lies outside the file is missing
            in the result.
        fs: sampling rate wanted, Hz.

    Raises:
        AudioError, MissingDecoderError: as :func:`read_audio`.
    """
    path = _existing(path)
    try:
        if not is_native(path):
            whole = _decode(path, fs)
            for start, end in spans:
                yield whole[round(start * fs) : None if end is None else round(end * fs)]
            return
        with soundfile.SoundFile(path) as file:
            _frames(file)
            for start, end in spans:
                yield resample(_read_span(file, start, end), file.samplerate, fs, path)
    except _REFUSALS as error:
        raise _unreadable(path, error) from None


def _read_span(file: soundfile.SoundFile, start: float, end: float | None) -> Samples:
    """One part at the file's own rate, as one channel."""
    rate = file.samplerate
    first = min(round(start * rate), file.frames)
    lead = min(first, round(LEAD * rate)) if file.format in ("MP3", "OGG") else 0
    file.seek(first - lead)
    frames = -1 if end is None else lead + max(0, round(end * rate) - first)
    channels: Samples = file.read(frames, dtype="float32", always_2d=True)
    mono: Samples = channels[lead:].mean(axis=1, dtype=np.float32)
    return mono


def resample(samples: Samples, rate: int, fs: int, path: str | Path = "") -> Samples:
    """Bring ``samples`` (T,) from ``rate`` to ``fs`` Hz; each pair of rates is logged once, naming ``path``."""
    if rate == fs or not len(samples):
        return samples
    import torch

    resampler = _resampler(rate, fs, str(path))
    result: Samples = resampler(torch.from_numpy(np.ascontiguousarray(samples))).numpy()
    return result


@lru_cache(maxsize=32)
def _kernel(rate: int, fs: int) -> torchaudio.transforms.Resample:
    """A filter long enough that nothing audible folds back (torchaudio's equivalent of "kaiser best")."""
    import torchaudio

    return torchaudio.transforms.Resample(
        rate,
        fs,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


_seen: set[tuple[int, int]] = set()


def _resampler(rate: int, fs: int, path: str) -> torchaudio.transforms.Resample:
    if (rate, fs) not in _seen:
        _seen.add((rate, fs))
        logging.info("audio at %d Hz is resampled to %d Hz (first: %s)", rate, fs, path or "an array")
    return _kernel(rate, fs)


def _decode(path: Path, fs: int) -> Samples:
    if ark.archive_of(path) is not None:
        rate, channels = ark.read(path)
        return resample(channels.mean(axis=1, dtype=np.float32), rate, fs, path)
    if not _is_g722(path):
        return ffmpeg.decode(path, fs)
    from espnet_gated.data import g722  # compiled by numba when first used

    samples: Samples = (g722.decode(path.read_bytes()) / 32768).astype(np.float32)
    return resample(samples, G722_RATE, fs, path)


def _is_g722(path: Path) -> bool:
    return path.suffix.lower() == G722_SUFFIX


def _existing(path: str | Path) -> Path:
    if not is_there(path):
        raise AudioError(f"{path}: no such audio file")
    return Path(path)


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = " ".join(str(error).split())
    return AudioError(f"{path}: unreadable audio ({reason})")
