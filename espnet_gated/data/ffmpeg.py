"""Decode what libsndfile cannot (AAC in m4a and mp4, webm, ...) with torchcodec or the program ffmpeg.

Looked for in this order: torchcodec (needs FFmpeg's libraries), ``ffmpeg`` on the PATH, the program that the package
imageio-ffmpeg brings.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset((".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mkv", ".mka", ".wma", ".ac3", ".amr", ".3gp", ".mov"))
INSTALL = "pip install imageio-ffmpeg, or install ffmpeg, or torchcodec together with FFmpeg's libraries"

_DURATION = re.compile(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)")
_WAV_HEAD = struct.Struct("<12x4s4xHHI")  # after RIFF, size, WAVE: "fmt ", its size, format, channels, rate


class DecodeError(RuntimeError):
    """A file that the decoder refuses."""


class MissingDecoderError(RuntimeError):
    """No program or library here decodes the format; the message says what to install."""


def is_needed(path: Path) -> bool:
    """Whether a file is of a format that libsndfile does not read, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def probe(path: Path) -> tuple[int, int, int]:
    """Rate (Hz), channels and samples of one channel, as the head of the file says (to 10 ms with the program ffmpeg).

    Where the head says nothing, the file is decoded.

    Raises:
        DecodeError: for a file without audio.
        MissingDecoderError: if there is no decoder.
    """
    decoder = _torchcodec_decoder()
    if decoder is not None:
        data = _opened(decoder, path).metadata
        rate, seconds = int(data.sample_rate), data.duration_seconds
        return rate, int(data.num_channels), len(decode(path, rate)) if seconds is None else round(seconds * rate)
    # no sound, only the head of a wav, which has the number of channels: ffmpeg speaks of layouts, by many names
    command = [_program(path), "-hide_banner", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    command += ["-t", "0", "-f", "wav", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    said = done.stderr.decode("utf-8", errors="replace")
    duration = _DURATION.search(said)
    if done.returncode != 0 or len(done.stdout) < _WAV_HEAD.size:
        raise DecodeError(_last_line(said) or "no audio in it")
    _, _, channels, rate = _WAV_HEAD.unpack_from(done.stdout)
    if duration is None:  # written while it was recorded, as browsers do: what is in it has to be counted
        return rate, channels, len(decode(path, rate))
    hours, minutes, seconds = map(float, duration.groups())
    return rate, channels, round((3600 * hours + 60 * minutes + seconds) * rate)


def decode(path: Path, fs: int) -> NDArray[np.float32]:
    """Decode a whole file to one channel at ``fs`` Hz, float32 (T,).

    Raises:
        DecodeError: for a file without audio, or cut short in its head.
        MissingDecoderError: if there is no decoder.
    """
    decoder = _torchcodec_decoder()
    if decoder is not None:
        try:
            data = _opened(decoder, path, sample_rate=fs, num_channels=1).get_all_samples().data
        except (RuntimeError, ValueError) as error:
            raise DecodeError(str(error)) from None
        samples: NDArray[np.float32] = data[0].numpy()
        return samples
    command = [_program(path), "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    command += ["-ac", "1", "-ar", str(fs), "-f", "f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise DecodeError(_last_line(done.stderr.decode("utf-8", errors="replace")) or "no audio in it")
    return np.frombuffer(done.stdout, dtype="<f4").copy()


def _opened(decoder: Any, path: Path, **options: int) -> Any:
    try:
        return decoder(str(path), **options)
    except (RuntimeError, ValueError) as error:
        raise DecodeError(str(error)) from None


@lru_cache(maxsize=1)
def _torchcodec_decoder() -> Any:
    """torchcodec's ``AudioDecoder``, or ``None`` where it is not installed or finds no FFmpeg libraries."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return AudioDecoder


def _program(path: Path) -> str:
    found = find_program()
    if found is None:
        raise MissingDecoderError(f"{path}: {path.suffix} needs torchcodec or ffmpeg, and neither is here: {INSTALL}")
    return found


@lru_cache(maxsize=1)
def find_program() -> str | None:
    """The program ffmpeg, or ``None``."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
