"""Several trainings compared: known differences, their mean and an interval that knows the utterances."""

import pytest
from tiny_experiment import decode, utterances

from espnet_gated.analysis.experiment import read_experiment
from espnet_gated.analysis.seeds import HEADER, seed_tables
from espnet_gated.bin.seeds import main
from espnet_gated.data.datadir import write_data_dir

# wrong words of each hypothesis (six words): control and gated, with its decoder open and half of it closed
WRONG = {"one": (1, 1, 3), "two": (2, 1, 2)}


@pytest.fixture
def experiments(tmp_path):
    utts = utterances(("deu",))  # 4 utterances of recognition, 24 words
    write_data_dir(tmp_path / "ref", utts)
    for name, (control, opened, half) in WRONG.items():
        exp = tmp_path / name
        decode(exp, utts, "control", wrong=control)
        decode(exp, utts, "gated", wrong=opened)
        decode(exp, utts, "gated", (0.0, 0.5), wrong=half)
    decode(tmp_path / "one", utts, "dense", wrong=5)  # in one experiment alone: not in the table
    return [tmp_path / name for name in WRONG]


def test_differences_are_averaged_over_trainings(experiments):
    ((title, header, rows),) = seed_tables([read_experiment(e) for e in experiments])
    assert title == "mini/test, 8 utterances, 2 trainings" and header == HEADER
    assert [row[:4] for row in rows] == [
        ["control", "4, 8", "-", "-"],
        ["gated 0/0", "4, 4", "-2.0 [-2, -2]", "-33.3 %"],  # every utterance is wrong alike: no interval
        ["gated 0/0.5", "12, 8", "+4.0 [4, 4]", "+66.7 %"],
    ]
    assert rows[0][4] == "23.33, 6.67"


def test_the_interval_is_of_the_utterances(experiments):
    """The one utterance that differs is drawn never, once or often."""
    for exp in experiments:
        text = exp / "gated_0.0_0.5" / "1best_recog" / "text_nospecial"
        control = (exp / "control_0.0_0.0" / "1best_recog" / "text_nospecial").read_text().splitlines()
        worse = control[0].split()[0] + " zero" * 6
        text.write_text("\n".join([worse, *control[1:]]) + "\n")
    ((_, _, rows),) = seed_tables([read_experiment(e) for e in experiments])
    (row,) = [row for row in rows if row[0] == "gated 0/0.5"]
    assert row[1:3] == ["9, 12", "+4.5 [0, 14]"]


def test_a_command_prints_the_table(experiments, capsys):
    assert main(["--expdirs", *map(str, experiments), "--resamples", "40", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mini/test, 8 utterances, 2 trainings\n|system|") and "|gated 0/0.5|12, 8|" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "dense"], "no test set was decoded by dense in each of "),
        (["--resamples", "1"], "resamples must be at least"),
        (["--expdirs", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_what_cannot_be_compared_is_named(experiments, capsys, options, message):
    assert main(["--expdirs", *map(str, experiments), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seeds: ") and message in error


def test_one_training_is_not_several(experiments, capsys):
    assert main(["--expdirs", str(experiments[0])]) == 1
    assert "need two or more, got 1" in capsys.readouterr().err
