"""Scores agree with values worked out by hand, and broken decodings are named."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from espnet_gated.analysis.metrics import (
    bleu,
    bleu_tokenizer,
    chrf,
    error_rate,
    normalize,
    paired_means,
)
from espnet_gated.analysis.scoring import (
    ScoringError,
    aggregate_stats,
    paired_bootstrap,
    score_decode_dir,
    score_rows,
)
from espnet_gated.bin import report, score
from espnet_gated.data.datadir import Utterance, write_data_dir

ASR = Utterance("a-1-asr", "1.wav", "a", "deu", "asr", "Guten Tag, Herr Maier!", "<na>", 16000)
ST = replace(ASR, utt_id="a-1-st_eng", task="st_eng", text="The cat sat on the mat today")
FRA = replace(ASR, utt_id="b-1-asr", spk="b", lang="fra", text="L’eau")
UTTS = [ASR, ST, FRA]
HYPS = {"a-1-asr": "guten tag frau", "a-1-st_eng": "The cat sat on the mat", "b-1-asr": "l'eau"}
NAMES = {"corpus": "mini", "set": "test", "system": "dense"}


def decoded(path: Path, hyps: dict[str, str], stats: list[dict] | None = None) -> Path:
    (path / "1best_recog").mkdir(parents=True)
    text = "".join(f"{utt} {hyp}\n" for utt, hyp in hyps.items())
    (path / "1best_recog" / "text_nospecial").write_text(text, encoding="utf-8")
    if stats is not None:
        lines = "".join(json.dumps(entry) + "\n" for entry in stats)
        (path / "decode_stats.jsonl").write_text(lines, encoding="utf-8")
    return path


@pytest.fixture
def ref(tmp_path) -> Path:
    write_data_dir(tmp_path / "ref", UTTS)
    return tmp_path / "ref"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hallo, WELT!", "hallo welt"),
        ("L’eau – d'Évian", "l'eau d'évian"),
        ("state-of-the-art - 'quoted'", "state-of-the-art quoted"),
        ("\uff28\uff49 z.B.\tx", "hi z b x"),
        ("¿Qué? …", "qué"),
        ("5 € + 3", "5 € + 3"),
        ("", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalize(text) == normal
    assert normalize(normal) == normal


def test_wer_by_hand():
    # one substitution and one deletion in 4 words, two insertions on 1 word: 4 / 5
    result = error_rate(["a b c d", "e"], ["a x c", "e f g"], n_resamples=50)
    assert result.value == pytest.approx(80)
    assert error_rate(["A, b!"], ["a b"], n_resamples=2).value == 0
    assert error_rate(["a b"], [""], n_resamples=2).value == 100
    # an empty reference has no words, but what is said there is wrong
    assert error_rate(["a b", "..."], ["a b", "c"], n_resamples=50).value == pytest.approx(50)
    assert error_rate(["..."], ["a"], n_resamples=2).value is None


def test_nearly_empty_hypotheses_have_a_score():
    """sacrebleu's bootstrap then mixes kinds of floats."""
    refs = ["one two three", "four five", "six seven", "eight nine", "ten eleven", "twelve"]
    for hyps in (["the man .", "", "", "", "", ""], ["", "", "", "", "", "twelve"]):
        for found in (chrf(refs, hyps, n_resamples=100), bleu(refs, hyps, "eng", n_resamples=100)):
            assert 0 <= found.ci[0] <= found.value + 1e-9 and found.ci[1] <= 100


def test_characters_are_words_where_words_are_not_written_apart():
    """Han, kana, Thai, …; other words between them stay whole, and a mark is part of its character."""
    rate = lambda ref, hyp, lang: error_rate([ref], [hyp], n_resamples=2, langs=[lang])  # noqa: E731
    assert rate("今天天气好", "今天天汽好", "cmn").value == pytest.approx(20)
    assert rate("我用 iPhone", "我 用iphones", "zho").value == pytest.approx(100 / 3)
    assert rate("ที่", "ที", "tha").value == 100
    assert rate("오늘 날씨", "오늘 날시", "kor").value == pytest.approx(50)
    assert rate("good day", "good say", "eng") == error_rate(["good day"], ["good say"], n_resamples=2)
    assert "|unsegmented:characters|" in rate("今", "今", "jpn").signature
    mixed = error_rate(["今天", "good day"], ["今日", "good day"], n_resamples=2, langs=["jpn", "eng"])
    assert mixed.value == pytest.approx(25)
    paired = paired_bootstrap(
        ["今天", "go"], ["今日", "go"], ["今天", "go"], "wer", langs=["jpn", "eng"], n_resamples=20
    )
    assert (paired.score_a, paired.score_b) == (pytest.approx(100 / 3), 0)


def test_cer_by_hand():
    assert error_rate(["abcd"], ["abd"], "char", n_resamples=2).value == pytest.approx(25)
    assert error_rate(["ab cd"], ["abcd"], "char", n_resamples=2).value == pytest.approx(20)


def test_bleu_by_hand():
    # all n-grams match, 6 tokens for 7: only the brevity penalty counts
    result = bleu(["the cat sat on the mat today"], ["the cat sat on the mat"], "eng", 20)
    assert result.value == pytest.approx(100 * math.exp(1 - 7 / 6), abs=1e-6)
    assert "tok:13a" in result.signature and "case:mixed" in result.signature
    # precisions 5/6, 3/5, 1/4 and a smoothed 1/6
    result = bleu(["a b c d e f"], ["a b c x e f"], "eng", 20)
    assert result.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, abs=1e-6)
    assert bleu(["The cat sat down"], ["the cat sat down"], "eng", 20).value < 100
    assert bleu(["nothing alike here"], [""], "eng", 20).ci == (0, 0)


def test_chrf_bounds():
    assert chrf(["Good day"], ["Good day"], 20).value == pytest.approx(100)
    assert chrf(["aaaa"], ["bbbb"], 20).value == 0


def test_bleu_tokenizers():
    assert [bleu_tokenizer(lang) for lang in ("eng", "zho", "jpn")] == ["13a", "zh", "char"]
    assert bleu(["我 喜欢 猫 和狗"], ["我 喜欢 猫 和狗"], "zho", 20).value == pytest.approx(100)


def test_interval_covers_the_true_rate():
    """95 % intervals of samples with a known word error rate hold it about that often."""
    rng = np.random.default_rng(0)
    trials, true = 120, 20.0
    covered = 0
    for trial in range(trials):
        wrong = rng.random((40, 8)) < true / 100
        hyps = [" ".join("x" if w else "a" for w in row) for row in wrong]
        low, high = error_rate(["a " * 8] * 40, hyps, n_resamples=200, seed=trial).ci
        covered += low <= true <= high
    assert 0.87 <= covered / trials <= 1


def test_interval_is_seeded_and_holds_the_value():
    refs = [f"a b c d {i}" for i in range(20)]
    hyps = [ref if i % 3 else "a b" for i, ref in enumerate(refs)]
    one = error_rate(refs, hyps, n_resamples=99, seed=1)
    assert one == error_rate(refs, hyps, n_resamples=99, seed=1)
    assert len({error_rate(refs, hyps, n_resamples=99, seed=s).ci for s in range(5)}) > 1
    assert one.ci[0] < one.value < one.ci[1]


def test_no_interval_passes_a_perfect_score():
    refs = [f"the cat number {i} sat down here" for i in range(20)]
    assert bleu(refs, ["the dog sat", *refs[1:]], "eng", 50).ci[1] == 100.0


def test_paired_means_by_hand():
    result = paired_means([1.0, 2.0, 3.0], [0.5, 2.0, 2.0], "nll", n_resamples=200)
    assert (result.score_a, result.score_b, result.n) == (2.0, 1.5, 3) and result.difference == pytest.approx(-0.5)
    assert -1.0 <= result.ci[0] < -0.5 < result.ci[1] <= 0.0
    with pytest.raises(ValueError, match="got 1 and 2 numbers to compare"):
        paired_means([1.0], [1.0, 2.0], "nll")


@pytest.mark.parametrize("metric", ["wer", "cer", "bleu", "chrf"])
def test_paired_bootstrap(metric):
    refs = [f"the quick fox number {i} jumps over the lazy dog" for i in range(40)]
    worse = [ref.replace("quick", "slow") if i % 2 else ref for i, ref in enumerate(refs)]
    same = paired_bootstrap(refs, worse, worse, metric, n_resamples=100)
    assert (same.difference, same.ci, same.p) == (0, (0, 0), 1)
    result = paired_bootstrap(refs, worse, refs, metric, n_resamples=200)
    better = -1 if metric in ("wer", "cer") else 1
    assert result.difference * better > 0
    assert min(bound * better for bound in result.ci) > 0
    assert result.p < 0.05
    back = paired_bootstrap(refs, refs, worse, metric, n_resamples=200)
    assert back.difference == pytest.approx(-result.difference)
    assert back.ci == pytest.approx((-result.ci[1], -result.ci[0]))


def test_paired_bootstrap_agrees_with_single_scores():
    refs = ["the cat sat on the mat today", "he went home and slept all day"]
    a = ["the cat sat on the mat", "he went home and slept"]
    b = ["the cat sat on a mat today", "he went home and slept all day"]
    result = paired_bootstrap(refs, a, b, "bleu", n_resamples=10)
    assert result.score_a == pytest.approx(bleu(refs, a, "eng").value)
    assert result.score_b == pytest.approx(bleu(refs, b, "eng").value)


def test_noise_is_not_a_difference():
    rng = np.random.default_rng(3)
    refs = ["a b c d e f g h"] * 60
    noisy = [[" ".join("x" if rng.random() < 0.2 else w for w in ref.split()) for ref in refs] for _ in range(2)]
    assert paired_bootstrap(refs, *noisy, "wer", n_resamples=300).p > 0.05


def test_paired_bootstrap_refuses():
    with pytest.raises(ValueError, match="metric must be one of wer, cer, bleu, chrf; got 'ter'"):
        paired_bootstrap(["a"], ["a"], ["a"], "ter")
    with pytest.raises(ValueError, match="1 references but 2 hypotheses"):
        paired_bootstrap(["a"], ["a", "b"], ["a"], "wer")
    with pytest.raises(ValueError, match="no utterances"):
        paired_bootstrap([], [], [], "bleu")


def test_rows(ref, tmp_path):
    rows = score_decode_dir(
        ref,
        decoded(tmp_path / "dec", HYPS),
        corpus="mini",
        set_name="test",
        system="dense",
        n_resamples=50,
    )
    places = [(r["task"], r["src"], r["tgt"], r["n"]) for r in rows]
    assert places == [
        ("all", "all", "all", 3),
        ("asr", "all", "all", 2),
        ("st", "all", "all", 1),
        ("asr", "deu", "deu", 1),
        ("asr", "fra", "fra", 1),
        ("st", "deu", "eng", 1),
    ]
    overall, asr, st, deu, fra, deu_eng = rows
    assert deu["wer"] == pytest.approx(50) and fra["wer"] == 0
    assert overall["wer"] == asr["wer"] == pytest.approx(40)
    assert overall["bleu"] == st["bleu"] == deu_eng["bleu"]
    assert st["bleu"] == pytest.approx(100 * math.exp(1 - 7 / 6), abs=1e-6)
    assert asr["bleu"] is asr["chrf"] is asr["bleu_ci"] is None
    assert st["wer"] is st["cer"] is st["wer_ci"] is None
    assert json.loads((tmp_path / "dec" / "score.json").read_text()) == rows
    meta = json.loads((tmp_path / "dec" / "score_meta.json").read_text())
    assert set(meta["signatures"]) == {"wer", "cer", "bleu", "chrf"}
    assert meta["normalization"]["name"] in meta["signatures"]["wer"]


def test_bleu_of_languages_that_need_different_tokenisers_is_not_pooled():
    zho = replace(ST, utt_id="a-1-st_zho", task="st_zho", text="我喜欢猫和狗")
    rows = score_rows([ST, zho], HYPS | {"a-1-st_zho": "我喜欢猫和狗"}, {}, NAMES, n_resamples=20)
    value = {(r["task"], r["tgt"]): r["bleu"] for r in rows}
    assert value["all", "all"] is value["st", "all"] is None
    assert value["st", "zho"] == pytest.approx(100) and value["st", "eng"] < 100
    assert rows[0]["chrf"] is not None


def test_statistics():
    entry = {"sparsity_encoder": 0.3, "sparsity_decoder": 0.5, "skipped_encoder": 0.25}
    stats = [
        entry | {"latency_s": 1.0, "seconds": 10.0, "gflops": 8.0},
        entry | {"latency_s": 2.0, "seconds": 2.0, "gflops": None},
        entry | {"latency_s": 6.0, "seconds": 12.0, "gflops": 4.0, "skipped_encoder": 0.4},
    ]
    row = aggregate_stats(stats)
    assert (row["sparsity_encoder"], row["sparsity_decoder"], row["sparsity"]) == (0.3, 0.5, 0.4)
    assert row["skipped_encoder"] == pytest.approx(0.3) and row["skipped_decoder"] is None
    assert (row["latency_s"], row["latency_median_s"]) == (3.0, 2.0)
    assert row["rtf"] == pytest.approx(9 / 24)
    assert (row["gflops"], row["gflops_encoder"], row["n_flops"]) == (6.0, None, 2)
    empty = aggregate_stats([])
    assert empty.pop("n_flops") == 0 and set(empty.values()) == {None}


def test_missing_hypothesis_names_the_utterance(ref, tmp_path, capsys):
    hyps = {utt: hyp for utt, hyp in HYPS.items() if utt != "a-1-st_eng"}
    path = decoded(tmp_path / "dec", hyps)
    cmd = ["--ref", str(ref), "--decode_dir", str(path), "--corpus", "c", "--set", "s"]
    assert score.main([*cmd, "--system", "dense"]) == 1
    says = "text_nospecial: a-1-st_eng: hypothesis is missing (1 of 3 reference utterances"
    assert says in capsys.readouterr().err
    assert not (path / "score.json").exists()


def test_empty_hypotheses_are_scored(ref, tmp_path, capsys):
    path = decoded(tmp_path / "dec", dict.fromkeys(HYPS, ""))
    cmd = ["--ref", str(ref), "--decode_dir", str(path), "--corpus", "c", "--set", "s"]
    assert score.main([*cmd, "--system", "dense", "--resamples", "20"]) == 0
    row = json.loads((path / "score.json").read_text())[0]
    assert (row["wer"], row["bleu"], row["chrf"]) == (100, 0, 0)
    assert "dense on c/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "decode_stats.jsonl:1: must be a JSON object with utt_id"),
        (["[1]"], "decode_stats.jsonl:1: must be a JSON object with utt_id"),
        (['{"utt_id": "a-1-asr"}'] * 2, "decode_stats.jsonl:2: a-1-asr: id seen before"),
        (['{"utt_id": "a-1-asr"}'], "a-1-st_eng: line is missing .2 of 3"),
        (
            ['{"utt_id": "a-1-asr", "latency_s": "1s"}'],
            ":1: a-1-asr: latency_s must be a finite number or null, got '1s'",
        ),
        (['{"utt_id": "a-1-asr", "nll": NaN}'], ":1: a-1-asr: nll must be a finite number or null, got nan"),
    ],
)
def test_broken_statistics(ref, tmp_path, lines, says):
    path = decoded(tmp_path / "dec", HYPS)
    (path / "decode_stats.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ScoringError, match=says):
        score_decode_dir(ref, path, corpus="c", set_name="s", system="dense")


def test_broken_hypotheses(ref, tmp_path):
    names = {"corpus": "c", "set_name": "s", "system": "dense"}
    with pytest.raises(ScoringError, match="text_nospecial: file is missing; decode first"):
        score_decode_dir(ref, tmp_path, **names)
    path = decoded(tmp_path / "dec", HYPS)
    with (path / "1best_recog" / "text_nospecial").open("a") as file:
        file.write("a-1-asr again\n")
    with pytest.raises(ScoringError, match="text_nospecial:4: a-1-asr: id seen before"):
        score_decode_dir(ref, path, **names)


@pytest.mark.parametrize("number", [0, 1, 19])
def test_an_interval_takes_resamples(number, tmp_path, capsys):
    message = f"resamples must be at least 20, got {number} (--resamples)\n"
    common = ["--resamples", str(number)]
    places = [f"--{name}={tmp_path}" for name in ("ref", "decode_dir", "corpus", "set", "system")]
    assert score.main([*places, *common]) == 1
    assert capsys.readouterr().err == f"score: {message}"
    assert report.main(["--expdir", str(tmp_path), *common]) == 1
    assert capsys.readouterr().err == f"report: {message}"
