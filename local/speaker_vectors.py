"""Speaker vectors from the features themselves: long-term mean and standard deviation of log-mel spectra.

    python local/speaker_vectors.py dump/raw/train dump/raw/dev dump/raw/test

writes ``utt2speaker`` and ``speaker.ark`` into each data directory, from all the speech that it has of a speaker. A
model whose ``context`` declares ``speaker: {vector: 80}`` reads them (docs/contexts.md). The mean over time keeps the
shape of the voice and the channel and loses the words; loudness is taken out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find espnet_gated

from espnet_gated.data.audio import AudioError, read_audio  # noqa: E402
from espnet_gated.data.contexts import ContextFileError, Labels, write_vectors  # noqa: E402
from espnet_gated.data.ffmpeg import MissingDecoderError  # noqa: E402

FS = 16000


def log_mels(samples: np.ndarray, bins: int) -> np.ndarray:
    """Log-mel spectrum (T, bins) of speech (samples,) at 16 kHz; empty where it is shorter than a window."""
    wave = torch.from_numpy(np.ascontiguousarray(samples))[None]
    return torchaudio.compliance.kaldi.fbank(wave, num_mel_bins=bins, sample_frequency=FS).numpy()


def speaker_vector(spectra: Iterable[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation over all frames, each brought to mean 0 and variance 1 over the bins.

    Args:
        spectra: log-mel spectra (T, bins) of one speaker.

    Returns:
        (2 · bins,) float32
    """
    frames = np.concatenate(list(spectra)).astype(np.float64)
    parts = (frames.mean(0), frames.std(0))
    return np.concatenate([(part - part.mean()) / max(float(part.std()), 1e-6) for part in parts]).astype(np.float32)


def write_speaker_vectors(folder: Path, bins: int = 40) -> int:
    """Write the vectors of a data directory.

    Args:
        folder: data directory with ``wav.scp`` and ``utt2spk``.
        bins: of the mel filter bank; vectors have twice as many values.

    Returns:
        number of speakers.

    Raises:
        ContextFileError, AudioError: for a missing or unusable file.
    """
    wavs, speakers = Labels(folder / "wav.scp"), Labels(folder / "utt2spk")
    files: dict[str, set[str]] = {}
    for utt, wav in wavs.items():
        if utt in speakers:
            files.setdefault(speakers[utt], set()).add(wav)  # one audio file serves several tasks
    vectors = {}
    for speaker, paths in sorted(files.items()):
        spectra = [log_mels(read_audio(path, FS), bins) for path in sorted(paths)]
        if sum(map(len, spectra)) > 0:
            vectors[speaker] = speaker_vector(spectra)
    write_vectors(folder, "speaker", vectors, {utt: speakers[utt] for utt in wavs if utt in speakers})
    return len(vectors)


def main(cmd: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 1 and one clear line for bad input."""
    parser = argparse.ArgumentParser(description="Speaker vectors from log-mel spectra")
    parser.add_argument("data_dir", nargs="+", type=Path, help="data directories")
    parser.add_argument("--bins", type=int, default=40, help="mel bins; vectors have twice as many values")
    args = parser.parse_args(cmd)
    for folder in args.data_dir:
        try:
            number = write_speaker_vectors(folder, args.bins)
        except (ContextFileError, AudioError, MissingDecoderError) as error:
            print(f"speaker_vectors: {error}", file=sys.stderr)
            return 1
        print(f"{folder}: {number} speakers, {2 * args.bins} values each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
