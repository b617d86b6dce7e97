"""The check names file, line and utterance of every broken input; the filter drops just those."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_gated.bin import check_data, filter_data
from espnet_gated.data import ffmpeg, probe
from espnet_gated.data.check import Limits, check_data_dir
from espnet_gated.data.contexts import Vectors
from espnet_gated.data.datadir import DataDirError, Utterance, read_data_dir, write_data_dir
from espnet_gated.data.filter import LOG_FILE, filter_data_dir


def tone(path: Path, seconds: float, fs: int = 16000, channels: int = 1, value: float | None = None) -> int:
    """A file with a tone, and ``value`` somewhere in it."""
    wave = 0.1 * np.sin(np.arange(int(seconds * fs)) / 10)
    if value is not None:
        wave[len(wave) // 2] = value
    subtype = None if value is None else "FLOAT"
    soundfile.write(path, np.stack([wave] * channels, axis=1), fs, subtype=subtype)
    return len(wave)


def damage(folder: Path) -> None:
    """Files that are good as far as their heads go: a FLAC and an MP3 cut in half, a FLAC with zeros in the middle."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 80000)
    for name in ("good.flac", "good.mp3"):
        soundfile.write(folder / name, noise, 16000)
    flac, mp3 = ((folder / name).read_bytes() for name in ("good.flac", "good.mp3"))
    half = len(flac) // 2
    (folder / "cut.flac").write_bytes(flac[:half])
    (folder / "hole.flac").write_bytes(flac[:half] + bytes(200) + flac[half + 200 :])
    (folder / "cut.mp3").write_bytes(mp3[: len(mp3) // 2])


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
    for name in ("noise.wav", "raw.raw", "prompt.G722", "talk.m4a"):
        (tmp_path / name).write_bytes(b"not audio at all")
    damage(tmp_path)
    soundfile.write(tmp_path / "zeros.flac", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "same.wav", np.full(16000, 0.25), 16000)
    tone(tmp_path / "nan.wav", 1.0, value=np.nan)
    for name, kind, says in (
        ("gone.wav", "missing-audio", "audio file is missing"),
        ("slow.wav", "rate", "sample rate is 8000 Hz, must be 16000"),
        ("stereo.wav", "channels", "has 2 channels"),
        ("empty.wav", "no-samples", "audio has no samples"),
        ("noise.wav", "unreadable-audio", f"{tmp_path}/noise.wav: unreadable audio"),
        ("raw.raw", "unreadable-audio", f"{tmp_path}/raw.raw: unreadable audio"),
        ("prompt.G722", "format", "training does not read .G722, only decoding does (--any_format true)"),
        ("talk.m4a", "format", "training does not read .m4a"),
        (
            "cut.flac",
            "damaged-audio",
            f"{tmp_path}/cut.flac: unreadable audio (Error : flac decoder lost sync.), though",
        ),
        ("hole.flac", "damaged-audio", f"{tmp_path}/hole.flac: unreadable audio (Error : flac decoder lost sync.), "),
        ("cut.mp3", "damaged-audio", "its head says 80000 samples, "),
        ("zeros.flac", "silent", "audio is silent"),
        ("same.wav", "silent", "audio is silent"),
        ("nan.wav", "not-finite", "audio holds samples that are no numbers"),
        ("1.wav gain -1 |", "pipe", "Kaldi pipes are not supported"),
    ):
        rows = (data / "wav.scp").read_text().splitlines()
        rows[0] = f"eva-1-asr {tmp_path / name}"
        (data / "wav.scp").write_text("\n".join(rows) + "\n")
        code, lines = lines_of(capsys, str(data))
        assert code == 1
        assert lines[0].startswith(f"{data}/wav.scp:1: eva-1-asr: {says}"), lines
        assert lines[1:] == [f"{data}: 1 problem(s): 1 {kind}"]


def point_to(data: Path, wav: Path, num_samples: int) -> None:
    """Let the first utterance be this file."""
    for name, value in (("wav.scp", wav), ("utt2num_samples", num_samples)):
        rows = (data / name).read_text().splitlines()
        (data / name).write_text("\n".join([f"eva-1-asr {value}", *rows[1:]]) + "\n")


@pytest.mark.parametrize("name", ["cut.flac", "hole.flac", "cut.mp3"])
def test_damage_is_found_by_decoding_alone(data, tmp_path, capsys, name):
    damage(tmp_path)
    point_to(data, tmp_path / name, 80000)
    assert lines_of(capsys, str(data), "--decode", "false") == (0, [f"{data}: no problems"])
    code, lines = lines_of(capsys, str(data))
    assert code == 1 and lines[-1].endswith("1 problem(s): 1 damaged-audio")
    for threads in (1, 3):  # what is found does not depend on the threads
        assert [str(p) for p in check_data_dir(data, nj=threads)] == lines[:-1]


def test_every_file_is_decoded_once(data, monkeypatch):
    decoded = []
    decode = probe.decode_audio
    monkeypatch.setattr(probe, "decode_audio", lambda wav: decoded.append(Path(wav).name) or decode(wav))
    assert check_data_dir(data, nj=2) == []
    assert sorted(decoded) == ["1.wav", "2.wav"]


def test_what_is_only_decoded_may_be_of_any_format(data, tmp_path, capsys):
    """The samples are counted at the model's rate."""
    tone(tmp_path / "slow.wav", 1.0, fs=8000, channels=2)
    tone(tmp_path / "odd.flac", 1.0, fs=44100)
    (tmp_path / "prompt.G722").write_bytes(bytes(range(250)) * 32)
    for name in ("slow.wav", "odd.flac", "prompt.G722"):
        point_to(data, tmp_path / name, 16000)
        assert lines_of(capsys, str(data), "--any_format", "true") == (0, [f"{data}: no problems"]), name
        assert lines_of(capsys, str(data))[0] == 1
    point_to(data, tmp_path / "slow.wav", 8000)
    code, lines = lines_of(capsys, str(data), "--any_format", "true")
    assert code == 1
    assert lines[0].startswith(f"{data}/utt2num_samples:1: eva-1-asr: says 8000 samples, the audio has 16000")


@pytest.mark.skipif(ffmpeg.find_program() is None, reason="no program ffmpeg")
def test_m4a_may_be_decoded(data, tmp_path, capsys):
    program = ffmpeg.find_program()
    subprocess.run([program, "-v", "error", "-i", tmp_path / "2.wav", "-ar", "44100", tmp_path / "2.m4a"], check=True)
    point_to(data, tmp_path / "2.m4a", 32000)
    assert lines_of(capsys, str(data), "--any_format", "true") == (0, [f"{data}: no problems"])
    point_to(data, tmp_path / "2.m4a", 35000)
    assert lines_of(capsys, str(data), "--any_format", "true")[1][-1].endswith("1 problem(s): 1 samples")
    (tmp_path / "2.m4a").write_bytes((tmp_path / "2.m4a").read_bytes()[:-500])
    assert lines_of(capsys, str(data), "--any_format", "true")[1][-1].endswith("1 problem(s): 1 unreadable-audio")


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


def test_transcript_against_audio(data, capsys):
    """text.ctc of a translation, 9 characters in 2 s, where its text would do; of recognition once, with the text."""
    code, lines = lines_of(capsys, str(data), "--max_chars_per_second", "4.2")
    assert code == 1 and len(lines) == 4
    assert lines[2].startswith(f"{data}/text.ctc:3: eva-2-st_eng: 9 characters for 2.00 s of audio")
    assert lines[3].endswith("3 problem(s): 3 too-much-text")
    edit(data / "text.ctc", "eva-2-st_eng guten tag", "eva-2-st_eng ah")
    code, lines = lines_of(capsys, str(data), "--min_chars_per_second", "1.5")
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith(f"{data}/text.ctc:3: eva-2-st_eng: 2 characters for 2.00 s of audio")
    edit(data / "text.ctc", "eva-2-st_eng ah", "eva-2-st_eng <na>")
    assert check_data_dir(data, limits=Limits(min_chars_per_second=3.0)) == []


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
    cmd = ["--in_dir", str(data), "--out_dir", str(out), "--max_dropped", "0.4"]
    assert filter_data.main(cmd) == 0
    assert read_data_dir(out) == [utts[0], utts[2]]
    log = json.loads((out / LOG_FILE).read_text())
    assert log["counts"] == {"missing-audio": 1} and list(log["dropped"]) == ["eva-2-asr"]
    assert "kept 2, dropped 1" in capsys.readouterr().out


def test_filter_drops_by_length_and_reason(data, tmp_path, utts):
    result = filter_data_dir(data, tmp_path / "out", Limits(min_seconds=1.5, max_text_chars=8), max_dropped=1)
    assert read_data_dir(tmp_path / "out") == [utts[2]]
    kinds = {utt: [kind for kind, _ in why] for utt, why in result.dropped.items()}
    assert kinds == {"eva-1-asr": ["short", "long-text"], "eva-2-asr": ["long-text"]}
    assert result.counts == {"long-text": 2, "short": 1}


def test_filter_repairs_order_and_drops_duplicates(data, tmp_path, utts):
    for name in ("wav.scp", "text"):
        rows = (data / name).read_text(encoding="utf-8").splitlines()
        (data / name).write_text("\n".join(reversed(rows)) + "\n", encoding="utf-8")
    edit(data / "utt2lang", "eva-2-asr deu", "eva-1-asr deu\neva-2-asr deu")
    result = filter_data_dir(data, tmp_path / "out", max_dropped=1)
    assert read_data_dir(tmp_path / "out") == utts[1:]
    assert result.counts == {"duplicate": 1}


def test_filter_again_does_nothing_until_something_changes(data, tmp_path):
    out = tmp_path / "out"
    assert not filter_data_dir(data, out).done_before
    before = (out / "text").stat().st_mtime_ns
    again = filter_data_dir(data, out)
    assert again.done_before and again.kept == 3
    assert (out / "text").stat().st_mtime_ns == before
    assert not filter_data_dir(data, out, Limits(max_text_chars=8), max_dropped=1).done_before
    edit(data / "text", "Good day", "Hello")
    assert not filter_data_dir(data, out, Limits(max_text_chars=8), max_dropped=1).done_before
    assert filter_data_dir(data, out, Limits(max_text_chars=8), max_dropped=1).done_before
    with pytest.raises(DataDirError, match="2 of 3 utterances would be dropped"):  # done before, and too much dropped
        filter_data_dir(data, out, Limits(max_text_chars=8))
    assert not filter_data_dir(data, out, Limits(max_text_chars=8), max_dropped=1, decode=False).done_before
    (out / "utt2lang").unlink()
    assert not filter_data_dir(data, out, Limits(max_text_chars=8), max_dropped=1).done_before


def test_filter_keeps_the_contexts_of_what_it_keeps(data, tmp_path):
    """Files of a recipe's own (docs/contexts.md): a set that is filtered has them as one that is not."""
    out = tmp_path / "out"
    (data / "utt2device").write_text("eva-1-asr phone\neva-2-asr a server\nnobody x\n", encoding="utf-8")
    edit(data / "wav.scp", "2.wav", "3.wav")
    assert filter_data_dir(data, out, max_dropped=1).kept == 2
    assert (out / "utt2device").read_text(encoding="utf-8") == "eva-1-asr phone\n"
    assert filter_data_dir(data, out, max_dropped=1).done_before
    (data / "utt2device").write_text("eva-1-asr radio\n", encoding="utf-8")
    assert not filter_data_dir(data, out, max_dropped=1).done_before
    assert (out / "utt2device").read_text(encoding="utf-8") == "eva-1-asr radio\n"
    (out / "utt2speaker").write_text("eva-1-asr 1.0\n", encoding="utf-8")  # written there by its user
    (out / "utt2device").unlink()
    assert not filter_data_dir(data, out, max_dropped=1).done_before
    assert (out / "utt2device").is_file() and (out / "utt2speaker").is_file()
    (data / "utt2device").unlink()  # what was copied goes with it
    assert not filter_data_dir(data, out, max_dropped=1).done_before
    assert not (out / "utt2device").exists() and (out / "utt2speaker").is_file()


def test_vectors_beside_a_set_are_found_from_its_filtered_one(data, tmp_path, monkeypatch):
    arks = kaldiio.WriteHelper(f"ark,scp:{data}/speaker.ark,{data}/all.scp")
    with arks:
        for number, utt in enumerate(("eva-1-asr", "eva-2-asr")):
            arks(utt, np.full(3, number, np.float32))
    lines = (data / "all.scp").read_text(encoding="utf-8").replace(f"{data}/", "")
    (data / "utt2speaker").write_text(f"{lines}eva-3-asr 1.0 2.0 3.0\n", encoding="utf-8")
    filter_data_dir(data, tmp_path / "out")
    vectors = Vectors(tmp_path / "out" / "utt2speaker")
    assert vectors["eva-2-asr"].tolist() == [1.0, 1.0, 1.0] and "speaker.ark:" in lines


@pytest.mark.parametrize("name", ["cut.flac", "hole.flac"])
def test_filter_drops_damaged_audio(data, tmp_path, utts, name):
    damage(tmp_path)
    point_to(data, tmp_path / name, 80000)
    result = filter_data_dir(data, tmp_path / "out", max_dropped=0.5, nj=2)
    assert result.counts == {"damaged-audio": 1} and read_data_dir(tmp_path / "out") == utts[1:]


def test_filter_refuses_to_drop_too_much(data, tmp_path, capsys):
    """One of three is more than the default share, and than a third less a little; nothing is written."""
    edit(data / "wav.scp", "2.wav", "3.wav")
    out = tmp_path / "out"
    cmd = ["--in_dir", str(data), "--out_dir", str(out)]
    for share in ([], ["--max_dropped", "0.33"], ["--max_dropped", "0"]):
        assert filter_data.main([*cmd, *share]) == 1
        said = capsys.readouterr().err
        assert "train: 1 of 3 utterances would be dropped (1 missing-audio), more than" in said
        assert "(--max_dropped), the first being eva-2-asr: audio file is missing" in said
        assert not out.exists()
    assert filter_data.main([*cmd, "--max_dropped", "1.5"]) == 1
    assert "max_dropped must be in [0, 1], got 1.5 (--max_dropped)" in capsys.readouterr().err
    assert filter_data.main([*cmd, "--max_dropped", "0.34"]) == 0


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
