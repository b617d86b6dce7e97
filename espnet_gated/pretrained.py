"""Start from a public model: its checkpoint, with the tokens that belong to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from espnet_gated.swap import dense_training, gated_training, training_yaml


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
        model: a folder as published (with ``meta.yaml``) or of an experiment (``config.yaml`` and checkpoints, of which
            :func:`_rank` chooses), or a tag for the package ``espnet_model_zoo``.

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
        tokens = _named(config_file, "token_list", tokens).read_text(encoding="utf-8").splitlines()
    if not tokens:
        raise ValueError(f"{config_file}: has no token_list (--model)")
    return PretrainedFiles(config_file, checkpoint, _named(config_file, "bpemodel", config.get("bpemodel")), tokens)


def model_files(folder: Path) -> dict[str, str]:
    """What ``Speech2Text`` takes of a folder: published or unpacked (with ``meta.yaml``), or of an experiment.

    Raises:
        ValueError: for a folder without configuration or checkpoint.
    """
    if (folder / "meta.yaml").is_file():
        found = find_files(str(folder))
        named = {"s2t_train_config": found.config, "s2t_model_file": found.checkpoint, "bpemodel": found.bpe_model}
        return {name: str(path) for name, path in named.items()}
    config, checkpoint = _of_experiment(folder, "--model_tag")
    return {"s2t_train_config": str(config), "s2t_model_file": str(checkpoint)}


@contextmanager
def readable_config(config_file: str | Path) -> Iterator[Path]:
    """The configuration, or a copy that names the statistics of ``global_mvn`` where they lie now.

    A packed or published model names them from its own folder, and ESPnet looks from the working directory.

    Raises:
        ValueError: for statistics that are not there.
    """
    config_file = Path(config_file)
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    stats = (config.get("normalize_conf") or {}).get("stats_file")
    if config.get("normalize") != "global_mvn" or stats is None or Path(stats).is_file():
        yield config_file
        return
    config["normalize_conf"]["stats_file"] = str(_named(config_file, "normalize_conf stats_file", stats).resolve())
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config.yaml"
        copy.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        yield copy


def _rank(checkpoint: Path) -> tuple[bool, bool, bool, str]:
    """Of an experiment's checkpoints the lowest is taken: one that validation chose, and the best epoch first, as the
    recipes keep thresholds of the learned budget in it; then an average of epochs.
    """
    name = checkpoint.name
    return not name.startswith("valid."), not name.endswith(".best.pth"), "ave" not in name, name


def use_pretrained(model: str, output_dir: str | Path, langs: Iterable[str], tasks: Iterable[str]) -> PretrainedFiles:
    """Put what a training needs into ``output_dir``: tokens, a link to the checkpoint, and YAML of this very model.

    ``bpe.model``, ``tokens.txt``, ``model.pth``, ``train_dense.yaml`` and ``train_gated.yaml``.

    Args:
        model: see :func:`find_files`.
        output_dir: what ``s2t.sh --token_dir`` takes.
        langs, tasks: names without brackets that the model's token list must have.

    Raises:
        ValueError: for a model whose files are missing, that does not know a language or task, or that has nothing
            with a gated twin.
    """
    files = find_files(model)
    known = set(files.token_list)
    missing = [token for token in (f"<{name}>" for name in (*langs, *tasks)) if token not in known]
    if missing:
        raise ValueError(f"{model}: its token list has no {', '.join(missing)} (--langs, --tasks)")
    output_dir = Path(output_dir)
    config = yaml.safe_load(files.config.read_text(encoding="utf-8"))
    dense = dense_training(config, output_dir.resolve())
    stats = (dense.get("normalize_conf") or {}).get("stats_file")
    if stats is not None:
        dense["normalize_conf"]["stats_file"] = str(_named(files.config, "normalize_conf stats_file", stats).resolve())
    made_of = f"of {files.config}"
    texts = {
        "tokens.txt": "".join(f"{token}\n" for token in files.token_list),
        "train_dense.yaml": training_yaml(dense, f"Dense fine-tuning {made_of}."),
        "train_gated.yaml": training_yaml(gated_training(dense), f"Fine-tuning with gates {made_of}."),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        temp = output_dir / f".{name}.tmp"
        temp.write_text(text, encoding="utf-8")
        os.replace(temp, output_dir / name)
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
    return _of_experiment(root, "--model")


def _of_experiment(folder: Path, option: str) -> tuple[Path, Path]:
    """Configuration and the checkpoint that :func:`_rank` prefers."""
    config, checkpoints = folder / "config.yaml", sorted(folder.glob("*.pth"), key=_rank)
    if not config.is_file() or not checkpoints:
        raise ValueError(f"{folder}: needs config.yaml and a .pth file, or the meta.yaml of a packed model ({option})")
    return config, checkpoints[0]


def _of_tag(tag: str) -> tuple[Path, Path]:
    try:
        from espnet_model_zoo.downloader import ModelDownloader
    except ImportError:
        raise ValueError(f"{tag} is no folder, and tags need the package espnet_model_zoo (--model)") from None
    files = ModelDownloader().download_and_unpack(tag)
    return Path(files["s2t_train_config"]), Path(files["s2t_model_file"])


def _named(config_file: Path, option: str, name: str | None) -> Path:
    """A file that a configuration names, wherever its folder was moved: from here, a folder above it, or beside it."""
    if not name:
        raise ValueError(f"{config_file}: names no {option} (--model)")
    # Downloads of the Hugging Face hub are folders of links into a cache that has other names.
    folders = dict.fromkeys([*config_file.absolute().parents, *config_file.resolve().parents])
    for path in (Path(name), *(folder / name for folder in folders)):
        if path.is_file():
            return path
    if (beside := config_file.parent / Path(name).name).is_file():
        return beside
    raise ValueError(f"{config_file}: its {option} {name} is not there (--model)")
