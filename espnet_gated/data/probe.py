"""Look at audio files: can training, or decoding, use them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from espnet_gated.data.audio import AudioError, AudioInfo, audio_info, decode_audio, is_native, is_there
from espnet_gated.data.ffmpeg import MissingDecoderError

LENGTH_SLACK = 0.1  # seconds by which the head of a file without an exact length may be wrong


@dataclass(frozen=True)
class Fault:
    """Something wrong with a value, before it is known which line it stands in."""

    file: str
    kind: str
    message: str


@dataclass(frozen=True)
class _Length:
    """Samples of a good file at the rate wanted, and by how many ``utt2num_samples`` may differ."""

    samples: int
    slack: int


class _BadAudioError(Exception):
    """What is wrong with a file: kind and message."""


class AudioProbe:
    """Looks at audio files; a file that serves several utterances is opened once.

    Args:
        fs: sample rate wanted, in Hz.
        decode: decode every file to its end, which finds those that are damaged behind their heads, and silent ones.
            5,000 FLAC files of 1.8 s take 6.4 s of one core, where their heads alone take 1.6.
        any_format: take every format, rate and number of channels that :mod:`espnet_gated.data.audio` reads, which
            will do for decoding. Training reads through ESPnet's loader: what libsndfile knows, at ``fs``, one channel.
    """

    def __init__(self, fs: int, *, decode: bool = True, any_format: bool = False) -> None:
        self.fs = fs
        self.decode = decode
        self.any_format = any_format
        self._found: dict[str, _Length | Fault] = {}

    def look_at(self, wavs: Iterable[str], nj: int = 1, label: str = "audio") -> None:
        """Look at many files, ``nj`` at a time, so that :meth:`faults` answers at once; shows progress."""
        paths = [wav for wav in dict.fromkeys(wavs) if wav not in self._found]
        with ThreadPoolExecutor(max(1, nj)) as pool:
            found = tqdm(pool.map(self._look, paths), label, len(paths), unit="file", mininterval=1.0, delay=2.0)
            self._found.update(zip(paths, found, strict=True))

    def faults(self, wav: str, num_samples: int | None) -> Iterator[Fault]:
        """What is wrong with one audio path whose length should be ``num_samples`` (at ``fs`` Hz)."""
        if wav not in self._found:
            self._found[wav] = self._look(wav)
        found = self._found[wav]
        if isinstance(found, Fault):
            yield found
        elif num_samples is not None and abs(num_samples - found.samples) > found.slack:
            message = f"says {num_samples} samples, the audio has {found.samples} ({wav})"
            yield Fault("utt2num_samples", "samples", message)

    def _look(self, wav: str) -> _Length | Fault:
        try:
            return self._length(wav)
        except _BadAudioError as error:
            kind, message = error.args
            return Fault("wav.scp", kind, message)

    def _length(self, wav: str) -> _Length:
        """The length of a good file."""
        info = self._head(wav)
        exact = is_native(wav) and Path(wav).suffix.lower() != ".mp3"  # some mp3 files have no length in their heads
        slack = 0 if exact else round(LENGTH_SLACK * info.rate)
        frames = self._body(wav, info.frames, slack if is_native(wav) else None) if self.decode else info.frames
        if info.rate == self.fs:
            return _Length(frames, slack)
        return _Length(-(-frames * self.fs // info.rate), -(-slack * self.fs // info.rate) + 1)

    def _head(self, wav: str) -> AudioInfo:
        if wav.rstrip().endswith("|"):
            raise _BadAudioError("pipe", f"Kaldi pipes are not supported, write the audio to a file: {wav!r}")
        if not is_there(wav):
            raise _BadAudioError("missing-audio", f"audio file is missing: {wav}")
        if not self.any_format and not is_native(wav):
            message = f"training does not read {Path(wav).suffix}, only decoding does (--any_format true): {wav}"
            raise _BadAudioError("format", message)
        try:
            info = audio_info(wav)
        except (AudioError, MissingDecoderError) as error:
            raise _BadAudioError("unreadable-audio", str(error)) from None
        if not self.any_format and info.rate != self.fs:
            raise _BadAudioError("rate", f"sample rate is {info.rate} Hz, must be {self.fs}: {wav}")
        if not self.any_format and info.channels != 1:
            raise _BadAudioError("channels", f"has {info.channels} channels, must be 1: {wav}")
        if info.frames <= 0:
            raise _BadAudioError("no-samples", f"audio has no samples: {wav}")
        return info

    def _body(self, wav: str, frames: int, slack: int | None) -> int:
        """Number of samples decoded, which the head says to be ``frames``, give or take ``slack`` (None: any)."""
        try:
            body = decode_audio(wav)
        except (AudioError, MissingDecoderError) as error:
            raise _BadAudioError("damaged-audio", f"{error}, though its head says {frames} samples") from None
        if slack is not None and abs(body.frames - frames) > slack:
            message = f"its head says {frames} samples, {body.frames} can be decoded: {wav}"
            raise _BadAudioError("damaged-audio", message)
        if not body.is_finite:
            raise _BadAudioError("not-finite", f"audio holds samples that are no numbers: {wav}")
        if body.is_silent:
            raise _BadAudioError("silent", f"audio is silent from its beginning to its end: {wav}")
        return body.frames
