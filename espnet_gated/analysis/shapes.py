"""Models for the benchmark: a named shape with random weights, or a trained configuration with its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.tasks.s2t import S2TTask

from espnet_gated.model import gating_options

CONF_DIR = Path(__file__).parents[2] / "conf"
VOCABULARY = 50_002
"""Tokens of OWSM v3.1."""
_NEVER = -1e4


@dataclass(frozen=True)
class ModelFiles:
    """What ``Speech2Text`` loads: both configurations fit the one (dense or gated) checkpoint.

    ``language`` is a token of it that every utterance of the benchmark is said to be in; ``has_ctc``: it has a CTC
    layer.
    """

    dense_config: Path
    gated_config: Path
    checkpoint: Path
    language: str
    has_ctc: bool


def find_config(arch: str) -> Path:
    """The YAML of a named shape (``conf/<arch>.yaml``) or the given file.

    Raises:
        ValueError: if there is neither.
    """
    named = CONF_DIR / f"{arch}.yaml"
    for path in (named, Path(arch)):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in CONF_DIR.glob("owsm*.yaml"))) or "none"
    raise ValueError(f"{arch} is neither a shape in {CONF_DIR} ({known}) nor a configuration file (--arch)")


def token_list(size: int = VOCABULARY) -> list[str]:
    """A vocabulary of ``size`` with the special tokens that an S2T model needs."""
    special = ("<blank>", "<unk>", "<na>", "<nospeech>", "<eng>", "<asr>", "<notimestamps>", "<0.00>", "<30.00>")
    ends = ("<sos>", "<eos>", "<sop>")
    words = (f"▁{i}" for i in range(size - len(special) - len(ends)))
    return [*special, *words, *ends]


def dense_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same model without gates, in ESPnet's own classes."""
    dense = {**config, "model": "espnet"}
    for stack in ("encoder", "decoder"):
        dense[stack] = config[stack].removeprefix("gated_")
        dense[f"{stack}_conf"] = {k: v for k, v in config[f"{stack}_conf"].items() if k != "gating"}
    model_conf = config.get("model_conf") or {}
    dense["model_conf"] = {k: v for k, v in model_conf.items() if k not in gating_options()}
    return dense


def gated_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same model with gates (untrained ones where the configuration has none)."""
    gated = {**config, "model": "gated"}
    for stack in ("encoder", "decoder"):
        gated[stack] = f"gated_{config[stack].removeprefix('gated_')}"
    return gated


def write_models(
    arch: str, folder: Path, seed: int = 0, checkpoint: Path | None = None, vocabulary: int = VOCABULARY
) -> ModelFiles:
    """Write the configurations and a checkpoint that never ends a hypothesis by itself.

    Args:
        arch: name of a shape or path of a training configuration.
        folder: where to.
        seed: of the random weights.
        checkpoint: trained weights instead.
        vocabulary: tokens, where the configuration has no list.
    """
    config = S2TTask.get_default_config() | yaml.safe_load(find_config(arch).read_text(encoding="utf-8"))
    if config.get("token_list") is None:
        config |= {"token_list": token_list(vocabulary), "token_type": None, "bpemodel": None}
    if (config.get("normalize_conf") or {}).get("stats_file") is None:
        config |= {"normalize": None, "normalize_conf": {}}
    tokens = config["token_list"]
    # Without English: as in OWSM, and in the lists of bin/tokenize, the languages stand behind <nospeech>.
    language = "<eng>" if "<eng>" in tokens else tokens[tokens.index("<nospeech>") + 1]
    has_ctc = (config.get("model_conf") or {}).get("ctc_weight", 0.5) > 0  # ESPnet's default
    files = ModelFiles(folder / "dense.yaml", folder / "gated.yaml", folder / "model.pth", language, has_ctc)
    for path, content in ((files.dense_config, dense_config(config)), (files.gated_config, gated_config(config))):
        path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    if checkpoint is None:
        torch.manual_seed(seed)
        state = S2TTask.build_model_from_file(files.dense_config)[0].state_dict()
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # A fixed number of steps, whatever the weights: <eos> comes only where the search adds it.
    state["decoder.output_layer.bias"][tokens.index("<eos>")] = _NEVER
    torch.save(state, files.checkpoint)
    return files
