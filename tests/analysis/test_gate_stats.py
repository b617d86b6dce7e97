"""Statistics of gates agree with numbers worked out by hand."""

import numpy as np
import pytest

from espnet_gated.analysis import gate_stats
from espnet_gated.analysis.experiment import GateTable

ENCODER = ("0.feed_forward_macaron", "0.attn", "0.cgmlp", "1.attn", "1.cgmlp")


def table(values, tasks, langs, names=ENCODER) -> GateTable:
    return GateTable(names, np.array(values, dtype=float), np.array(tasks), np.array(langs))


def test_intervals_by_hand():
    # Wilson 1927 for 5 of 10; Newcombe 1998, table II, method 10: 56/70 against 48/80
    assert gate_stats.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert gate_stats.difference_interval(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert gate_stats.wilson(0.0, 10)[0] == 0.0
    low, high = gate_stats.difference_interval(1.0, 50, 1.0, 50)
    assert low < 0 < high


def test_open_shares_by_hand():
    t = table([[1, 0, 1, 0, 1], [0, 0, 1, 1, 1]], ["asr", "st"], ["deu", "deu"])
    assert t.kinds == ("feed_forward_macaron", "attn", "cgmlp") and t.n_layers == 2
    grid = t.grid(t.values.mean(axis=0))
    assert grid[0].tolist() == [0.5, 0.0, 1.0]
    assert np.isnan(grid[1, 0]) and grid[1, 1:].tolist() == [0.5, 1.0]


def test_differences_by_hand():
    # ita has no ST, so its utterance must not count: ASR 1, 1, 0, 1 and ST 0, 0, 1, 0
    values = [[g] for g in (1, 1, 0, 1, 0, 0, 1, 0, 0)]
    t = table(values, ["asr"] * 4 + ["st"] * 4 + ["asr"], ["deu", "fra"] * 4 + ["ita"], ("0.attn",))
    (found,) = gate_stats.task_contrasts(t, "encoder")
    assert (found.share_a, found.share_b, found.difference) == (0.75, 0.25, 0.5)
    # in deu 0.5 and 0.5, in fra 1 and 0: the mean difference, and halves of the intervals as of independent ones
    in_deu, in_fra = gate_stats.difference_interval(0.5, 2, 0.5, 2), gate_stats.difference_interval(1.0, 2, 0.0, 2)
    assert found.ci[0] == pytest.approx(0.5 - np.hypot(0 - in_deu[0], 1 - in_fra[0]) / 2)
    assert found.ci[1] == pytest.approx(0.5 + np.hypot(in_deu[1] - 0, in_fra[1] - 1) / 2) and not found.is_clear
    # of two languages in ST one contrast, of three in ASR three, each against the others
    names = [(c.group_a, c.group_b) for c in gate_stats.language_contrasts(t, "encoder")]
    assert names == [
        ("deu ASR", "others ASR"),
        ("fra ASR", "others ASR"),
        ("ita ASR", "others ASR"),
        ("deu ST", "fra ST"),
    ]


def test_a_gate_of_languages_is_none_of_tasks_where_tasks_have_other_languages():
    """English speech, whose gate is open, has four translations for each transcript, the others one."""
    langs = np.repeat(["eng", "deu", "fra"], 500)
    number = np.arange(500)
    tasks = np.concatenate([np.where(number % n == 0, "asr", "st") for n in (5, 2, 2)])
    t = table((langs == "eng").astype(float)[:, None], tasks, langs, ("0.attn",))
    (found,) = gate_stats.task_contrasts(t, "encoder")
    assert found.difference == 0.0 and not found.is_clear
    pooled = t.values[t.rows("asr")].mean() - t.values[t.rows("st")].mean()
    assert abs(pooled) > 0.2


def test_ranking_puts_the_greatest_first():
    made = [
        gate_stats.Contrast("encoder", m, "a", "b", 0, 0, d, (d, d)) for m, d in (("x", 0.1), ("y", -0.6), ("z", 0.3))
    ]
    assert [c.module for c in gate_stats.ranked(made)] == ["y", "z", "x"]


def test_entropy_and_explained_variance_by_hand():
    assert gate_stats.binary_entropy(np.array([0.0, 0.25, 0.5, 1.0])) == pytest.approx([0, 0.8113, 1, 0], abs=1e-4)
    gate, groups = np.array([[1.0], [1], [1], [0]]), np.array(["a", "a", "b", "b"])
    assert gate_stats.explained(gate, groups) == pytest.approx(1 / 3)  # 0.25 of 0.75
    assert gate_stats.explained(gate, np.array(["a"] * 4)) is None
    assert gate_stats.explained(np.ones((4, 2)), groups) is None

    t = table([[1, 0], [1, 1], [0, 0], [0, 1]], ["asr", "asr", "st", "st"], ["deu"] * 4, ("0.attn", "0.cgmlp"))
    v = gate_stats.variation(t)
    # attn follows the task alone, cgmlp nothing: half of the variance, one bit in all, half a bit within
    assert (v.by_task, v.by_language, v.by_both) == (0.5, None, 0.5)
    assert v.chance_by_both == pytest.approx(1 / 3)
    assert (v.entropy, v.entropy_within) == pytest.approx((1.0, 0.5))
    assert (v.constant, v.masks, v.n, v.modules) == (0, 4, 4, 2)


def test_position_curves_by_hand():
    late = {"0.src_attn": [0] * 10 + [1] * 10, "1.src_attn": [1] * 20, "0.self_attn": [0] * 20}
    rows = [{"task": "st_eng", "gates_decoder_by_position": late}, {"task": "asr"}]
    rows.append({"task": "asr", "gates_decoder_by_position": {"0.src_attn": [1, 1]}})  # too short
    curves = gate_stats.position_curves(rows)
    assert list(curves) == ["st"]
    assert curves["st"].tolist() == [[0.5] * 5 + [1.0] * 5]
