"""The page says how long each model was trained: equal minutes are a claim like any other."""

from pathlib import Path

import pytest

from espnet_gated.analysis.training import against_control, read_trainings

LINE = (
    "[{host}] 2026-11-29 21:10:39,648 (trainer:394) INFO: {epoch}epoch results: [train] iter_time=0.009, loss=4.7, "
    "train_time=1.657, time={time}, total_count={count}, [valid] loss=3.8, time=9 hours and 1.86 seconds, "
    "total_count=5\n"
)


def trained(exp: Path, name: str, epochs: list[tuple[int, str, int]], host="vm", config="") -> None:
    (exp / name).mkdir()
    lines = [LINE.format(host=host, epoch=epoch, time=time, count=count) for epoch, time, count in epochs]
    (exp / name / "train.log").write_text("warning: anything\n".join(lines), encoding="utf-8")
    (exp / name / "config.yaml").write_text(config, encoding="utf-8")


def test_minutes_and_batches(tmp_path) -> None:
    config = "seed: 7\nnum_workers: 1\ninit_param:\n- exp/dense/valid.loss.best.pth:encoder:encoder\nother: 1\n"
    epochs = [(1, "1 hour, 2 minutes and 30 seconds", 1050), (2, "20 minutes and 7.5 seconds", 2100)]
    trained(tmp_path, "gated", epochs, "my-host:0/2", config)
    systems = {"gated/decode_s0.5/test": "gated", "gated/decode_ctc/test": "gated+ctc", "gated/x/test": "fixed"}
    (only,) = read_trainings(tmp_path, systems)
    assert only.systems == ("gated", "fixed")
    assert only.minutes == pytest.approx(62.5 + 20.125)
    assert only.cells == ["gated", "gated, fixed", "exp/dense/valid.loss.best.pth", "2", "2100", "82.6", "2", "7"]


def test_a_resumed_training_counts_each_epoch_once(tmp_path) -> None:
    epochs = [(1, "10 minutes", 100), (2, "7 minutes", 200), (2, "30 minutes and 1 second", 200)]
    trained(tmp_path, "control", epochs)
    (training,) = read_trainings(tmp_path, {"control/decode/test": "control"})
    assert training.minutes == pytest.approx(10 + 30 + 1 / 60)
    assert training.cells[-1] == "-"  # no seed in its configuration


def test_minutes_of_half_a_log_are_not_known(tmp_path) -> None:
    trained(tmp_path, "gated", [(2, "10 minutes", 200)])
    (training,) = read_trainings(tmp_path, {"gated/decode/test": "gated"})
    assert (training.epochs, training.batches, training.minutes) == (2, 200, None)
    assert training.cells[5] == "-"


def test_nothing_where_no_log_is(tmp_path) -> None:
    trained(tmp_path, "gated", [])
    assert read_trainings(tmp_path, {"gated/decode/test": "gated", "elsewhere/decode/test": "dense"}) == []


def test_trainings_are_held_against_the_control(tmp_path) -> None:
    init = "init_param:\n- dense.pth\n"
    trained(tmp_path, "s2t_dense", [(1, "30 minutes", 900)], "vm:0/2")
    trained(tmp_path, "s2t_control", [(1, "40 minutes", 1000)], config=init)
    trained(tmp_path, "s2t_gated", [(1, "44 minutes", 900)], config=init)
    systems = {f"s2t_{name}/decode/test": name for name in ("dense", "control", "gated")}
    trainings = read_trainings(tmp_path, systems)
    said = "s2t_gated against its control, s2t_control: batches -10.0 %, minutes +10.0 %."
    assert against_control(trainings) == [said]
    assert against_control(trainings[:1]) == []
