"""Decode recordings of minutes: all prompts that one speaker reads in a set, in a row, as one recording.

    python -m local.asterisk.long_recording --data_dir data/test --exp_dir exp/s2t_gated --sparsities 0 0,0.5

With the repository's root on PYTHONPATH. Each recording is decoded by ``Speech2Text.decode_long``, which cuts it at
pauses and decides the gates of each window; the table says how many of the words and of the prompts' beginnings were
found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_gated import Speech2Text
from espnet_gated.analysis.metrics import error_rate
from espnet_gated.analysis.table import markdown_table
from espnet_gated.data.audio import read_audio
from espnet_gated.data.datadir import DataDirError, Utterance, read_data_dir

PAUSE_SECONDS = 0.8
NEAR_SECONDS = 0.25  # a window that begins so near to a prompt has found it
HEADER = ("speaker", "minutes", "prompts", "sparsity", "skipped enc/dec", "WER %", "windows", "beginnings found", "RTF")
FS = 16000


@dataclass(frozen=True)
class Recording:
    """Prompts in a row: (T,) samples at 16 kHz, and start (seconds) and text of each prompt."""

    speaker: str
    lang: str
    samples: NDArray[np.float32]
    starts: Sequence[float]
    texts: Sequence[str]


def join(utts: Iterable[Utterance], pause: float = PAUSE_SECONDS) -> list[Recording]:
    """One recording of each speaker, out of the utterances for recognition, in the order of their names."""
    of_speaker = defaultdict(list)
    for utt in sorted(utts, key=lambda utt: utt.utt_id):
        if utt.task == "asr":
            of_speaker[utt.spk].append(utt)
    silence = np.zeros(round(pause * FS), dtype=np.float32)
    recordings = []
    for spk, own in of_speaker.items():
        pieces = [read_audio(utt.wav, FS) for utt in own]
        starts = np.cumsum([0, *(len(piece) + len(silence) for piece in pieces[:-1])]) / FS
        samples = np.concatenate([part for piece in pieces for part in (piece, silence)])
        recordings.append(Recording(spk, own[0].lang, samples, starts.tolist(), [utt.text for utt in own]))
    return recordings


def beginnings_found(starts: Sequence[float], windows: Sequence[float], near: float = NEAR_SECONDS) -> int:
    """How many prompts have a window that begins within ``near`` seconds of theirs."""
    return sum(any(abs(start - window) <= near for window in windows) for start in starts)


def decode(model: Any, recording: Recording) -> list[str]:
    """Decode one recording; the cells of its row under ``HEADER``."""
    began = time.perf_counter()
    segments = model.decode_long(recording.samples, lang_sym=f"<{recording.lang}>", task_sym="<asr>")
    spent = time.perf_counter() - began
    if any(later[0] < earlier[1] - 1e-6 for earlier, later in pairwise(segments)):
        raise RuntimeError(f"windows of {recording.speaker} overlap")
    score = error_rate([" ".join(recording.texts)], [" ".join(text for _, _, text in segments)])
    skipped = [np.mean([row.skipped.get(stack, 0.0) for row in model.stats]) for stack in ("encoder", "decoder")]
    seconds = len(recording.samples) / FS
    found = beginnings_found(recording.starts, [start for start, _, _ in segments])
    return [
        *(recording.speaker, f"{seconds / 60:.1f}", str(len(recording.starts)), ""),
        *("/".join(f"{share:.2f}" for share in skipped), f"{score.value:.1f}", str(len(segments))),
        *(f"{found} of {len(recording.starts)}", f"{spent / seconds:.3f}"),
    ]


def get_parser() -> argparse.ArgumentParser:
    """Arguments of :func:`main`."""
    parser = argparse.ArgumentParser(description="Decode all prompts of a speaker as one recording")
    parser.add_argument("--data_dir", required=True, help="data directory, such as data/test")
    parser.add_argument("--exp_dir", type=Path, required=True, help="with config.yaml and the checkpoint")
    parser.add_argument("--model_file", default="valid.acc.best.pth", help="in exp_dir")
    parser.add_argument("--sparsities", nargs="+", default=["0"], help="each one number, or encoder,decoder")
    parser.add_argument("--ctc_weight", type=float, default=0.3)
    parser.add_argument("--beam_size", type=int, default=3)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; one line and 1 for bad input."""
    args = get_parser().parse_args(arguments)
    rows = []
    try:
        recordings = join(read_data_dir(args.data_dir))
        for sparsity in args.sparsities:
            model = Speech2Text(
                args.exp_dir / "config.yaml",
                args.exp_dir / args.model_file,
                beam_size=args.beam_size,
                ctc_weight=args.ctc_weight,
                sparsity=sparsity,
            )
            for recording in recordings:
                row = decode(model, recording)
                row[HEADER.index("sparsity")] = sparsity
                rows.append(row)
    except (DataDirError, OSError, ValueError) as error:
        print(f"long_recording: {error}", file=sys.stderr)
        return 1
    print(markdown_table(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
