"""The page holds everything in itself; what is missing makes it shorter, what is broken is named in one line."""

import base64
import contextlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from espnet_gated.analysis import gate_stats, headline, plots
from espnet_gated.analysis.comparisons import compare
from espnet_gated.analysis.experiment import ReportError, gate_table, read_experiment
from espnet_gated.analysis.findings import View
from espnet_gated.analysis.metrics import paired_bootstrap
from espnet_gated.analysis.page import Mark, Page
from espnet_gated.analysis.report import make_report
from espnet_gated.analysis.results import gather, overall
from espnet_gated.bin import report as report_bin
from espnet_gated.data.datadir import Utterance, write_data_dir

ENCODER = ("0.feed_forward_macaron", "0.attn", "0.cgmlp", "1.attn", "1.cgmlp")
DECODER = ("0.self_attn", "0.src_attn", "0.feed_forward")
TEXT = "one two three four five six"
# (encoder, decoder) -> gates of ASR and of ST
GATES = {
    "encoder": {"asr": (0, 0, 1, 0, 1), "st_eng": (1, 1, 0, 0, 1)},
    "decoder": {"asr": (0, 1, 0), "st_eng": (1, 0, 1)},
}


def utterances(langs=("deu", "fra")) -> list[Utterance]:
    return [
        Utterance(f"{lang}{i}-{task}", f"{lang}{i}.wav", f"{lang}{i}", lang, task, TEXT, "<na>", 16000)
        for lang in langs
        for i in range(4)
        for task in ("asr", "st_eng")
    ]


def decode(exp: Path, utts, system: str, asked=(0.0, 0.0), wrong=0, latency=1.0, gflops=10.0, drop=(), **extra) -> Path:
    """A scored decoding directory; ``wrong`` words of each hypothesis differ from the reference."""
    directory = exp / f"{system}_{asked[0]}_{asked[1]}"
    (directory / "1best_recog").mkdir(parents=True)
    hyp = " ".join(["zero"] * wrong + TEXT.split()[wrong:])
    hyps = "".join(f"{u.utt_id} {hyp}\n" for u in utts)
    (directory / "1best_recog" / "text_nospecial").write_text(hyps)
    lines = []
    for i, u in enumerate(utts):
        row = {"utt_id": u.utt_id, "lang": u.lang, "task": u.task, "seconds": 2.0, "latency_s": latency}
        row |= {"encode_s": 0.4 * latency, "search_s": 0.6 * latency, "steps": 6, "gflops": gflops}
        row |= {"sparsity_encoder": asked[0], "sparsity_decoder": asked[1]}
        for stack, share, names in (("encoder", asked[0], ENCODER), ("decoder", asked[1], DECODER)):
            values = GATES[stack][u.task] if share else (1,) * len(names)
            row[f"gates_{stack}"] = dict(zip(names, map(float, values), strict=True))
            row[f"skipped_{stack}"] = share + (0.06 if share and i == 0 else 0.0)
        lines.append(json.dumps({k: v for k, v in (row | extra).items() if k not in drop}))
    (directory / "decode_stats.jsonl").write_text("\n".join(lines) + "\n")
    meta = {
        "versions": {"torch": "9.9"},
        "machine": {"cpu": "Fast <CPU>"},
        "threads": 1,
        "seed": 7,
        "command": "decode me",
    }
    (directory / "decode_meta.json").write_text(json.dumps(meta))
    n, wer = len(utts), 100 * wrong / 6
    rows = [scores(system, asked, task, n, wer, latency, gflops) for task in ("all", "asr", "st")]
    (directory / "score.json").write_text(json.dumps(rows))
    signatures = {"signatures": {"bleu": "tok:13a"}, "normalization": {"name": "some-rule", "rule": "lower case"}}
    (directory / "score_meta.json").write_text(json.dumps(signatures | {"ref": str(exp.parent / "ref")}))
    return directory


def scores(system, asked, task, n, wer, latency, gflops) -> dict:
    row = {"corpus": "mini", "set": "test", "system": system, "task": task, "n": n}
    row |= {"src": "all", "tgt": "all"}
    row |= {"sparsity_encoder": asked[0], "sparsity_decoder": asked[1], "sparsity": sum(asked) / 2}
    row |= {"skipped_encoder": asked[0], "skipped_decoder": asked[1], "latency_s": latency, "rtf": latency / 2}
    row |= {"gflops": gflops, "gflops_encoder": gflops, "gflops_decoder": gflops}
    asr, st = task != "st", task != "asr"
    row |= {"wer": wer if asr else None, "cer": 1.0 if asr else None, "wer_ci": [wer - 1, wer + 1] if asr else None}
    return row | {"bleu": 40.0 - wer if st else None, "chrf": 50.0 if st else None, "bleu_ci": None}


@pytest.fixture(scope="module", autouse=True)
def coarse_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 40)
        yield


@pytest.fixture
def exp(tmp_path) -> Path:
    return build(tmp_path)


def build(tmp_path: Path) -> Path:
    """The dense control, a gated system at four sparsities and a fixed mask."""
    utts = utterances()
    write_data_dir(tmp_path / "ref", utts)
    exp = tmp_path / "exp"
    decode(exp, utts, "control", wrong=1)
    decode(exp, utts, "gated", wrong=1)
    decode(exp, utts, "gated", (0.0, 0.5), wrong=1, latency=0.6, gflops=7.0)
    decode(exp, utts, "gated", (0.5, 0.0), wrong=2, latency=0.8, gflops=6.0)
    decode(exp, utts, "gated", (0.7, 0.7), wrong=3, latency=0.5, gflops=3.0)
    decode(exp, utts, "fixed", (0.0, 0.5), wrong=3, latency=0.6, gflops=7.0)
    return exp


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


# -- the page -------------------------------------------------------------------------------------
class Reader(HTMLParser):
    """Collects what a page loads, its pictures, its table cells and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.pictures: list[bytes] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.pictures.append(base64.b64decode(value.partition(",")[2]))
            elif name in ("src", "href", "srcset", "data") and not value.startswith("#"):
                self.loads.append(value)

    def handle_data(self, data):
        if self.tags and self.tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u202f", " ")


def run(exp: Path, *options: str) -> Reader:
    assert report_bin.main(["--expdir", str(exp), "--resamples", "20", *options]) == 0
    return Reader((exp / "report" / "report.html").read_text(encoding="utf-8"))


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
        "gated against control (WER 16.7, BLEU 23.3, 10.00 GFLOPs, 1000 ms)",
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


def test_paired_comparisons_are_the_ones_of_the_metrics(exp):
    experiment = read_experiment(exp)
    found = compare(experiment, experiment.sets[0], "gated", resamples=50)
    assert found.missing == []
    (c,) = [c for c in found.done if c.a.system == "fixed" and c.result.metric == "wer"]
    refs, a, b = ([text] * 8 for text in (TEXT, "zero zero zero four five six", "zero two three four five six"))
    assert c.result == paired_bootstrap(refs, a, b, "wer", n_resamples=50)
    assert (c.b.label, c.verdict, c.kind) == ("gated 0/0.5", "better", "same sparsity")
    assert len(found.done) == 2 * (4 + 1)


def test_the_likelihood_of_the_true_words_is_compared(tmp_path):
    exp = build(tmp_path)
    assert "Likelihood of the true words" not in run(exp).text
    for directory in exp.iterdir():
        if (file := directory / "decode_stats.jsonl").is_file():
            base = 1.0 if directory.name.startswith("gated") else 1.5
            rows = [json.loads(line) | {"nll": base + i / 100} for i, line in enumerate(file.read_text().splitlines())]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run(exp).text
    assert (
        "Likelihood of the true words" in text
        and "\N{MINUS SIGN}0.500 [\N{MINUS SIGN}0.500, \N{MINUS SIGN}0.500]" in text
    )
    assert (
        "gated beats fixed at the same sparsity by more than the 95 % interval in 2 of 2 comparisons of the likelihood "
        "of the true words: NLL ASR at 0/0.5, NLL ST at 0/0.5."
    ) in text


def test_systems_with_ctc_are_compared_among_themselves(tmp_path):
    points = [("control", (0.0, 0.0)), ("gated", (0.0, 0.5)), ("fixed", (0.0, 0.5))]
    points += [(f"{system}+ctc", asked) for system, asked in points[:2]]
    experiment = read_experiment(small(tmp_path, systems=points))
    found = compare(experiment, experiment.sets[0], "gated", resamples=10)
    assert {(c.kind, c.a.label, c.b.label) for c in found.done} == {
        ("price of sparsity", "control", "gated 0/0.5"),
        ("same sparsity", "fixed 0/0.5", "gated 0/0.5"),
        ("price of sparsity", "control+ctc", "gated+ctc 0/0.5"),
    }
    assert [row["system"] for row in overall(gather(tmp_path / "exp").rows)["mini", "test"]][-2:] == [
        "control+ctc",
        "gated+ctc",
    ]
    page = run(tmp_path / "exp").text
    assert "gated+ctc 0/0.5 against control+ctc: WER +0.0 [+0.0, +0.0], BLEU +0.0 [+0.0, +0.0]." in page


def test_systems_with_ctc_may_be_the_only_ones(tmp_path):
    """They are held against the dense system with CTC, not against themselves."""
    experiment = read_experiment(small(tmp_path, systems=[(f"{system}+ctc", asked) for system, asked in TWO]))
    (test_set,) = experiment.sets
    assert View(test_set, "gated+ctc").reference.label == "control+ctc"
    found = compare(experiment, test_set, "gated+ctc", resamples=10)
    assert {(c.kind, c.a.label, c.b.label) for c in found.done} == {
        ("price of sparsity", "control+ctc", "gated+ctc 0.5/0.5")
    }
    assert "gated+ctc against control+ctc (" in run(tmp_path / "exp").text


# -- less data, smaller report --------------------------------------------------------------------
TWO = (("control", (0.0, 0.0)), ("gated", (0.5, 0.5)))


def small(tmp_path, langs=("deu",), tasks=("asr", "st_eng"), systems=TWO, **kw):
    utts = [u for u in utterances(langs) if u.task in tasks]
    write_data_dir(tmp_path / "ref", utts)
    for system, asked in systems:
        decode(tmp_path / "exp", utts, system, asked, **kw)
    return tmp_path / "exp"


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
        ({"skipped_decoder": "half"}, "skipped_decoder must be a number or null, got 'half'"),
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
