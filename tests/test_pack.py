"""``espnet2.bin.pack``: a packed gated model unpacks elsewhere and decodes, with its gates."""

import shutil

import pytest
import yaml
from espnet2.bin.pack import main as pack
from espnet2.main_funcs.pack_funcs import unpack
from tiny_checkpoint import wave

from espnet_gated import Speech2Text
from espnet_gated.inference.request import Request

REQUEST = Request(wave(0.5), "<deu>", "<asr>")


@pytest.mark.parametrize("archive", ["model.zip", "model.tar.gz"])
def test_a_packed_model_unpacks_and_decodes(gated_checkpoint, tmp_path, monkeypatch, archive):
    recipe = tmp_path / "recipe"
    shutil.copytree(gated_checkpoint.folder, recipe)
    config = yaml.safe_load((recipe / "config.yaml").read_text(encoding="utf-8"))
    (recipe / "config.yaml").write_text(yaml.safe_dump(config | {"bpemodel": "bpe.model"}), encoding="utf-8")
    monkeypatch.chdir(recipe)
    weights = gated_checkpoint.weights.name
    pack(
        ["s2t", "--s2t_train_config", "config.yaml", "--s2t_model_file", weights]
        + ["--option", "bpe.model", "--outpath", str(tmp_path / archive)]
    )
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(recipe)
    unpack(tmp_path / archive, tmp_path / "unpacked")

    options = {"beam_size": 3, "sparsity": 0.5}
    original = Speech2Text(str(gated_checkpoint.config), str(gated_checkpoint.weights), **options)
    unpacked = Speech2Text.from_pretrained(str(tmp_path / "unpacked"), **options)
    (expected,), (found,) = original.decode_batch([REQUEST]), unpacked.decode_batch([REQUEST])
    assert found[0][:4] == expected[0][:4]
    assert unpacked.stats[0].gates == original.stats[0].gates
    assert unpacked.stats[0].skipped["encoder"] >= 0.5 - 1e-6


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs config.yaml and a .pth file \(--model_tag\)"):
        Speech2Text.from_pretrained(str(tmp_path))
