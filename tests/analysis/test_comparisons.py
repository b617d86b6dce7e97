"""What is compared with what, and how it is shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_experiment import TEXT, TWO, build, run, small

from espnet_gated.analysis.comparisons import NLL, Comparison, compare
from espnet_gated.analysis.experiment import Decoding, read_experiment
from espnet_gated.analysis.headline import difference, rival_lines
from espnet_gated.analysis.metrics import PairedResult, paired_bootstrap
from espnet_gated.analysis.results import gather, overall, report
from espnet_gated.analysis.table import LARGE
from espnet_gated.analysis.view import View


@pytest.mark.parametrize(
    ("metric", "n", "text"),
    [
        ("wer", LARGE - 1, "+0.1 [-0.0, +0.1]"),
        ("wer", LARGE, "+0.07 [-0.00, +0.15]"),
        ("bleu", LARGE, "+0.07 [-0.00, +0.15]"),
        (f"{NLL} asr", 8, "+0.073 [-0.003, +0.146]"),
    ],
)
def test_hundredths_are_shown_where_the_set_is_large(metric, n, text):
    decoding = Decoding("a", Path("."), "a", "a", (0.0, 0.0), {})
    result = PairedResult(metric, 0.1458, 0.2188, 0.0729, (-0.0034, 0.1463), 0.06, n)
    assert difference(Comparison("price of sparsity", decoding, decoding, result)) == text


def test_paired_comparisons_are_the_ones_of_the_metrics(tmp_path):
    experiment = read_experiment(build(tmp_path))
    found = compare(experiment, experiment.sets[0], "gated", resamples=50)
    assert found.missing == []
    (c,) = [c for c in found.done if c.a.system == "fixed" and c.result.metric == "wer"]
    refs, a, b = ([text] * 8 for text in (TEXT, "zero zero zero four five six", "zero two three four five six"))
    assert c.result == paired_bootstrap(refs, a, b, "wer", n_resamples=50)
    assert (c.b.label, c.verdict, c.kind) == ("gated 0/0.5", "better", "same sparsity")
    assert len(found.done) == 2 * (4 + 1 + 1)  # dense to gated, fixed to gated, open to half of the decoder


def test_a_rival_that_is_better_is_said_to_be(tmp_path):
    experiment = read_experiment(build(tmp_path))
    (c,) = [
        c
        for c in compare(experiment, experiment.sets[0], "gated", resamples=50).done
        if c.a.system == "fixed" and c.result.metric == "wer"
    ]
    low, high = c.result.ci
    lost = replace(c, result=replace(c.result, ci=(-high, -low)))
    assert rival_lines([lost]) == [
        "gated beats fixed at the same sparsity by more than the 95 % interval in 0 of 1 comparisons: nowhere; "
        "it is worse in 1: WER at 0/0.5."
    ]
    assert rival_lines([c])[0].endswith("in 1 of 1 comparisons: WER at 0/0.5.")


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


def test_pairs_without_a_metric_leave_its_columns_free(tmp_path):
    """The control has other utterances: there is nothing to pair in likelihoods, and the page says so."""
    exp = small(tmp_path, systems=[*TWO, ("fixed", (0.5, 0.5))])
    for directory in exp.iterdir():
        file = directory / "decode_stats.jsonl"
        rows = [json.loads(line) | {"nll": 1.0} for line in file.read_text().splitlines()]
        if directory.name.startswith("control"):
            rows = [row | {"nll": None if row["task"] == "asr" else 1.0} for row in rows]
            scores = json.loads((directory / "score.json").read_text())
            (directory / "score.json").write_text(json.dumps([row | {"n": row["n"] + 1} for row in scores]))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = run(exp).text
    assert "The systems were decoded on different utterances: decode those anew that are of an earlier set." in page
    assert "decoded on different utterances" in report(gather(exp))


def test_references_without_a_word_are_not_compared(tmp_path):
    exp = small(tmp_path)
    file = tmp_path / "ref" / "text"
    lines = [line.partition(TEXT) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [head + ("..." if "<asr>" in head else found) for head, found, _ in lines]
    file.write_text("".join(f"{line}\n" for line in texts), encoding="utf-8")
    experiment = read_experiment(exp)
    found = compare(experiment, experiment.sets[0], "gated", resamples=10)
    assert [c.result.metric for c in found.done] == ["bleu"] and not found.missing


def test_linked_experiments_are_found(tmp_path):
    exp = small(tmp_path)
    (tmp_path / "disk").mkdir()
    for directory in list(exp.glob("control*")):
        (exp / directory.name).rename(tmp_path / "disk" / directory.name)
        (exp / directory.name).symlink_to(tmp_path / "disk" / directory.name)
    (exp / "round").symlink_to(exp)
    assert sorted({row["system"] for row in gather(exp).rows}) == ["control", "gated"]
    assert [d.label for d in read_experiment(exp).sets[0].decodings] == ["control", "gated 0.5/0.5"]
