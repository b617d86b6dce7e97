"""Prompts in a row as one long recording."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from espnet_gated.data.datadir import Utterance, write_data_dir
from local.asterisk import long_recording
from local.asterisk.long_recording import FS, HEADER, beginnings_found, decode, join, main


def utterances(folder):
    utts = []
    for i, seconds in enumerate((0.5, 1.0)):
        wav = folder / f"{i}.wav"
        soundfile.write(wav, np.full(int(seconds * FS), 0.1), FS)
        for task in ("asr", "st_eng"):
            text, samples = f"due parole {i}", int(seconds * FS)
            utts.append(Utterance(f"ann-{i}-{task}", str(wav), "ann", "ita", task, text, "x", samples))
    return utts


def test_prompts_in_a_row(tmp_path):
    (one,) = join(utterances(tmp_path), pause=0.25)
    assert (one.speaker, one.lang, list(one.texts)) == ("ann", "ita", ["due parole 0", "due parole 1"])
    assert one.starts == [0.0, 0.75]
    assert len(one.samples) == 2 * FS
    silent = np.flatnonzero(one.samples == 0)
    assert silent.tolist() == [*range(FS // 2, FS // 2 + FS // 4), *range(7 * FS // 4, 2 * FS)]


def test_beginnings():
    assert beginnings_found([0.0, 1.0, 2.0], [0.1, 1.9, 5.0], near=0.2) == 2


class Model:
    """Finds the first prompt, with one word wrong, and nothing of the second."""

    stats = (SimpleNamespace(skipped={"encoder": 0.25, "decoder": 0.5}),)

    def __init__(self, *_, **options):
        self.options = options

    def decode_long(self, samples, lang_sym, task_sym):
        assert (lang_sym, task_sym) == ("<ita>", "<asr>")
        return [(0.0, 0.5, "due porte 0")]


def test_what_is_counted(tmp_path):
    (one,) = join(utterances(tmp_path))
    row = dict(zip(HEADER, decode(Model(), one), strict=True))
    assert float(row.pop("RTF")) >= 0
    assert row == {
        "speaker": "ann", "minutes": "0.1", "prompts": "2", "sparsity": "", "skipped enc/dec": "0.25/0.50",
        "WER %": "66.7", "windows": "1", "beginnings found": "1 of 2",
    }  # fmt: skip


def test_the_table(tmp_path, monkeypatch, capsys):
    write_data_dir(tmp_path / "data", utterances(tmp_path))
    monkeypatch.setattr(long_recording, "Speech2Text", Model)
    assert main(["--data_dir", str(tmp_path / "data"), "--exp_dir", "exp", "--sparsities", "0", "0,0.5"]) == 0
    table = capsys.readouterr().out
    assert [line.split("|")[4].strip() for line in table.splitlines()[2:]] == ["0", "0,0.5"]


def test_windows_that_overlap_are_refused(tmp_path):
    (one,) = join(utterances(tmp_path))
    model = Model()
    model.decode_long = lambda *_, **__: [(0.0, 0.5, "a"), (0.4, 0.6, "b")]
    with pytest.raises(RuntimeError, match="windows of ann overlap"):
        decode(model, one)


def test_no_data(tmp_path, capsys):
    assert main(["--data_dir", str(tmp_path / "none"), "--exp_dir", "exp"]) == 1
    assert "long_recording: " in capsys.readouterr().err
