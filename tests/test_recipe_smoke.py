"""The mini recipe at smoke scale, every stage: from audio to the table of results."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).resolve().parents[1] / "egs2" / "mini" / "s2t1" / "run.sh"
DENSE = {("espnet", 0.0), ("dense", 0.0), ("control", 0.0)}
SYSTEMS = DENSE | {("gated", 0.0), ("gated", 0.5), ("learned", 0.5), ("gated+ctc", 0.5)}
COLUMNS = (
    "corpus set task src tgt system sparsity skipped_encoder skipped_decoder wer cer bleu chrf gflops latency_s rtf n"
).split()

pytestmark = [pytest.mark.recipe, pytest.mark.timeout(1800)]


def run(place, *options):
    """With ESPnet's type checks in trainings, as for a user (tests/conftest.py)."""
    environment = {name: value for name, value in os.environ.items() if name != "ESPNET_GATED_TYPE_CHECKS"}
    dirs = [f"--{name}dir={place / name}" for name in ("data", "dump", "exp")]
    log = place / "run.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [RUN, "--scale", "smoke", *dirs, *options],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env=environment,
        )
        try:
            code = process.wait(timeout=1500)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    output = log.read_text(encoding="utf-8")
    assert code == 0, output[-8000:]
    return output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("mini")


@pytest.fixture(scope="module")
def output(place):
    return run(place)


@pytest.fixture(scope="module")
def rows(place, output):
    return json.loads((place / "exp" / "results.json").read_text(encoding="utf-8"))


def test_every_system_has_its_rows(rows):
    assert {(r["system"], r["sparsity"] or 0.0) for r in rows} == SYSTEMS
    for row in rows:
        assert set(COLUMNS) <= set(row)
        assert (row["corpus"], row["set"]) == ("mini", "test")
        assert row["n"] > 0 and row["latency_s"] > 0 and row["rtf"] > 0
        assert (row["wer"] is not None) == (row["task"] in ("asr", "all"))
    pairs = {(r["task"], r["src"], r["tgt"]) for r in rows}
    assert pairs >= {("asr", "deu", "deu"), ("st", "ita", "eng"), ("asr", "all", "all"), ("all", "all", "all")}


def overall(rows, system, sparsity=0.0):
    (row,) = (r for r in rows if (r["task"], r["system"], r["sparsity"] or 0.0) == ("all", system, sparsity))
    return row


def table(file):
    """Utterance → what stands behind it."""
    return dict(line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())


def assert_same_words_and_scores(theirs, ours, utts=None):
    """Law 4. Models are float32 here: another order of the same sums differs in the sixth digit, 1e-4 leaves room."""
    theirs, ours = theirs / "1best_recog", ours / "1best_recog"
    expected = table(theirs / "text")
    assert expected and set(expected) == set(utts or expected)
    text, score = table(ours / "text"), table(ours / "score")
    assert {utt: text[utt] for utt in expected} == expected
    for utt, value in table(theirs / "score").items():
        number = float(value.removeprefix("tensor(").removesuffix(")"))  # as ESPnet's own command writes it
        assert float(score[utt]) == pytest.approx(number, rel=1e-4, abs=1e-4), utt


def test_dense_decoding_is_espnet_s(place, rows):
    """Same weights, same search: what our decoding writes is what ESPnet's writes."""
    theirs, ours = (place / "exp" / "s2t_dense" / f"decode_{engine}" / "test" for engine in ("espnet", "dense"))
    assert_same_words_and_scores(theirs, ours)
    assert table(theirs / "1best_recog" / "text").keys() == table(ours / "1best_recog" / "text").keys()
    assert overall(rows, "espnet")["wer"] == overall(rows, "dense")["wer"]


def test_gated_decoding_is_stock_espnet_s(place, rows, tmp_path):
    """A few utterances of one language and task, which ESPnet's command takes for all that it decodes."""
    exp, data = place / "exp" / "s2t_gated", place / "dump" / "raw" / "test"
    langs, tasks = table(data / "utt2lang"), table(data / "utt2task")
    utts = [utt for utt in langs if (langs[utt], tasks[utt]) == ("ita", "asr")][:3]
    (tmp_path / "keys").write_text("".join(f"{utt}\n" for utt in utts), encoding="utf-8")
    model = ("--s2t_train_config", exp / "config.yaml", "--s2t_model_file", exp / "valid.loss.best.pth")
    audio = ("--data_path_and_name_and_type", f"{data / 'wav.scp'},speech,sound", "--key_file", tmp_path / "keys")
    options = "--config conf/decode_s2t.yaml --maxlenratio -15 --lang_sym <ita> --task_sym <asr> --num_workers 0"
    command = ["-m", "espnet_gated", "-m", "espnet2.bin.s2t_inference", *options.split(), *model, *audio]
    environment = os.environ | {"ESPNET_GATED_SPARSITY": "0.5"}
    subprocess.run(
        [sys.executable, *command, "--output_dir", tmp_path / "stock"], cwd=RUN.parent, env=environment, check=True
    )
    assert_same_words_and_scores(tmp_path / "stock", exp / "decode_s0.5" / "test", utts)


def test_closed_gates_spend_less(rows):
    dense, closed = overall(rows, "dense"), overall(rows, "gated", 0.5)
    assert closed["skipped_encoder"] >= 0.4 and closed["skipped_decoder"] >= 0.4
    assert closed["gflops"] < dense["gflops"]


def test_the_table_is_printed_and_written(place, output):
    for text in (output, (place / "exp" / "RESULTS.md").read_text(encoding="utf-8")):
        for system, _ in SYSTEMS:
            assert system in text


def files_of(place):
    rewritten = {"results.json", "RESULTS.md", "data.log", "run.log"}
    return {
        str(file.relative_to(place)): os.stat(file).st_mtime_ns
        for file in place.rglob("*")
        if file.is_file() and file.name not in rewritten and file.parent.name != "report"
    }


def test_a_second_run_does_nothing_new(place, output):
    before = files_of(place)
    again = run(place)
    assert files_of(place) == before
    assert "Training" not in again and "Decoding" not in again


def test_the_learned_budget_is_calibrated_and_measured(place, output):
    """Stage 6 stores thresholds in the checkpoint, stage 9 measures what they keep, stage 10 shows it."""
    gated = place / "exp" / "s2t_gated"
    weights = torch.load(gated / "valid.loss.best.pth", weights_only=True)
    assert all(weights[f"{stack}.gate_predictor.thresholds"].any() for stack in ("encoder", "decoder"))
    shares = json.loads((gated / "budget_test.json").read_text(encoding="utf-8"))["shares"]
    exact = [share["farthest"] for share in shares if share["budget"] == "exact"]
    assert len(exact) == 27 and max(exact) <= 0.02 + 1e-6
    assert "Sparsity asked and reached: s2t_gated" in (place / "exp" / "RESULTS.md").read_text(encoding="utf-8")


def test_a_run_that_was_cut_short_goes_on(place, output):
    (cut,) = place.glob("exp/s2t_gated/decode_s0.5/test/.decode.done")
    cut.unlink()
    before = files_of(place)
    run(place, "--stage", "7")
    changed = {name for name, time in files_of(place).items() if before.get(name) != time}
    assert changed
    assert all("s2t_gated/decode_s0.5" in name for name in changed)
