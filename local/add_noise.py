"""A noisy copy of a data directory: white noise at a level of its own in each audio file.

    python local/add_noise.py --in_dir data/test --out_dir data/test_noisy --audio_dir data/audio/noisy --snr 10 20

Utterances, texts and speakers are those of the directory; utterances that share an audio file share its noisy copy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script

from espnet_gated.data.audio import read_audio  # noqa: E402
from espnet_gated.data.datadir import Utterance, read_data_dir, write_data_dir  # noqa: E402
from local.manifests.cut import FS, write_audio  # noqa: E402

PEAK = 0.99
STAMP = "noise.json"

Samples = NDArray[np.float32]


def add_noise(samples: Samples, snr_db: float, seed: int) -> Samples:
    """Speech (T,) with white noise ``snr_db`` below its mean power; turned down where it would clip."""
    sigma = np.sqrt(np.mean(samples.astype(np.float64) ** 2)) * 10 ** (-snr_db / 20)
    noisy = samples + np.random.default_rng(seed).normal(0.0, sigma, len(samples))
    return (noisy * min(1.0, PEAK / max(np.abs(noisy).max(), PEAK))).astype(np.float32)


def noisy_copy(in_dir: Path, out_dir: Path, audio_dir: Path, snr: tuple[float, float], seed: int = 0) -> None:
    """Write ``out_dir``, and its audio into ``audio_dir``; an interrupted run goes on where it stopped.

    Args:
        in_dir: an ESPnet data directory.
        out_dir: the copy.
        audio_dir: where its wav files go (16 kHz), in a folder of their own.
        snr: least and greatest level of the speech over the noise, dB; each file's is drawn between them.
        seed: of levels and noise; a file's name decides its own, so that a subset has the same noise.

    Raises:
        ValueError: for ``snr`` in the wrong order.
        DataDirError: for a broken directory, naming file, line and utterance.
        AudioError: for audio that cannot be read.
    """
    if snr[0] > snr[1]:
        raise ValueError(f"snr must be the least and the greatest level, got {snr[0]:g} and {snr[1]:g} (--snr)")
    utts = read_data_dir(in_dir)
    files = list(dict.fromkeys(utt.wav for utt in utts))
    mark = {"of": str(in_dir.resolve()), "snr": list(snr), "seed": seed, "files": fingerprint(files)}
    stamp = out_dir / STAMP
    copies = dict(zip(files, _paths(files, audio_dir.resolve() / fingerprint(mark)), strict=True))
    done = stamp.is_file() and stamp.read_text(encoding="utf-8") == _text(mark)
    if done and all(copy.is_file() for copy in copies.values()):
        print(f"{out_dir}: already prepared ({STAMP}), nothing to do")
        return
    stamp.unlink(missing_ok=True)
    for file, copy in tqdm(copies.items(), desc="noise", unit="file", mininterval=1.0):
        if not copy.is_file():
            rng = random.Random(f"{seed} {Path(file).name} {Path(file).parent.name}")
            write_audio(copy, add_noise(read_audio(file, FS), rng.uniform(*snr), rng.getrandbits(31)), "wav")
    write_data_dir(out_dir, _moved(utts, copies))
    stamp.write_text(_text(mark), encoding="utf-8")
    print(f"{out_dir}: {len(utts)} utterances, {len(files)} files, {snr[0]:g} to {snr[1]:g} dB over white noise")


def fingerprint(what: object) -> str:
    """A short hash."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def _text(mark: dict[str, object]) -> str:
    return json.dumps(mark, indent=2) + "\n"


def _paths(files: list[str], folder: Path) -> Iterator[Path]:
    """Numbered: files of one name may lie in several folders."""
    return (folder / f"{number:06d}-{Path(file).stem}.wav" for number, file in enumerate(files))


def _moved(utts: list[Utterance], copies: dict[str, Path]) -> Iterator[Utterance]:
    for utt in utts:
        copy = copies[utt.wav]
        yield replace(utt, wav=str(copy), num_samples=soundfile.info(copy).frames)


def main() -> None:
    """Command line of :func:`noisy_copy`; one clear line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--in_dir", type=Path, required=True, help="data directory to copy")
    parser.add_argument("--out_dir", type=Path, required=True, help="the copy")
    parser.add_argument("--audio_dir", type=Path, required=True, help="where its wav files go")
    parser.add_argument("--snr", type=float, nargs=2, default=(10.0, 20.0), help="least and greatest, dB")
    parser.add_argument("--seed", type=int, default=0, help="of levels and noise")
    args = parser.parse_args()
    try:
        noisy_copy(args.in_dir, args.out_dir, args.audio_dir, tuple(args.snr), args.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"add_noise: {error}")


if __name__ == "__main__":
    main()
