"""The frontier shows each measured point once."""

from dataclasses import replace

from tiny_experiment import build

from espnet_gated.analysis.experiment import TestSet, read_experiment
from espnet_gated.analysis.frontier import series_lines


def _with_ctc(test_set: TestSet, **changes: float) -> TestSet:
    """The test set with its gated system decoded by a search with CTC too, which changes scores of recognition."""
    again = []
    for d in test_set.of("gated"):
        rows = {key: row | changes if key[0] == "asr" else row for key, row in d.rows.items()}
        again.append(replace(d, system="gated+ctc", rows=rows))
    return replace(test_set, decodings=[*test_set.decodings, *again])


def _systems(test_set: TestSet, task: str, score: str) -> set[str]:
    return {line.system for line in series_lines(test_set, "gated", task, score, "gflops")}


def test_a_search_that_changes_no_score_of_a_task_is_shown_once(tmp_path):
    (test_set,) = read_experiment(build(tmp_path)).sets
    plain = _systems(test_set, "asr", "wer")
    test_set = _with_ctc(test_set, wer=1.5)
    assert _systems(test_set, "asr", "wer") == plain | {"gated+ctc"}
    assert _systems(test_set, "st", "bleu") == plain
    alone = replace(test_set, decodings=[d for d in test_set.decodings if d.system != "gated"])
    assert "gated+ctc" in _systems(alone, "st", "bleu")
