"""Audio inside Kaldi archives, where ``wav.scp`` says ``file.ark:offset``: ESPnet's ``--audio_format flac.ark``."""

from __future__ import annotations

import re
from pathlib import Path

import kaldiio
import numpy as np
from numpy.typing import NDArray

_PLACE = re.compile(r"(.+\.ark):\d+", re.DOTALL)


def archive_of(path: str | Path) -> Path | None:
    """The archive of ``file.ark:offset``; ``None`` for a file of its own."""
    match = _PLACE.fullmatch(str(path))
    return None if match is None else Path(match.group(1))


def read(path: str | Path) -> tuple[int, NDArray[np.float32]]:
    """Rate in Hz and samples (T, channels) of ``file.ark:offset``, nominally within [-1, 1].

    Raises:
        OSError: where no audio begins at that place.
    """
    try:
        rate, samples = kaldiio.load_mat(str(path))
        samples = np.asarray(samples)
        rate = int(rate)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise OSError(f"no audio begins there: {error}" if str(error) else "no audio begins there") from None
    if samples.dtype.kind == "i":
        samples = samples / (np.iinfo(samples.dtype).max + 1.0)
    return rate, samples.reshape(len(samples), -1).astype(np.float32)
