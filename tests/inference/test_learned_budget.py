"""The learned budget: calibrated on speech it keeps its share on average, and the checkpoint remembers."""

import json

import pytest
import soundfile
import torch
import yaml
from tiny_checkpoint import FS, make_checkpoint, make_data_dir, wave

from espnet_gated.analysis.budget_table import HEADER, budget_cells, read_budgets
from espnet_gated.bin import budget as budget_command
from espnet_gated.gating.policy import THRESHOLD_SPARSITIES
from espnet_gated.inference.learned_budget import calibrate_thresholds, looks, measure_shares, save_thresholds
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text

UTTERANCES = 24
STACKS = ("encoder", "decoder")


def speech(count=UTTERANCES):
    langs, tasks = ("<deu>", "<ita>", "<eng>"), ("<asr>", "<st_eng>")
    requests = [Request(wave(0.5, n), langs[n % 3], tasks[n % 2]) for n in range(count)]
    return [requests[:10], requests[10:]]


def load(checkpoint):
    return Speech2Text(checkpoint.config, checkpoint.weights, bpemodel=str(checkpoint.bpemodel), beam_size=1)


@pytest.fixture(scope="module")
def own_checkpoint(tmp_path_factory):
    """One that may be changed: with costs in FLOPs, so that modules differ."""
    options = {"sparsity_unit": "flops", "target_sparsity": [0.0, 0.9]}
    return make_checkpoint(tmp_path_factory.mktemp("own"), gated=True, gating=(options, options))


def test_the_average_share_is_the_asked_one(own_checkpoint):
    """Within what one module of the utterances' most alike masks costs, at every sparsity and in both stacks."""
    model = load(own_checkpoint)
    sparsities = (0.1, 0.3, 0.5, 0.7, 0.9)
    before = measure_shares(model, speech(), sparsities)
    calibrate_thresholds(model, speech())
    after = measure_shares(model, speech(), sparsities)
    off = {
        when: [abs(r["mean"] - r["sparsity"]) for r in rows if r["budget"] == "learned" and r["stack"] == "encoder"]
        for when, rows in (("before", before), ("after", after))
    }
    most = float(model.predictors()["encoder"].costs.max())
    assert max(off["before"]) > 0.1 > most / 2 / UTTERANCES + 1e-3 >= max(off["after"])
    of_decoder = [r for r in after if (r["budget"], r["stack"]) == ("learned", "decoder")]
    assert sorted((r["sparsity"], r["behind"]) for r in of_decoder) == sorted(
        (s, behind) for s in sparsities for behind in (0.0, s)
    )
    for row in of_decoder:
        assert row["mean"] == pytest.approx(row["sparsity"], abs=0.02), row
    assert [r for r in after if r["budget"] == "exact"] == [r for r in before if r["budget"] == "exact"]


def test_decisions_without_decoding_are_those_of_decoding(own_checkpoint):
    model = load(own_checkpoint)
    model.set_sparsity((0.3, 0.6), "exact")
    batch = speech(4)[0]
    seen = looks(model, [batch])
    model.decode_batch(batch)
    for stack in STACKS:
        assert [s.skipped[stack] for s in model.stats] == pytest.approx(seen[stack][0].skipped.tolist())
    model.set_sparsity((0.3, 0.6), "exact")
    (again,) = (r for r in measure_shares(model, [batch], [0.6]) if r["behind"] == 0.0 and r["budget"] == "exact")
    model.set_sparsity((0.0, 0.6), "exact")
    assert again["mean"] == pytest.approx(float(looks(model, [batch])["decoder"][0].skipped.mean()))


def test_the_checkpoint_remembers(tmp_path):
    files = make_checkpoint(tmp_path / "model", gated=True, gating=({"target_sparsity": [0.0, 0.9]},) * 2)
    epoch = files.folder / "4epoch.pth"
    files.weights.rename(epoch)
    files.weights.symlink_to(epoch.name)
    before = torch.load(epoch, weights_only=True)
    data = make_data_dir(tmp_path / "dev", {"a-asr": 0.5, "b-st_eng": 0.7, "c-asr": 0.4, "d-st_eng": 0.6})
    arguments = ["--data_dir", str(data), "--s2t_model_file", str(files.weights), "--batch_size", "3"]
    assert budget_command.main([*arguments, "--calibrate", "true"]) == 0
    after = torch.load(epoch, weights_only=True)
    assert files.weights.is_symlink() and after.keys() == before.keys()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {f"{stack}.gate_predictor.thresholds" for stack in STACKS}
    loaded = load(files).predictors()
    for stack in STACKS:
        assert torch.equal(loaded[stack].thresholds, after[f"{stack}.gate_predictor.thresholds"])
        whole, behind = loaded[stack].thresholds
        assert len(whole.unique()) > len(THRESHOLD_SPARSITIES) // 2
        assert torch.equal(whole, behind) is (stack == "encoder")
    assert sorted(path.name for path in files.folder.glob(".*")) == []


def test_the_measured_shares_as_a_table(own_checkpoint, tmp_path, capsys):
    data = make_data_dir(tmp_path / "test")
    out = tmp_path / "exp" / "budget_test.json"
    out.parent.mkdir()
    arguments = ["--data_dir", str(data), "--s2t_model_file", str(own_checkpoint.weights), "--json", str(out)]
    assert budget_command.main([*arguments, "--num_utts", "2"]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["utterances"] == 2 and content["checkpoint"] == str(own_checkpoint.weights) and content["versions"]
    ((heading, cells),) = read_budgets(tmp_path)
    assert heading == f"Sparsity asked and reached: exp, 2 utterances of {data}"
    assert cells == budget_cells(content["shares"]) and [line[0] for line in cells] == [f"0.{n}" for n in range(1, 10)]
    (share,) = (s for s in content["shares"] if (s["budget"], s["stack"], s["sparsity"]) == ("exact", "encoder", 0.3))
    cell = cells[2][HEADER.index("exact: encoder, farthest off")]
    assert cell == f"{share['farthest']:.3f}" and cell in printed


def test_broken_tables_are_told_of(tmp_path):
    (tmp_path / "budget_test.json").write_text('{"shares": [{}]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"budget_test.json: not what bin.budget writes .*; measure again"):
        read_budgets(tmp_path)


def test_wrong_requests(gated_checkpoint, dense_checkpoint, tmp_path, capsys):
    data = make_data_dir(tmp_path / "test")
    for checkpoint, options, message in (
        (dense_checkpoint, [], "a dense checkpoint has no gates, so no budget (--s2t_model_file)"),
        (gated_checkpoint, ["--batch_size", "0"], "--batch_size at least 1, got 0 and 0"),
        (gated_checkpoint, ["--num_utts", "-1"], "--num_utts must be at least 0"),
    ):
        arguments = ["--data_dir", str(data), "--s2t_model_file", str(checkpoint.weights), *options]
        assert budget_command.main(arguments) == 1
        assert message in capsys.readouterr().err
    soundfile.write(tmp_path / "x.wav", wave(0.5), FS)
    with pytest.raises(ValueError, match="no gate predictor of the encoder in this checkpoint"):
        save_thresholds(dense_checkpoint.weights, {"encoder": [[0.0], [0.0]]})


def test_gates_that_are_decided_on_the_way_are_left_out(tmp_path, capsys):
    """A level other than the utterance's has no share before it is decoded."""
    files = make_checkpoint(tmp_path / "model", gated=True, gating=({"level": "layer"}, {}))
    data = make_data_dir(tmp_path / "dev")
    arguments = ["--data_dir", str(data), "--s2t_model_file", str(files.weights)]
    before = torch.load(files.weights, weights_only=True)
    assert budget_command.main([*arguments, "--calibrate", "true"]) == 0
    assert "gates of the encoder are decided for each layer" in capsys.readouterr().err
    after = torch.load(files.weights, weights_only=True)
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"decoder.gate_predictor.thresholds"}


def test_no_budget_can_be_told_of_before_decoding(tmp_path, capsys):
    """Both stacks decide on the way: nothing is calibrated or measured, and a recipe goes on."""
    files = make_checkpoint(tmp_path / "model", gated=True, gating=({"level": "layer"}, {"level": "token"}))
    data = make_data_dir(tmp_path / "dev")
    before = files.weights.read_bytes()
    out = tmp_path / "budget_dev.json"
    arguments = ["--data_dir", str(data), "--s2t_model_file", str(files.weights)]
    for options in (["--calibrate", "true"], ["--json", str(out)]):
        assert budget_command.main([*arguments, *options]) == 0
        assert f"budget: nothing to tell of before decoding: {files.weights}" in capsys.readouterr().err
    assert files.weights.read_bytes() == before and not out.exists()


@pytest.mark.parametrize("dense", STACKS)
def test_a_stack_without_gates_runs_whole(dense, tmp_path):
    """A dense stack beside a gated one: nothing of it is skipped, and there is nothing to calibrate."""
    files = make_checkpoint(tmp_path / "model", gated=True, gating=({"target_sparsity": [0.0, 0.9]},) * 2)
    config = yaml.safe_load(files.config.read_text(encoding="utf-8"))
    config[dense] = config[dense].removeprefix("gated_")
    config[f"{dense}_conf"].pop("gating")
    files.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    state = torch.load(files.weights, weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.startswith(f"{dense}.gate_predictor.")}, files.weights)
    (gated,) = set(STACKS) - {dense}
    model = load(files)
    for budget in ("exact", "learned"):
        model.set_sparsity(0.5, budget)
        model.decode_batch(speech(2)[0])
        for stats in model.stats:
            assert stats.skipped[dense] == pytest.approx(0.0, abs=1e-6), budget
            assert stats.skipped[gated] > 0.05, budget
    data = make_data_dir(tmp_path / "dev")
    arguments = ["--data_dir", str(data), "--s2t_model_file", str(files.weights)]
    assert budget_command.main([*arguments, "--calibrate", "true"]) == 0
    after = torch.load(files.weights, weights_only=True)
    assert [key for key in after if "thresholds" in key] == [f"{gated}.gate_predictor.thresholds"]
    assert budget_command.main(arguments) == 0


def test_a_budget_that_was_never_calibrated_is_told_of(gated_checkpoint, caplog):
    model = load(gated_checkpoint)
    with caplog.at_level("WARNING"):
        model.set_sparsity(0.5, "exact")
        assert "never calibrated" not in caplog.text
        model.set_sparsity(0.5, "learned")
    assert "the learned budget of the encoder was never calibrated" in caplog.text
    caplog.clear()
    model.set_sparsity(0.4, "learned")
    assert "never calibrated" not in caplog.text
