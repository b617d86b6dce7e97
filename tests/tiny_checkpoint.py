"""Tiny S2T checkpoints on disk, as a recipe leaves them: configuration, weights, bpe model; and audio to decode."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from espnet2.tasks.s2t import S2TTask
from tiny import DECODER, ENCODER, nudge

from espnet_gated.data.tokenizer import SpecialTokens, train_tokenizer
from espnet_gated.registry import register

FS = 8000
SECONDS = 1.0
SPECIAL = SpecialTokens(langs=("deu", "eng", "ita"), tasks=("asr", "st_eng"), time_resolution=30.0)
GATING = {"hidden_units": 6, "target_sparsity": 0.5, "sparsity_unit": "modules"}  # any half of them is in the budget


@dataclass(frozen=True)
class Checkpoint:
    """Files of one model."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def weights(self) -> Path:
        return self.folder / "valid.acc.best.pth"

    @property
    def bpemodel(self) -> Path:
        return self.folder / "bpe.model"

    @property
    def tokens(self) -> list[str]:
        return (self.folder / "tokens.txt").read_text(encoding="utf-8").split()


def make_checkpoint(
    folder: Path,
    gated: bool,
    seed: int = 0,
    encoder_conf: dict | None = None,
    special: SpecialTokens = SPECIAL,
    gating: tuple[dict, dict] = ({}, {}),
    fs: int = FS,
    changes: dict | None = None,
) -> Checkpoint:
    """Write a checkpoint; a gated and a dense one of the same seed share their weights.

    ``gating``: more options for the gates of encoder and decoder. ``changes``: other values of the configuration.
    """
    register()
    files = Checkpoint(folder)
    tokens = train_tokenizer(["ab abc cab bad cad dab ba ca"], folder, 24 + len(special.times), special)
    config = S2TTask.get_default_config() | {
        "token_list": tokens,
        "token_type": "bpe",
        "bpemodel": str(files.bpemodel),
        "frontend": "default",
        "frontend_conf": {"fs": fs, "n_fft": 128, "win_length": 128, "hop_length": 80, "n_mels": 20},
        "specaug": None,
        "normalize": "utterance_mvn",
        "encoder": "gated_e_branchformer" if gated else "e_branchformer",
        "encoder_conf": {k: v for k, v in ENCODER.items() if k != "input_size"} | {"input_layer": "conv2d"},
        "decoder": "gated_transformer" if gated else "transformer",
        "decoder_conf": {k: v for k, v in DECODER.items() if k not in ("vocab_size", "encoder_output_size")},
        "model": "gated" if gated else "espnet",
        "model_conf": {"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
        "preprocessor_conf": {
            "fs": fs,
            "speech_length": SECONDS,
            "speech_resolution": 0.02,
            "notime_symbol": "<notimestamps>",
            "first_time_symbol": "<0.00>",
            "last_time_symbol": special.times[-1],
        },
    }
    config["encoder_conf"] |= encoder_conf or {}
    config |= changes or {}
    if gated:
        config["encoder_conf"]["gating"], config["decoder_conf"]["gating"] = (GATING | more for more in gating)
    files.config.write_text(yaml.safe_dump(_plain(config)), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = S2TTask.build_model(Namespace(**yaml.safe_load(files.config.read_text(encoding="utf-8"))))
    torch.save(_weights(model, seed), files.weights)
    return files


def _weights(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Weights that are the same with and without gates, and choosy predictors."""
    for name in ("encoder", "decoder"):
        if hasattr(getattr(model, name), "gate_predictor"):
            nudge(getattr(model, name).gate_predictor, seed)
    state = model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    for key, value in state.items():
        if "gate_predictor" in key or "frontend" in key:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            value.copy_(value.shape[-1] ** -0.5 * (3.0 if "output_layer" in key or "ctc_lo" in key else 1.0) * noise)
        elif key.endswith("bias"):
            value.copy_(0.3 * noise)
    if "decoder.output_layer.bias" in state:  # other decoders than Transformers name it otherwise
        state["decoder.output_layer.bias"][model.eos] += 2.0
    return state


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise with a moving tone in it."""
    t = np.arange(round(seconds * FS)) / FS
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.1 * noise + 0.3 * np.sin(2 * np.pi * (300 + 200 * seed) * t * (1 + t))).astype(np.float32)


def make_data_dir(folder: Path, seconds: dict[str, float] | None = None) -> Path:
    """A data directory of a few utterances in different languages and tasks."""
    folder.mkdir(parents=True)
    utts = {"a-asr": 0.5, "b-st_eng": 0.7, "c-asr": 0.4} if seconds is None else seconds
    tables: dict[str, list[str]] = {"wav.scp": [], "utt2lang": [], "utt2task": []}
    for number, (utt, length) in enumerate(utts.items()):
        soundfile.write(folder / f"{utt}.wav", wave(length, number), FS)
        tables["wav.scp"].append(f"{utt} {folder / utt}.wav")
        tables["utt2lang"].append(f"{utt} {('deu', 'ita', 'eng')[number % 3]}")
        tables["utt2task"].append(f"{utt} {utt.partition('-')[2]}")
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
