"""Starting from a public model: its files are found, and its tokens must do."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from espnet2.tasks.s2t import S2TTask

from espnet_gated.bin.use_pretrained import main
from espnet_gated.pretrained import model_files

CONF = Path(__file__).resolve().parents[1] / "conf"
TOKENS = ["<blank>", "<unk>", "<deu>", "<asr>", "<st_eng>", "▁a", "<sos>", "<eos>"]


def published(root, meta=True):
    """A folder as on the hub: meta.yaml names the files, paths in config.yaml are relative to it."""
    exp = root / "exp" / "s2t_train"
    bpe = root / "data" / "token_list" / "bpe_unigram50000"
    for folder in (exp, bpe):
        folder.mkdir(parents=True)
    (bpe / "bpe.model").write_bytes(b"pieces")
    (exp / "valid.ave.pth").write_bytes(b"weights")
    stats = root / "exp" / "s2t_stats" / "feats_stats.npz"
    stats.parent.mkdir()
    np.savez(stats, count=10, sum=np.ones(80), sum_square=np.full(80, 20.0))
    config = {
        **{"token_list": TOKENS, "bpemodel": "data/token_list/bpe_unigram50000/bpe.model", "token_type": "bpe"},
        **{"encoder": "e_branchformer", "encoder_conf": {"num_blocks": 2, "input_layer": "conv2d8"}},
        **{"decoder": "transformer", "decoder_conf": {"num_blocks": 2}, "model": "espnet", "specaug": None},
        **{
            "frontend_conf": {"fs": "16k", "hop_length": 160},
            "preprocessor_conf": {"speech_length": 30, "time_apply_prob": 0.5},
        },
        **{"normalize": "global_mvn", "normalize_conf": {"stats_file": "exp/s2t_stats/feats_stats.npz"}},
        # what a training leaves in its config.yaml, and no training takes, or takes beside one's own
        **{"version": "202310", "distributed": True, "train_shape_file": ["theirs"], "max_epoch": 99},
        **{"train_data_path_and_name_and_type": [["theirs/wav.scp", "speech", "sound"]]},
    }
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
    written = ["bpe.model", "model.pth", "tokens.txt", "train_dense.yaml", "train_gated.yaml"]
    assert sorted(file.name for file in out.iterdir()) == written
    assert (out / "tokens.txt").read_text(encoding="utf-8").splitlines() == TOKENS
    assert (out / "bpe.model").read_bytes() == b"pieces" and (out / "model.pth").read_bytes() == b"weights"
    assert "8 tokens" in capsys.readouterr().out


def test_a_folder_as_the_hub_s_cache_lays_it_out(tmp_path):
    """A snapshot is a folder of links into blobs, whose names say nothing."""
    real = published(tmp_path / "real")
    snapshot, blobs = tmp_path / "models--a" / "snapshots" / "1f", tmp_path / "models--a" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(f for f in real.rglob("*") if f.is_file())):
        link = snapshot / file.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.rename(blobs / f"{number:040x}"))
    assert run(snapshot, tmp_path / "out") == 0
    assert (tmp_path / "out" / "bpe.model").read_bytes() == b"pieces"


def test_a_folder_of_an_experiment(tmp_path):
    hub = published(tmp_path / "hub", meta=False)
    exp = hub / "exp" / "s2t_train"
    (hub / "data" / "token_list" / "bpe_unigram50000" / "bpe.model").rename(exp / "bpe.model")
    assert run(exp, tmp_path / "out") == 0
    assert (tmp_path / "out" / "bpe.model").read_bytes() == b"pieces"


def test_trainings_go_on_with_the_model(tmp_path):
    """The files are options of ESPnet's trainer, say what the model is, and nothing of where it was trained."""
    out = tmp_path / "out"
    assert run(published(tmp_path / "hub"), out) == 0
    dense, gated = (yaml.safe_load((out / f"train_{kind}.yaml").read_text()) for kind in ("dense", "gated"))
    for kind, told in (("dense", dense), ("gated", gated)):
        parsed = S2TTask.get_parser().parse_args(["--config", str(out / f"train_{kind}.yaml"), "--output_dir", "x"])
        assert {name: getattr(parsed, name) for name in told} == told
        assert (parsed.train_shape_file, parsed.init_param) == ([], [str(out / "model.pth")])
        assert Path(told["token_list"]).is_file() and Path(told["bpemodel"]).is_file()
        assert told["normalize_conf"]["stats_file"] == str(tmp_path / "hub/exp/s2t_stats/feats_stats.npz")
        assert told["specaug"] is None  # ESPnet's default may be another
        assert told["preprocessor_conf"] == {"speech_length": 30, "time_apply_prob": 1.0}
    assert (dense["encoder"], dense["decoder"], dense["model"]) == ("e_branchformer", "transformer", "espnet")
    assert (gated["encoder"], gated["decoder"], gated["model"]) == (
        "gated_e_branchformer",
        "gated_transformer",
        "gated",
    )
    assert gated["encoder_conf"].pop("gating")["nominal_length"] == 375  # of 30 s, an eighth of the frames
    assert gated["decoder_conf"].pop("gating")["nominal_memory"] == 375
    assert all(gated[name] == dense[name] for name in ("encoder_conf", "decoder_conf", "frontend_conf"))


def test_their_schedule_is_that_of_the_shared_configuration(tmp_path):
    assert run(published(tmp_path / "hub"), tmp_path / "out") == 0
    for kind, shared in (("dense", "owsm_v3.1_base_dense"), ("gated", "owsm_v3.1_base")):
        ours = yaml.safe_load((CONF / f"{shared}.yaml").read_text(encoding="utf-8"))
        made = yaml.safe_load((tmp_path / "out" / f"train_{kind}.yaml").read_text(encoding="utf-8"))
        schedule = list(ours)[list(ours).index("batch_type") :]
        assert {name: made[name] for name in schedule} == {name: ours[name] for name in schedule}
        lengths = {"nominal_length", "nominal_memory"}
        for part in ("encoder_conf", "decoder_conf"):
            gates = [
                {k: v for k, v in config[part].get("gating", {}).items() if k not in lengths} for config in (made, ours)
            ]
            assert gates[0] == gates[1]
        told = {"sparsity_weight", "sparsity_warmup", "context"} & set(ours["model_conf"])
        assert {name: made["model_conf"][name] for name in told} == {name: ours["model_conf"][name] for name in told}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "vgg_rnn", "decoder": "rnn"}, "neither encoder vgg_rnn nor decoder rnn has a gated twin"),
        ({"encoder": "gated_transformer"}, "the model has gates already"),
        ({"promptencoder_conf": {}}, "OWSM-CTC (ESPnet's task s2t_ctc) has no gated classes"),
        ({"normalize_conf": {"stats_file": "exp/gone.npz"}}, "its normalize_conf stats_file exp/gone.npz is not there"),
    ],
)
def test_a_model_that_cannot_have_gates_is_refused(tmp_path, capsys, changes, message):
    hub = published(tmp_path / "hub")
    file = hub / "exp" / "s2t_train" / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    assert run(hub, tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_encoder_alone_may_have_gates(tmp_path):
    hub = published(tmp_path / "hub")
    file = hub / "exp" / "s2t_train" / "config.yaml"
    file.write_text(
        yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | {"decoder": "rnn"}), encoding="utf-8"
    )
    assert run(hub, tmp_path / "out") == 0
    made = yaml.safe_load((tmp_path / "out" / "train_gated.yaml").read_text(encoding="utf-8"))
    assert (made["encoder"], made["decoder"]) == ("gated_e_branchformer", "rnn")
    assert "gating" not in made["decoder_conf"]


def test_the_checkpoints_of_an_experiment_are_ranked(tmp_path):
    """An experiment of ESPnet's has many; its tokens lie where its recipe was run from, which is a folder above."""
    hub = published(tmp_path / "hub", meta=False)
    exp = hub / "exp" / "s2t_train"
    for name in ("1epoch.pth", "checkpoint.pth", "valid.acc.best.pth", "train.loss.best.pth"):
        (exp / name).write_bytes(name.encode())
    assert run(exp, tmp_path / "out") == 0
    assert (tmp_path / "out" / "model.pth").read_bytes() == b"valid.acc.best.pth"
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
        (["deu"], lambda hub: (hub / "meta.yaml").unlink(), "needs config.yaml and a .pth file, or the meta.yaml"),
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
