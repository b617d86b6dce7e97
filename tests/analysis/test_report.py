"""The page holds everything in itself; what is missing makes it shorter, what is broken is named in one line."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from tiny_experiment import DECODER, TWO, Reader, build, run, small

from espnet_gated.analysis import gate_stats, headline
from espnet_gated.analysis.comparisons import Comparisons
from espnet_gated.analysis.experiment import ReportError, gate_table, read_experiment
from espnet_gated.analysis.page import Mark, Page
from espnet_gated.analysis.report import make_report
from espnet_gated.analysis.table import percent, relative
from espnet_gated.analysis.view import View
from espnet_gated.bin import report as report_bin


@pytest.fixture
def exp(tmp_path) -> Path:
    return build(tmp_path)


def test_budgets_by_hand(exp):
    (test_set,) = read_experiment(exp).sets
    kept = {(k.label, k.stack): k for k in gate_stats.budgets_kept(test_set.decodings)}
    k = kept["gated 0.7/0.7", "encoder"]
    assert k.reached == pytest.approx(0.7 + 0.06 / 16) and k.deviation == pytest.approx(0.06 / 16)
    assert (k.worst, k.outside, k.n) == (pytest.approx(0.06), 1, 16)
    assert not k.exact  # the decoding does not say
    assert ("control", "encoder") not in kept and ("gated 0/0.5", "encoder") not in kept


def test_the_budget_line_tells_single_utterances_of_exact_budgets_alone(exp):
    (test_set,) = read_experiment(exp).sets
    (line,) = headline._budget_line(test_set.decodings)
    assert line.endswith("(within the bound of 0.02).")
    meta = next(exp.glob("gated_0.7_0.7/decode_meta.json"))
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"budget": "exact"}))
    (test_set,) = read_experiment(exp).sets
    (line,) = headline._budget_line(test_set.decodings)
    assert line.endswith("(within the bound of 0.02) and, with an exact budget, by at most 0.060 in one utterance.")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Reader, str]:
    """The experiment's directory, its page and what was printed."""
    exp = build(tmp_path_factory.mktemp("made"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        page = run(exp)
    return exp / "report", page, out.getvalue()


def test_page_is_self_contained(made):
    directory, page, _ = made
    assert page.loads == [] and not {"script", "link", "iframe", "object"} & set(page.tags)
    text = (directory / "report.html").read_text()
    assert "http" not in text and "url(" not in text and "@import" not in text
    files = {f.name: f.read_bytes() for f in directory.glob("*.png")}
    assert set(files.values()) == set(page.pictures) and len(files) == 9
    assert {"mini-test-frontier.png", "mini-test-open-encoder.png", "mini-test-differences-decoder.png"} <= set(files)
    assert not [f for f in directory.iterdir() if f.name.startswith(".")]


def test_page_says_what_was_measured(made):
    for part in (
        "mini/test (16 utterances)",
        "gated against control (WER 16.7, BLEU 23.3, 10.0 GFLOPs, 1000 ms)",
        "gated beats fixed at the same sparsity by more than the 95 % interval in 2 of 2 comparisons: "
        "WER at 0/0.5, BLEU at 0/0.5.",
        "No gates by token are on record",
        "ASR and ST differ clearly in the open share of 6 of 8 modules.",
        "gated: WER (%) and BLEU by what is pruned (change against control) pruned sparsity WER all BLEU all control -",
        "both 0.7 50.0 (+200.0 %) −10.0 (−33.3)",
        "Fast <CPU>",
        "tok:13a",
        "some-rule",
        "decode me",
        "no clear difference",
    ):
        assert part in made[1].text, part


def test_page_says_how_long_a_model_was_trained(tmp_path):
    exp = small(tmp_path)
    line = "[vm] (trainer:394) INFO: 1epoch results: [train] loss=1, time=2 hours and 12 minutes, total_count=9\n"
    (exp / "train.log").write_text(line)
    assert "processes . control, gated - 1 9 132.0 1 Minutes of its epochs" in run(exp).text


def test_terminal(made):
    directory, _, out = made
    assert "- 16 utterances, 6 decodings of control, gated, fixed." in out
    assert "decoder 0.5       gated 0/0.5" in out and "-30.0 %" in out and "-40.0 %" in out
    assert "60 % fewer FLOPs  gated 0.7/0.7" in out and "-70.0 %" in out
    assert out.splitlines()[-1] == f"report: {directory}/report.html and 9 figures beside it"


def test_again_and_elsewhere(tmp_path):
    exp, elsewhere = small(tmp_path), tmp_path / "new" / "dir"
    first = run(exp).pictures
    run(exp, "--output_dir", str(elsewhere))
    assert Reader((elsewhere / "report.html").read_text()).pictures == first


def edit_scores(exp: Path, **values) -> None:
    for file in exp.rglob("score.json"):
        file.write_text(json.dumps([row | values for row in json.loads(file.read_text())]))


def test_one_task_and_one_language(tmp_path):
    exp = small(tmp_path, tasks=("asr",))
    edit_scores(exp, bleu=None, chrf=None)
    text = run(exp).text
    assert "BLEU on ST" not in text and "What differs" not in text and "Where gates are open" in text


def test_no_flops_and_no_latency(tmp_path):
    exp = small(tmp_path, drop=("gflops", "latency_s", "encode_s", "search_s", "steps", "seconds"))
    edit_scores(exp, gflops=None, gflops_encoder=None, gflops_decoder=None, latency_s=None, rtf=None)
    text = run(exp).text
    assert "Neither latency nor FLOPs were measured" in text and "Where the time goes" not in text


def test_times_without_seconds(tmp_path):
    """Statistics as `score` takes them: no real-time factor, and all else."""
    assert "Where the time goes" in run(small(tmp_path, drop=("seconds",))).text


def test_espnet_s_search_is_no_measure_of_what_gates_save(tmp_path):
    """Scores against its row, FLOPs and times against our own search with all gates open."""
    systems = (("espnet", (0.0, 0.0)), ("gated", (0.0, 0.0)), ("gated", (0.0, 0.5)))
    (test_set,) = read_experiment(small(tmp_path, systems=systems)).sets
    view = View(test_set, "gated")
    assert view.reference.system == "espnet" and view.cost_base.label == "gated 0/0"
    rows = {row[0]: row for row in headline.price_rows(view, Comparisons())}
    assert rows["sparsity 0"][4:] == ["+0.0 %"] * 3
    expected = [percent(relative(view.at(0.0, 0.5).value(k), view.open().value(k))) for k in headline.COSTS]
    assert rows["decoder 0.5"][4:] == expected
    assert headline.base_line(view.reference, view.cost_base).endswith("; FLOPs and times against gated 0/0")
    assert "against" not in headline.base_line(view.open(), view.open())


def test_no_gated_system(tmp_path):
    text = run(small(tmp_path, systems=(("espnet", (0.0, 0.0)), ("dense", (0.0, 0.0))))).text
    assert "nothing to say about gates" in text and "Published findings" not in text


def test_only_the_gathered_results(exp, capsys):
    for name in ("control_0.0_0.0", "gated_0.7_0.7"):
        rows = json.loads((exp / name / "score.json").read_text())
        bare = exp / "bare" / "results.json"
        bare.parent.mkdir(exist_ok=True)
        bare.write_text(json.dumps(rows + (json.loads(bare.read_text()) if bare.is_file() else [])))
    text = run(exp / "bare").text
    assert "recorded no gates of a pruned stack" in text and "Frontier" in text
    assert "do not name their references" in text


def test_no_gates_recorded(tmp_path):
    text = run(small(tmp_path, drop=("gates_encoder", "gates_decoder"))).text
    assert "recorded no gates of a pruned stack" in text and "Budgets kept" in text


def test_references_gone(tmp_path):
    exp = small(tmp_path)
    (tmp_path / "ref").rename(tmp_path / "moved")
    assert "No paired comparison" in run(exp).text


def test_unscored_decodings_are_named(exp):
    (exp / "gated_0.7_0.7" / "score.json").unlink()
    (exp / "control_0.0_0.0" / "log" / "output.001").mkdir(parents=True)
    (exp / "control_0.0_0.0" / "log" / "output.001" / "decode_stats.jsonl").write_text("{}\n")
    assert list(read_experiment(exp).unscored) == ["gated_0.7_0.7"]


def test_two_sets_are_told_apart(tmp_path):
    exp = small(tmp_path, drop=("gates_encoder", "gates_decoder"))
    rows = json.loads((exp / "control_0.0_0.0" / "score.json").read_text())
    (exp / "dev").mkdir()
    (exp / "dev" / "score.json").write_text(json.dumps([row | {"set": "dev"} for row in rows]))
    text = run(exp).text
    assert "mini/dev: In short" in text and "mini/test: In short" in text


def test_an_exact_budget_is_every_utterances(tmp_path):
    exp = small(tmp_path)
    assert "on average" in run(exp).text
    meta = exp / "gated_0.5_0.5" / "decode_meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"budget": "exact"}))
    assert "not by every utterance" in run(exp).text


def test_names_are_escaped(tmp_path):
    text = run(small(tmp_path, systems=(("a<b>&", (0.0, 0.0)), ("gated", (0.5, 0.5))))).text
    assert "a<b>&" in text


# -- broken data ----------------------------------------------------------------------------------
def fails(exp: Path, capsys, *options: str) -> str:
    assert report_bin.main(["--expdir", str(exp), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("report: ") and error.count("\n") == 1
    assert not (exp / "report").exists()
    return error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gates_encoder": {"0.attn": 1.0}}, "gates_encoder must hold the modules of the first utterance"),
        ({"gates_decoder": dict.fromkeys(DECODER, 2.0)}, "gates_decoder: 0.self_attn must be in [0, 1], got 2.0"),
        ({"encode_s": "fast"}, "encode_s must be a number or null, got 'fast'"),
        ({"skipped_decoder": "half"}, "skipped_decoder must be a finite number or null, got 'half'"),
    ],
)
def test_broken_statistics_are_named(exp, capsys, change, says):
    file = exp / "gated_0.0_0.5" / "decode_stats.jsonl"
    lines = file.read_text().splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | change)
    file.write_text("\n".join(lines) + "\n")
    error = fails(exp, capsys)
    assert says in error and str(file) in error and "deu1-st_eng" in error


def test_odd_gate_names(tmp_path):
    with pytest.raises(ReportError, match="must be <layer>.<module>, got 'attn'"):
        gate_table([{"utt_id": "a", "gates_encoder": {"attn": 1}}], "encoder", tmp_path)
    assert gate_table([{"utt_id": "a", "gates_encoder": {}}], "encoder", tmp_path) is None


def test_broken_files_are_named(exp, tmp_path, capsys):
    assert "no such directory (--expdir)" in fails(tmp_path / "nowhere", capsys)
    (tmp_path / "empty").mkdir()
    assert "no score.json below; score first" in fails(tmp_path / "empty", capsys)
    (tmp_path / "empty" / "results.json").write_text('[{"task": "all"}]')
    assert "results.json: must be a list of rows of scores" in fails(tmp_path / "empty", capsys)
    assert "no system 'x' with pruned decodings, only fixed, gated (--gated)" in fails(exp, capsys, "--gated", "x")
    (exp / "gated_0.0_0.5" / "decode_stats.jsonl").write_text("{\n")
    assert "decode_stats.jsonl:1: must be a JSON object" in fails(exp, capsys)


# -- parts ----------------------------------------------------------------------------------------
def test_page_typesets_and_escapes(tmp_path):
    page = Page("A & B", "since <now>")
    page.section("One & two")
    page.text("falls by -2.8 % in `--a-1 -1`")
    page.table(["a", "b"], [["-1.5 [-2, +1]", Mark("<good>", "good")]])
    text = page.html()
    assert "<h1>A &amp; B</h1>" in text and '<a href="#one-two-0">One &amp; two</a>' in text
    assert "by −2.8&#8239;% in <code>--a-1 -1</code>" in text
    assert "−1.5 [−2, +1]" in text and '<span class="mark good">&lt;good&gt;</span>' in text


def test_the_gated_system_can_be_chosen(tmp_path):
    exp = small(tmp_path, systems=(*TWO, ("fixed", (0.0, 0.5))))
    assert any("fixed 0/0.5" in line for line in make_report(exp, gated="fixed", resamples=10).summary)
