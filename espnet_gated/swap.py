"""A training configuration out of a trained model's: the same model, fine-tuned as it is or with gates.

ESPnet's ``config.yaml`` of an experiment is no input of ``s2t_train``: it holds what the training found out
(``distributed``, ``version``, data and shape files), and lists of files given again are added to.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from espnet_gated.registry import DECODERS, ENCODERS

_PARTS = (
    "frontend",
    "specaug",
    "normalize",
    "preencoder",
    "encoder",
    "postencoder",
    "decoder",
    "model",
    "preprocessor",
)
_TEXT = ("token_type", "non_linguistic_symbols", "cleaner", "g2p")
_TAKEN = ("input_size", *_TEXT, "ctc_conf", *(name for part in _PARTS for name in (part, f"{part}_conf")))
_SUBSAMPLING = {"conv2d1": 1, "conv2d2": 2, "conv2d": 4, "conv2d6": 6, "conv2d8": 8}
_DEFAULT_TRAINING: dict[str, Any] = {  # of conf/owsm_v3.1_base.yaml
    "batch_type": "unsorted",
    "batch_size": 16,
    "valid_batch_size": 16,
    "accum_grad": 4,
    "max_epoch": 10,
    "grad_clip": 5.0,
    "use_amp": True,
    "optim": "adamw",
    "optim_conf": {"lr": 0.0001, "weight_decay": 0.000001},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 2000},
    "best_model_criterion": [["valid", "acc", "max"]],
    "keep_nbest_models": 3,
    "num_workers": 4,
    "seed": 1,
    "log_interval": 100,
    "num_att_plot": 0,
    "use_matplotlib": False,
}
_TOKENS = 50  # of a nominal text


def dense_training(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Options of ``s2t_train`` that go on with a model.

    Args:
        config: what its training left as ``config.yaml``.
        folder: where ``tokens.txt``, ``bpe.model`` and ``model.pth`` will lie.

    Raises:
        ValueError: for a model of another task than ``s2t``, or one that has gates already.
    """
    if config.get("promptencoder") or "promptencoder_conf" in config:
        raise ValueError("OWSM-CTC (ESPnet's task s2t_ctc) has no gated classes (--model)")
    if config.get("encoder") in ENCODERS or config.get("decoder") in DECODERS:
        raise ValueError("the model has gates already: go on with its own YAML and --init_param (--model)")
    taken = {name: copy.deepcopy(config[name]) for name in _TAKEN if name in config}
    if config.get("preprocessor", "s2t") == "s2t":
        # Texts are taken as they are written: to half of those that say <notimestamps>, ESPnet would add a second one.
        taken["preprocessor_conf"] = (taken.get("preprocessor_conf") or {}) | {"time_apply_prob": 1.0}
    files = {"token_list": "tokens.txt", "bpemodel": "bpe.model"}
    here = {name: str(folder / file) for name, file in files.items()} | {"init_param": [str(folder / "model.pth")]}
    return taken | here | copy.deepcopy(_DEFAULT_TRAINING)


def gated_training(dense: dict[str, Any]) -> dict[str, Any]:
    """The same with gates wherever a part has a gated twin: half of each to be skipped, by the published training.

    Raises:
        ValueError: if neither encoder nor decoder has one.
    """
    gated = copy.deepcopy(dense)
    memory = _frames(dense)
    steps = {"target_sparsity": 0.5, "anneal_steps": 16000, "warmup_steps": 8000}
    lengths = {"encoder": {"nominal_length": memory}, "decoder": {"nominal_length": _TOKENS, "nominal_memory": memory}}
    for part, twins in (("encoder", ENCODERS), ("decoder", DECODERS)):
        name = f"gated_{dense.get(part)}"
        if name in twins:
            gated[part] = name
            gated[f"{part}_conf"] = (dense.get(f"{part}_conf") or {}) | {"gating": steps | lengths[part]}
    if (gated.get("encoder"), gated.get("decoder")) == (dense.get("encoder"), dense.get("decoder")):
        known = ", ".join(name.removeprefix("gated_") for name in (*ENCODERS, *DECODERS))
        raise ValueError(
            f"neither encoder {dense.get('encoder')} nor decoder {dense.get('decoder')} has a gated twin (--model); "
            f"those with one are {known}"
        )
    gated["model"] = "gated"
    gated["model_conf"] = (dense.get("model_conf") or {}) | {
        "sparsity_weight": 10.0,
        "sparsity_warmup": 8000,
        "context": {"lang": "token", "task": "token"},
    }
    return gated


def _frames(config: dict[str, Any]) -> int:
    """Encoder frames of the window that utterances are padded to."""
    preprocessor, frontend, encoder = (
        config.get(f"{part}_conf") or {} for part in ("preprocessor", "frontend", "encoder")
    )
    seconds = preprocessor.get("speech_length", 30)
    factor = _SUBSAMPLING.get(encoder.get("input_layer", "conv2d"), 4)
    return max(1, round(seconds * _hertz(frontend.get("fs", 16000)) / frontend.get("hop_length", 128) / factor))


def _hertz(rate: int | str) -> float:
    """ESPnet writes ``16000`` or ``16k``."""
    text = str(rate)
    return float(text[:-1]) * 1000 if text.endswith("k") else float(text)


def training_yaml(options: dict[str, Any], what: str) -> str:
    """The options as a YAML file that says in its head what it is."""
    return f"# {what}\n" + yaml.safe_dump(options, sort_keys=False, allow_unicode=True, default_flow_style=None)
