"""The check names file, line and utterance of every broken input; the filter drops just those."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_gated.bin import check_data, filter_data
from espnet_gated.data.check import Limits, check_data_dir
from espnet_gated.data.datadir import Utterance, read_data_dir, write_data_dir
from espnet_gated.data.filter import LOG_FILE, filter_data_dir


def tone(path: Path, seconds: float, fs: int = 16000, channels: int = 1) -> int:
    wave = 0.1 * np.sin(np.arange(int(seconds * fs)) / 10)
    soundfile.write(path, np.stack([wave] * channels, axis=1), fs)
    return len(wave)


@pytest.fixture
def utts(tmp_path) -> list[Utterance]:
    """Two audio files, the second with an ASR and an ST utterance."""
    n1, n2 = tone(tmp_path / "1.wav", 1.0), tone(tmp_path / "2.wav", 2.0)
    one = Utterance("eva-1-asr", str(tmp_path / "1.wav"), "eva", "deu", "asr", "Guten Tag", "guten tag", n1)
    two = replace(one, utt_id="eva-2-asr", wav=str(tmp_path / "2.wav"), num_samples=n2)
    return [one, two, replace(two, utt_id="eva-2-st_eng", task="st_eng", text="Good day")]


@pytest.fixture
def data(tmp_path, utts) -> Path:
    write_data_dir(tmp_path / "train", utts)
    return tmp_path / "train"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def lines_of(capsys, *cmd: str) -> tuple[int, list[str]]:
    code = check_data.main(list(cmd))
    return code, capsys.readouterr().out.splitlines()


def test_good_directory(data, capsys):
    assert lines_of(capsys, str(data)) == (0, [f"{data}: no problems"])


def test_audio_that_cannot_be_used(data, tmp_path, capsys):
    tone(tmp_path / "slow.wav", 1.0, fs=8000)
    tone(tmp_path / "stereo.wav", 1.0, channels=2)
    tone(tmp_path / "empty.wav", 0.0)
    (tmp_path / "noise.wav").write_bytes(b"not audio at all")
    for name, kind, says in (
        ("gone.wav", "missing-audio", "audio file is missing"),
        ("slow.wav", "rate", "sample rate is 8000 Hz, must be 16000"),
        ("stereo.wav", "channels", "has 2 channels"),
        ("empty.wav", "no-samples", "audio has no samples"),
        ("noise.wav", "unreadable-audio", "cannot read audio"),
        ("1.wav gain -1 |", "pipe", "Kaldi pipes are not supported"),
    ):
        rows = (data / "wav.scp").read_text().splitlines()
        rows[0] = f"eva-1-asr {tmp_path / name}"
        (data / "wav.scp").write_text("\n".join(rows) + "\n")
        code, lines = lines_of(capsys, str(data))
        assert code == 1
        assert lines[0].startswith(f"{data}/wav.scp:1: eva-1-asr: {says}"), lines
        assert lines[1:] == [f"{data}: 1 problem(s): 1 {kind}"]


def test_empty_path_is_one_problem(data, capsys):
    edit(data / "wav.scp", str(data.parent / "1.wav"), "")
    code, lines = lines_of(capsys, str(data))
    assert code == 1 and lines[:-1] == [f"{data}/wav.scp:1: eva-1-asr: audio path is empty"]


def test_number_of_samples_against_audio(data, capsys):
    edit(data / "utt2num_samples", "eva-2-asr 32000", "eva-2-asr 31999")
    code, lines = lines_of(capsys, str(data))
    assert code == 1
    says = "eva-2-asr: says 31999 samples, the audio has 32000"
    assert lines[0].startswith(f"{data}/utt2num_samples:2: {says}")


def test_lengths(data, capsys):
    code, lines = lines_of(capsys, str(data), "--min_seconds", "1.5", "--max_seconds", "1.9")
    assert code == 1
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines[:-1]] == [
        "utt2num_samples:1",
        "utt2num_samples:2",
        "utt2num_samples:3",
    ]
    assert "1.000 s is shorter than 1.5 s" in lines[0]
    assert "2.0 s is longer than 1.9 s" in lines[1]
    assert lines[-1].endswith("3 problem(s): 2 long, 1 short")


def test_text_against_audio(data, capsys):
    # 9 characters in 1 s, 9 in 2 s, 8 in 2 s
    code, lines = lines_of(capsys, str(data), "--max_chars_per_second", "8")
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith(f"{data}/text:1: eva-1-asr: 9 characters for 1.00 s of audio")
    code, lines = lines_of(capsys, str(data), "--min_chars_per_second", "4.2")
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith(f"{data}/text:3: eva-2-st_eng: 8 characters for 2.00 s of audio")


def test_token_list(data, tmp_path, capsys):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<na>\n<deu>\n<asr>\n<notimestamps>\n")
    code, lines = lines_of(capsys, str(data), "--token_list", str(tokens))
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith(f"{data}/text:3: eva-2-st_eng: task token <st_eng> is not in the token list")
    tokens.write_text("<na>\n<asr>\n<st_eng>\n")
    _, lines = lines_of(capsys, str(data), "--token_list", str(tokens))
    assert lines[0] == f"{tokens}: token <notimestamps> is missing"
    assert lines[1].startswith(f"{data}/text:1: eva-1-asr: language token <deu>")
    code, lines = lines_of(capsys, str(data), "--token_list", str(tmp_path / "none"))
    assert code == 1 and "token list is missing" in lines[0]


def test_every_problem_is_listed_not_only_the_first(data):
    edit(data / "text", "Guten Tag", "")
    edit(data / "utt2lang", "eva-2-asr deu", "eva-2-asr german")
    edit(data / "wav.scp", "2.wav", "3.wav")
    found = {(Path(p.file).name, p.line, p.utt_id) for p in check_data_dir(data)}
    assert found == {
        ("text", 1, "eva-1-asr"),
        ("text", 2, "eva-2-asr"),
        ("wav.scp", 2, "eva-2-asr"),
    }


def test_impossible_limits(data, capsys):
    assert check_data.main([str(data), "--min_seconds", "5", "--max_seconds", "2"]) == 1
    assert "got 5.0 and 2.0 (--min_seconds, --max_seconds)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_text_chars must be at least 1, got 0"):
        Limits(max_text_chars=0)
    with pytest.raises(ValueError, match="fs must be above 0, got 0"):
        check_data_dir(data, fs=0)


def test_no_directory(tmp_path, capsys):
    code, lines = lines_of(capsys, str(tmp_path / "none"))
    assert code == 1 and lines[0].endswith("none: no such data directory")


def test_filter_keeps_good_utterances(data, tmp_path, utts, capsys):
    edit(data / "wav.scp", "2.wav", "3.wav")
    out = tmp_path / "out"
    cmd = ["--in_dir", str(data), "--out_dir", str(out)]
    assert filter_data.main(cmd) == 0
    assert read_data_dir(out) == [utts[0], utts[2]]
    log = json.loads((out / LOG_FILE).read_text())
    assert log["counts"] == {"missing-audio": 1} and list(log["dropped"]) == ["eva-2-asr"]
    assert "kept 2, dropped 1" in capsys.readouterr().out


def test_filter_drops_by_length_and_reason(data, tmp_path, utts):
    result = filter_data_dir(data, tmp_path / "out", Limits(min_seconds=1.5, max_text_chars=8))
    assert read_data_dir(tmp_path / "out") == [utts[2]]
    kinds = {utt: [kind for kind, _ in why] for utt, why in result.dropped.items()}
    assert kinds == {"eva-1-asr": ["short", "long-text"], "eva-2-asr": ["long-text"]}
    assert result.counts == {"long-text": 2, "short": 1}


def test_filter_repairs_order_and_drops_duplicates(data, tmp_path, utts):
    for name in ("wav.scp", "text"):
        rows = (data / name).read_text(encoding="utf-8").splitlines()
        (data / name).write_text("\n".join(reversed(rows)) + "\n", encoding="utf-8")
    edit(data / "utt2lang", "eva-2-asr deu", "eva-1-asr deu\neva-2-asr deu")
    result = filter_data_dir(data, tmp_path / "out")
    assert read_data_dir(tmp_path / "out") == utts[1:]
    assert result.counts == {"duplicate": 1}


def test_filter_again_does_nothing_until_something_changes(data, tmp_path):
    out = tmp_path / "out"
    assert not filter_data_dir(data, out).done_before
    before = (out / "text").stat().st_mtime_ns
    again = filter_data_dir(data, out)
    assert again.done_before and again.kept == 3
    assert (out / "text").stat().st_mtime_ns == before
    assert not filter_data_dir(data, out, Limits(max_text_chars=8)).done_before
    edit(data / "text", "Good day", "Hello")
    assert not filter_data_dir(data, out, Limits(max_text_chars=8)).done_before
    (out / "utt2lang").unlink()
    assert not filter_data_dir(data, out, Limits(max_text_chars=8)).done_before


def test_filter_errors(data, tmp_path, capsys):
    cmd = ["--in_dir", str(data), "--out_dir"]
    assert filter_data.main([*cmd, str(tmp_path / "out"), "--min_seconds", "9"]) == 1
    assert "no utterance left of 3 (3 short)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert filter_data.main([*cmd, str(data)]) == 1
    assert "must not be the input" in capsys.readouterr().err
    (data / "utt2task").unlink()
    assert filter_data.main([*cmd, str(tmp_path / "out")]) == 1
    assert "utt2task: file is missing" in capsys.readouterr().err
