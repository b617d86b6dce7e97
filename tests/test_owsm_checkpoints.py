"""OWSM v3.1: the published shapes, the files' layout, and a full-size checkpoint in the gated model.

The public checkpoints are hundreds of megabytes and not at hand here: files of the same names, shapes and places hold
random numbers.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.s2t import S2TTask
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_gated.model import gating_options
from espnet_gated.pretrained import use_pretrained
from espnet_gated.registry import register
from espnet_gated.twin import load_weights

CONF = Path(__file__).resolve().parents[1] / "conf"
MILLIONS = {"base": 101, "small": 367, "medium": 1020}  # parameters, as published
VOCABULARY = 50002
EXPERIMENT = "exp/s2t_train_s2t_ebf_conv2d_size384_raw_bpe50000"
CHECKPOINT = f"{EXPERIMENT}/valid.total_count.ave_5best.till45epoch.pth"
STATS = "exp/s2t_stats_raw_bpe50000/train/feats_stats.npz"
BPE = "data/token_list/bpe_unigram50000/bpe.model"


def tokens() -> list[str]:
    """As many as the public models have, with those that the code looks for at their ends."""
    special = ["<na>", "<nospeech>", "<deu>", "<fra>", "<ita>", "<asr>", "<st_eng>", "<notimestamps>"]
    times = [f"<{0.02 * i:.2f}>" for i in range(1501)]
    words = [f"▁{i}" for i in range(VOCABULARY - len(special) - len(times) - 5)]
    return ["<blank>", "<unk>", *special, *times, *words, "<sos>", "<eos>", "<sop>"]


def config_of(size: str, gated: bool, stats: Path) -> dict[str, Any]:
    """The shared YAML, or the same model in ESPnet's own names."""
    config = yaml.safe_load((CONF / f"owsm_v3.1_{size}.yaml").read_text(encoding="utf-8"))
    config |= {"token_list": tokens(), "normalize_conf": {"stats_file": str(stats)}}
    if not gated:
        for part in ("encoder", "decoder"):
            config[part] = config[part].removeprefix("gated_")
            config[f"{part}_conf"].pop("gating")
        config["model"] = "espnet"
        for name in gating_options():
            config["model_conf"].pop(name, None)
    return config


def build(config: dict[str, Any], device: str = "meta") -> torch.nn.Module:
    """A model; on the device ``meta`` it has shapes and no numbers."""
    register()
    with torch.device(device):
        return S2TTask.build_model(Namespace(**S2TTask.get_default_config() | config))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it, of the base model; paths in its configuration are relative to it."""
    root = tmp_path_factory.mktemp("owsm_v3.1_ebf_base")
    for name in (CHECKPOINT, STATS, BPE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    np.savez(root / STATS, count=10, sum=np.ones(80), sum_square=np.full(80, 20.0))
    (root / BPE).write_bytes(b"pieces")
    config = config_of("base", gated=False, stats=root / STATS)
    shapes = build(config).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in shapes.items()}
    torch.save({k: v.to(shapes[k].dtype) for k, v in state.items()}, root / CHECKPOINT)
    config |= {"bpemodel": BPE, "normalize_conf": {"stats_file": STATS}}
    (root / EXPERIMENT / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = {
        "files": {"s2t_model_file": CHECKPOINT},
        "yaml_files": {"s2t_train_config": f"{EXPERIMENT}/config.yaml"},
    }
    (root / "meta.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return root


@pytest.mark.parametrize("size", MILLIONS)
def test_the_gated_shape_is_the_published_one(size: str, hub: Path) -> None:
    """The number of parameters; names and shapes are ESPnet's, and only gates are new."""
    dense, gated = (build(config_of(size, g, hub / STATS)).state_dict() for g in (False, True))
    count = sum(value.numel() for value in dense.values())
    assert count / 1e6 == pytest.approx(MILLIONS[size], rel=0.02)
    assert {name: gated[name].shape for name in dense} == {name: value.shape for name, value in dense.items()}
    new = set(gated) - set(dense)
    assert new and all(name.split(".")[1] == "gate_predictor" for name in new)
    assert sum(gated[name].numel() for name in new) <= 0.01 * count


@torch.no_grad()
def test_a_full_size_checkpoint_starts_a_gated_model(hub: Path, tmp_path: Path) -> None:
    """``init_param`` takes every number of the file; with open gates the model is ESPnet's."""
    files = use_pretrained(str(hub), tmp_path, ["deu", "fra", "ita"], ["asr", "st_eng"])
    assert files.token_list == tokens() and (tmp_path / "bpe.model").read_bytes() == b"pieces"
    dense, gated = (build(config_of("base", g, hub / STATS), "cpu").eval() for g in (False, True))
    load_pretrained_model(str(tmp_path / "model.pth"), gated, ignore_init_mismatch=False)
    stored = torch.load(files.checkpoint, weights_only=True)
    loaded = gated.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    load_weights(dense, str(files.checkpoint))

    gated.set_sparsity(0.0, 0.0)
    features, lengths = torch.randn(1, 60, 80, generator=torch.Generator().manual_seed(1)), torch.tensor([60])
    outputs = [model.encoder(features, lengths)[0] for model in (dense, gated)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0.0, atol=1e-5)
    ys, ys_lengths = torch.tensor([[50000, 4, 7, 9, 1600]]), torch.tensor([5])
    memory = outputs[0], torch.tensor([outputs[0].size(1)])
    scores = [model.decoder(*memory, ys, ys_lengths)[0] for model in (dense, gated)]
    torch.testing.assert_close(scores[1], scores[0], rtol=0.0, atol=1e-4)
    gated.set_sparsity(0.5, 0.5)
    gated.encoder(features, lengths)
    assert float(gated.encoder.gate_predictor.last.skipped()) >= 0.5 - 1e-6
