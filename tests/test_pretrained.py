"""Starting from a public model: its files are found, and its tokens must do."""

import pytest
import yaml

from espnet_gated.bin.use_pretrained import main
from espnet_gated.pretrained import model_files

TOKENS = ["<blank>", "<unk>", "<deu>", "<asr>", "<st_eng>", "▁a", "<sos>", "<eos>"]


def published(root, meta=True):
    """A folder as on the hub: meta.yaml names the files, paths in config.yaml are relative to it."""
    exp = root / "exp" / "s2t_train"
    bpe = root / "data" / "token_list" / "bpe_unigram50000"
    for folder in (exp, bpe):
        folder.mkdir(parents=True)
    (bpe / "bpe.model").write_bytes(b"pieces")
    (exp / "valid.ave.pth").write_bytes(b"weights")
    config = {"token_list": TOKENS, "bpemodel": "data/token_list/bpe_unigram50000/bpe.model"}
    (exp / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if meta:
        files = {"s2t_model_file": "exp/s2t_train/valid.ave.pth"}
        told = {"files": files, "yaml_files": {"s2t_train_config": "exp/s2t_train/config.yaml"}}
        (root / "meta.yaml").write_text(yaml.safe_dump(told))
    return root


def run(model, out, langs=("deu",), tasks=("asr", "st_eng")):
    return main(["--model", str(model), "--output_dir", str(out), "--langs", *langs, "--tasks", *tasks])


def test_a_published_folder(tmp_path, capsys):
    out = tmp_path / "out"
    for _ in range(2):
        assert run(published(tmp_path / "hub") if not out.exists() else tmp_path / "hub", out) == 0
    assert sorted(file.name for file in out.iterdir()) == ["bpe.model", "model.pth", "tokens.txt"]
    assert (out / "tokens.txt").read_text(encoding="utf-8").splitlines() == TOKENS
    assert (out / "bpe.model").read_bytes() == b"pieces" and (out / "model.pth").read_bytes() == b"weights"
    assert "8 tokens" in capsys.readouterr().out


def test_a_folder_of_an_experiment(tmp_path):
    hub = published(tmp_path / "hub", meta=False)
    exp = hub / "exp" / "s2t_train"
    (hub / "data" / "token_list" / "bpe_unigram50000" / "bpe.model").rename(exp / "bpe.model")
    assert run(exp, tmp_path / "out") == 0
    assert (tmp_path / "out" / "bpe.model").read_bytes() == b"pieces"


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ("train.acc.ave.pth train.acc.best.pth valid.acc.ave.pth valid.acc.best.pth 9epoch.pth", "valid.acc.best.pth"),
        ("train.loss.best.pth valid.loss.ave_3best.pth valid.loss.ave.pth 9epoch.pth", "valid.loss.ave.pth"),
        ("9epoch.pth train.loss.best.pth latest.pth", "train.loss.best.pth"),
        ("model.pth", "model.pth"),
    ],
)
def test_the_checkpoint_of_an_experiment_is_one_that_validation_chose(tmp_path, names, taken):
    for name in ("config.yaml", *names.split()):
        (tmp_path / name).touch()
    assert model_files(tmp_path)["s2t_model_file"] == str(tmp_path / taken)


@pytest.mark.parametrize(
    ("langs", "break_it", "message"),
    [
        (["deu", "fra"], lambda hub: None, "its token list has no <fra> (--langs, --tasks)"),
        (["deu"], lambda hub: (hub / "meta.yaml").unlink(), "needs meta.yaml, or config.yaml and one .pth, found 0"),
        (["deu"], lambda hub: (hub / "meta.yaml").write_text("files: {}"), "names no s2t_train_config"),
        (["deu"], lambda hub: (hub / "data/token_list/bpe_unigram50000/bpe.model").unlink(), "bpe.model is not there"),
    ],
)
def test_what_is_missing_is_named(tmp_path, capsys, langs, break_it, message):
    hub = published(tmp_path / "hub")
    break_it(hub)
    assert run(hub, tmp_path / "out", langs) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "tokens.txt").exists()


def test_a_tag_without_the_package_is_refused(tmp_path, capsys):
    assert run("espnet/no_such_model", tmp_path / "out") == 1
    assert "tags need the package espnet_model_zoo" in capsys.readouterr().err
