"""Start from a public model: its checkpoint, with the tokens that belong to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PretrainedFiles:
    """What a recipe takes from a public model."""

    config: Path
    checkpoint: Path
    bpe_model: Path
    token_list: list[str]


def find_files(model: str) -> PretrainedFiles:
    """Find the files of a model.

    Args:
        model: a folder as published (with ``meta.yaml``) or of an experiment (``config.yaml`` and one ``.pth``), or a
            tag for the package ``espnet_model_zoo``.

    Raises:
        ValueError: for a folder without them, or a tag where the package is missing.
    """
    root = Path(model)
    if root.is_dir():
        config_file, checkpoint = _in_folder(root)
    else:
        config_file, checkpoint = _of_tag(model)
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    tokens = config.get("token_list")
    if isinstance(tokens, str):
        tokens = Path(tokens).read_text(encoding="utf-8").splitlines()
    if not tokens:
        raise ValueError(f"{config_file}: has no token_list (--model)")
    return PretrainedFiles(config_file, checkpoint, _bpe_model(root, config_file, config), tokens)


def model_files(folder: Path) -> dict[str, str]:
    """What ``Speech2Text`` takes of a folder: published or unpacked (with ``meta.yaml``), or of an experiment.

    Raises:
        ValueError: for a folder without configuration or checkpoint.
    """
    if (folder / "meta.yaml").is_file():
        found = find_files(str(folder))
        named = {"s2t_train_config": found.config, "s2t_model_file": found.checkpoint, "bpemodel": found.bpe_model}
        return {name: str(path) for name, path in named.items()}
    config = folder / "config.yaml"
    checkpoints = sorted(folder.glob("*.pth"), key=_rank)
    if not config.is_file() or not checkpoints:
        raise ValueError(f"{folder}: needs config.yaml and a .pth file (--model_tag)")
    return {"s2t_train_config": str(config), "s2t_model_file": str(checkpoints[0])}


def _rank(checkpoint: Path) -> tuple[bool, bool, bool, str]:
    """Of an experiment's checkpoints the lowest is taken: one that validation chose, and the best epoch first, as the
    recipes keep thresholds of the learned budget in it; then an average of epochs.
    """
    name = checkpoint.name
    return not name.startswith("valid."), not name.endswith(".best.pth"), "ave" not in name, name


def use_pretrained(model: str, output_dir: str | Path, langs: Iterable[str], tasks: Iterable[str]) -> PretrainedFiles:
    """Put ``bpe.model``, ``tokens.txt`` and a link ``model.pth`` into ``output_dir``.

    Args:
        model: see :func:`find_files`.
        output_dir: what ``s2t.sh --token_dir`` takes.
        langs, tasks: names without brackets that the model's token list must have.

    Raises:
        ValueError: for a model whose files are missing, or that does not know a language or task.
    """
    files = find_files(model)
    known = set(files.token_list)
    missing = [token for token in (f"<{name}>" for name in (*langs, *tasks)) if token not in known]
    if missing:
        raise ValueError(f"{model}: its token list has no {', '.join(missing)} (--langs, --tasks)")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    temp = output_dir / ".tokens.txt.tmp"
    temp.write_text("".join(f"{token}\n" for token in files.token_list), encoding="utf-8")
    os.replace(temp, output_dir / "tokens.txt")
    temp = output_dir / ".bpe.model.tmp"
    shutil.copyfile(files.bpe_model, temp)
    os.replace(temp, output_dir / "bpe.model")
    temp = output_dir / ".model.pth.tmp"
    temp.unlink(missing_ok=True)
    temp.symlink_to(files.checkpoint.resolve())
    os.replace(temp, output_dir / "model.pth")
    return files


def _in_folder(root: Path) -> tuple[Path, Path]:
    """Configuration and checkpoint."""
    meta = root / "meta.yaml"
    if meta.is_file():
        told = yaml.safe_load(meta.read_text(encoding="utf-8"))
        try:
            return root / told["yaml_files"]["s2t_train_config"], root / told["files"]["s2t_model_file"]
        except (KeyError, TypeError):
            raise ValueError(f"{meta}: names no s2t_train_config and s2t_model_file (--model)") from None
    checkpoints = sorted(root.glob("*.pth"))
    if not (root / "config.yaml").is_file() or len(checkpoints) != 1:
        raise ValueError(f"{root}: needs meta.yaml, or config.yaml and one .pth, found {len(checkpoints)} (--model)")
    return root / "config.yaml", checkpoints[0]


def _of_tag(tag: str) -> tuple[Path, Path]:
    try:
        from espnet_model_zoo.downloader import ModelDownloader
    except ImportError:
        raise ValueError(f"{tag} is no folder, and tags need the package espnet_model_zoo (--model)") from None
    files = ModelDownloader().download_and_unpack(tag)
    return Path(files["s2t_train_config"]), Path(files["s2t_model_file"])


def _bpe_model(root: Path, config_file: Path, config: dict[str, Any]) -> Path:
    """The sentencepiece model that the configuration names, wherever the folder was moved."""
    name = config.get("bpemodel")
    if not name:
        raise ValueError(f"{config_file}: names no bpemodel (--model)")
    for path in (root / name, Path(name), config_file.parent / Path(name).name):
        if path.is_file():
            return path
    raise ValueError(f"{config_file}: its bpemodel {name} is not there (--model)")
