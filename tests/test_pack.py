"""``espnet2.bin.pack``: a packed gated model unpacks elsewhere and decodes, with its gates."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from espnet2.bin.pack import main as pack
from espnet2.main_funcs.pack_funcs import unpack
from tiny_checkpoint import wave

from espnet_gated import Speech2Text
from espnet_gated.inference.request import Request

REQUEST = Request(wave(0.5), "<deu>", "<asr>")


@pytest.mark.parametrize(
    ("archive", "unpack_it"),
    [
        ("model.zip", unpack),
        ("model.tar.gz", unpack),
        ("model.zip", shutil.unpack_archive),
    ],  # ESPnet's changes the YAML
)
def test_a_packed_model_unpacks_and_decodes(gated_checkpoint, tmp_path, monkeypatch, archive, unpack_it):
    recipe = tmp_path / "recipe"
    shutil.copytree(gated_checkpoint.folder, recipe)
    config = yaml.safe_load((recipe / "config.yaml").read_text(encoding="utf-8")) | {"bpemodel": "bpe.model"}
    config |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": "stats/feats_stats.npz"}}
    (recipe / "stats").mkdir()
    np.savez(recipe / "stats" / "feats_stats.npz", count=10, sum=np.ones(20), sum_square=np.full(20, 20.0))
    (recipe / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.chdir(recipe)
    weights = torch.load(gated_checkpoint.weights, weights_only=True)
    mean, std = np.ones(20) / 10, np.sqrt(2.0 - 0.01) * np.ones(20)
    torch.save(weights | {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}, "global.pth")
    pack(
        ["s2t", "--s2t_train_config", "config.yaml", "--s2t_model_file", "global.pth"]
        + ["--option", "bpe.model", "--option", "stats/feats_stats.npz", "--outpath", str(tmp_path / archive)]
    )
    options = {"beam_size": 3, "sparsity": 0.5}
    original = Speech2Text("config.yaml", "global.pth", **options)
    (expected,) = original.decode_batch([REQUEST])
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(recipe)
    unpack_it(tmp_path / archive, tmp_path / "unpacked")

    unpacked = Speech2Text.from_pretrained(str(tmp_path / "unpacked"), **options)
    (found,) = unpacked.decode_batch([REQUEST])
    assert found[0][:4] == expected[0][:4]
    assert unpacked.stats[0].gates == original.stats[0].gates
    assert unpacked.stats[0].skipped["encoder"] >= 0.5 - 1e-6


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs config.yaml and a .pth file, or .* \(--model_tag\)"):
        Speech2Text.from_pretrained(str(tmp_path))
