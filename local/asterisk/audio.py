"""Read the formats of the prompts and keep them as 16 kHz FLAC."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from espnet_gated.data import g722

SAMPLE_RATE = 16000
TELEPHONE_RATE = 8000
SUFFIXES = (".g722", ".wav", ".gsm")


class AudioError(ValueError):
    """A sound file that cannot be read."""


def read_16k(file: Path) -> NDArray[np.int16]:
    """Read raw G.722, raw GSM 06.10 or WAV as 16 kHz mono.

    Returns:
        Samples, shape (T,). What was recorded at 8 kHz is resampled and has nothing above 4 kHz.

    Raises:
        AudioError: naming the file.
    """
    if file.suffix == ".g722":
        return g722.decode(file.read_bytes())
    raw = {"format": "RAW", "subtype": "GSM610", "samplerate": TELEPHONE_RATE, "channels": 1}
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True, **(raw if file.suffix == ".gsm" else {}))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{file}: cannot be read: {error}") from error
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        common = math.gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // common, rate // common)
    scaled: NDArray[np.float32] = np.rint(mono * 32768).clip(-32768, 32767)
    return scaled.astype(np.int16)


def cache_16k(source: Path, flac: Path) -> int:
    """Write ``source`` as 16 kHz FLAC to ``flac``, unless it is there.

    Returns:
        Its length in samples; 0 for a file without sound, which is not written.
    """
    if flac.is_file():
        return int(soundfile.info(flac).frames)
    samples = read_16k(source)
    if not len(samples):
        return 0
    flac.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=flac.parent, prefix=".new-", suffix=".flac")
    os.close(handle)
    try:
        soundfile.write(temp, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        os.chmod(temp, 0o644)
        os.replace(temp, flac)
    finally:
        Path(temp).unlink(missing_ok=True)
    return len(samples)
