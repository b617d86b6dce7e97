"""The results table holds every system, in order, with what a reader needs to repeat it."""

import json
from pathlib import Path

import pytest

from espnet_gated.analysis.results import ResultsError, gather, label, main_table, report
from espnet_gated.analysis.table import markdown_table, number, text_table, with_interval
from espnet_gated.bin import results as results_bin

STATS = ("skipped_encoder", "skipped_decoder", "gflops", "gflops_encoder", "gflops_decoder")


def rows(system: str, latency: float, sparsity: float | None = None, set_name="test", wer=20.0):
    """Overall, ASR and ST rows of one system."""
    common = {"corpus": "mini", "set": set_name, "system": system, "sparsity": sparsity}
    common |= {"sparsity_encoder": sparsity, "sparsity_decoder": sparsity}
    common |= dict.fromkeys(STATS, sparsity) | {"latency_s": latency, "rtf": latency / 4, "cer": 1}
    asr = {"wer": wer, "wer_ci": [wer - 2, wer + 2], "bleu": None, "chrf": None, "bleu_ci": None}
    st = {"wer": None, "wer_ci": None, "bleu": 33.3, "bleu_ci": [30.0, 36.0], "chrf": 55.5}
    return [
        common | asr | st | {"wer": wer, "wer_ci": [wer - 2, wer + 2]} | place("all", n=5),
        common | asr | place("asr", n=3),
        common | asr | place("asr", "deu", "deu", n=3),
        common | st | place("st", n=2),
        common | st | place("st", "deu", "eng", n=2),
    ]


def place(task: str, src: str = "all", tgt: str = "all", n: int = 1) -> dict:
    return {"task": task, "src": src, "tgt": tgt, "n": n}


def write(exp: Path, name: str, scores: list[dict], meta: dict | None = None) -> None:
    (exp / name).mkdir(parents=True)
    (exp / name / "score.json").write_text(json.dumps(scores))
    score_meta = {
        "normalization": {"name": "some-rule", "rule": "lower case"},
        "signatures": {"bleu": "tok:13a"},
    }
    (exp / name / "score_meta.json").write_text(json.dumps(score_meta))
    if meta is not None:
        (exp / name / "decode_meta.json").write_text(json.dumps(meta))


@pytest.fixture
def exp(tmp_path) -> Path:
    meta = {
        "versions": {"python": "3.11", "espnet": "202511", "torch": "9.9", "espnet_gated": "7.7"},
        "machine": "Fast CPU",
        "threads": 1,
        "command": ["python", "-m", "decode", "--name", "two words"],
    }
    write(tmp_path, "gated/s07", rows("gated", 0.25, 0.7), meta)
    write(tmp_path, "gated/s03", rows("gated", 0.5, 0.3), meta)
    write(tmp_path, "control", rows("control", 0.8, 0.0), meta)
    write(tmp_path, "a_dense", rows("dense", 0.8, 0.0), meta)
    write(tmp_path, "x_espnet", rows("espnet", 1.0), meta)
    return tmp_path


def test_order_and_speedup(exp):
    gathered = gather(exp).rows
    overall = [row for row in gathered if row["task"] == "all"]
    assert gathered[:5] == overall
    assert [label(row) for row in overall] == [
        "espnet",
        "dense",
        "control",
        "gated 0.3/0.3",
        "gated 0.7/0.7",
    ]
    assert [row["speedup"] for row in overall] == pytest.approx([1, 1.25, 1.25, 2, 4])
    assert overall[3]["decode_dir"] == "gated/s03"


def test_speedup_only_against_the_same_utterances(exp):
    write(exp, "other", rows("dense", 0.1, 0.0, set_name="dev"))
    fewer = [row | {"n": 1} for row in rows("small", 0.1, 0.0)]
    write(exp, "fewer", fewer)
    speedups = {(r["set"], r["system"]): r["speedup"] for r in gather(exp).rows}
    assert speedups["dev", "dense"] is None
    assert speedups["test", "small"] is None


def test_files_and_terminal(exp, capsys):
    assert results_bin.main(["--expdir", str(exp)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "mini/test, 5 utterances"
    assert [line.split()[0] for line in out[3:8]] == ["espnet", "dense", "control", "gated", "gated"]
    assert len({line.index("20.0 [18.0, 22.0]") for line in out[3:8]}) == 1  # aligned
    assert "2.00x" in out[6] and "0.3/0.3" in out[6] and "33.3 [30.0, 36.0]" in out[6]
    assert len(json.loads((exp / "results.json").read_text())) == 25
    text = (exp / "RESULTS.md").read_text()
    for part in (
        "- espnet version: `202511`\n",
        "- torch version: `9.9`\n",
        "- machine: `Fast CPU`\n",
        "- threads: `1`",
        "## mini/test: all languages and tasks (5 utterances)",
        "|gated|0.3/0.3|0.30/0.30|20.0 [18.0, 22.0]|33.3 [30.0, 36.0]|55.5|",
        "### ASR: WER, % (lower is better)\n\n|system|all (n=3)|deu (n=3)|",
        "### ST: BLEU (higher is better)\n\n|system|all (n=2)|deu→eng (n=2)|",
        "`some-rule`: lower case",
        "bleu: `tok:13a`",
        "# gated/s07\npython -m decode --name 'two words'",
    ):
        assert part in text, part
    assert "ASR: BLEU" not in text and "ST: WER" not in text
    assert "different conditions" not in text


def test_second_run_ignores_its_own_output(exp):
    gather(exp).write(exp)
    first = (exp / "results.json").read_text()
    gather(exp).write(exp)
    assert (exp / "results.json").read_text() == first


def test_different_machines_are_pointed_out(exp):
    write(exp, "late", rows("other", 0.1, 0.9), {"machine": {"cpu": "Slow CPU"}, "threads": 8})
    text = report(gather(exp))
    assert "mini/test: the systems were timed under different conditions" in text
    assert "`Fast CPU`, `Slow CPU`" in text


def test_what_the_times_and_flops_of_a_set_are_of(exp):
    large = [
        r | {"n": 3000 * r["n"], "n_flops": 18, "latency_median_s": 0.05} for r in rows("gated", 0.1, 0.5, "large")
    ]
    write(exp, "large/gated", large, {"batch_size": 32, "beam_size": 5})
    text = report(gather(exp))
    for part in (
        "- beam size: `5`",
        "- batch size: `32`",
        "- **mini/large: decoded in batches of 32: latency is a batch's time over its utterances",
        "- **mini/large: mean latency is far above its median (a busy machine, or a few long utterances): "
        "gated 0.5/0.5 2.0 times.**",
        "## mini/large: all languages and tasks (15000 utterances; GFLOPs of 18)",
        "|gated|0.5/0.5|0.50/0.50|20.00 [18.00, 22.00]|33.30 [30.00, 36.00]|55.50|",
        "### ASR: GFLOPs an utterance\n\n|system|all (n=18)|deu (n=18)|",
        "### ASR: WER, % (lower is better)\n\n|system|all (n=9000)|deu (n=9000)|",
        "\n|gated 0.5/0.5|20.00|",
    ):
        assert part in text, part
    assert "mini/test: decoded in batches" not in text and "mini/test: mean latency" not in text


def test_another_set_may_be_timed_otherwise(exp):
    meta = json.loads((exp / "control" / "decode_meta.json").read_text())
    write(exp, "large/control", rows("control", 0.1, 0.0, set_name="large"), meta | {"batch_size": 32})
    assert "timed under different conditions" not in report(gather(exp))
    write(exp, "large/dense", rows("dense", 0.1, 0.0, set_name="large"), meta | {"batch_size": 32, "device": "cuda"})
    assert "mini/large: the systems were timed under different conditions" in report(gather(exp))


def test_nothing_recorded_is_said(tmp_path):
    write(tmp_path, "dense", rows("dense", 0.8, 0.0))
    text = report(gather(tmp_path))
    assert "(of this report; decoding recorded none)" in text
    assert "## Commands\nnot recorded" in text


def test_same_row_twice_names_both_files(exp, capsys):
    write(exp, "again", rows("gated", 0.5, 0.3))
    assert results_bin.main(["--expdir", str(exp)]) == 1
    error = capsys.readouterr().err
    assert "again/score.json" in error and "gated/s03/score.json" in error
    assert not (exp / "results.json").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "score.json: not JSON"),
        ("{}", "score.json: must be a list of rows"),
        ('[{"corpus": "mini"}]', "score.json: a row lacks bleu, cer"),
    ],
)
def test_broken_scores(tmp_path, content, says):
    (tmp_path / "score.json").write_text(content)
    with pytest.raises(ResultsError, match=says):
        gather(tmp_path)


def test_no_scores(tmp_path):
    with pytest.raises(ResultsError, match="no score.json below; score first"):
        gather(tmp_path)


def test_rows_without_measurements_print(tmp_path):
    bare = [row | dict.fromkeys((*STATS, "latency_s", "rtf")) for row in rows("espnet", 1.0)]
    write(tmp_path, "espnet", bare)
    line = main_table([gather(tmp_path).rows[0]]).splitlines()[-1]
    assert line.split()[-1] == "-" and "nan" not in line.lower() and "None" not in line


def test_tables():
    assert text_table(["a", "bb"], [["xyz", "1"]]).splitlines() == ["a    bb", "---  --", "xyz   1"]
    assert markdown_table(["a", "b"], [["x|y", "1"]]) == "|a|b|\n|---|---:|\n|x\\|y|1|"
    assert (number(None), number(1.25, 2)) == ("-", "1.25")
    assert with_interval(1.0, None) == "1.0"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 1, "-"), (12.345, 1, "12.3"), (0.0681, None, "0.0681"), (1.976, None, "1.98"), (473.1, None, "473")]
    + [(0.0, None, "0"), (-0.5, None, "-0.500"), (6340.4, None, "6340")],
)
def test_numbers_of_cells(value, digits, text):
    assert number(value, digits) == text


def test_minutes_of_training_are_told(exp):
    line = "[vm] (trainer:394) INFO: 1epoch results: [train] loss=1, time=12 minutes and 30 seconds, total_count=75,\n"
    (exp / "gated" / "train.log").write_text(line)
    gathered = gather(exp)
    assert [t.minutes for t in gathered.trainings] == [12.5]
    assert "## Training" in report(gathered) and "|gated|gated|-|1|75|12.5|1|-|" in report(gathered)
