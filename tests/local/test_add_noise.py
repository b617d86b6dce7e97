"""A noisy copy of a set: the same words, the noise that was asked for, and the same bytes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_gated.data.datadir import DataDirError, Utterance, read_data_dir, write_data_dir
from local import add_noise

RNG = np.random.default_rng(0)


def make_set(folder: Path, files: int = 3) -> Path:
    utts = []
    for number in range(files):
        wav = folder / "clean" / f"a{number}" / "same_name.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav, 0.3 * np.sin(np.arange(8000 + number) / 9), add_noise.FS, subtype="FLOAT")
        for task, text in (("asr", "ja"), ("st_eng", "yes")):
            utt = f"deu_x-{number}-{task}"
            utts.append(Utterance(utt, str(wav), "deu_x", "deu", task, text, "ja", num_samples=8000 + number))
    write_data_dir(folder / "set", utts)
    return folder / "set"


def copy(folder: Path, name: str = "noisy", **options: object) -> list[Utterance]:
    add_noise.noisy_copy(folder / "set", folder / name, folder / f"{name}_audio", **({"snr": (10.0, 20.0)} | options))
    return read_data_dir(folder / name)


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_the_noise_is_as_loud_as_asked_for_and_white(snr):
    speech = RNG.normal(0, 0.05, 40000).astype(np.float32)
    noise = add_noise.add_noise(speech, snr, seed=1) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
    halves = np.abs(np.fft.rfft(noise)[1:]) ** 2
    assert halves[:10000].mean() == pytest.approx(halves[10000:].mean(), rel=0.1)


def test_what_would_clip_is_turned_down():
    loud = np.sign(np.sin(np.arange(16000) / 9)).astype(np.float32)
    noisy = add_noise.add_noise(loud, 0.0, seed=1)
    assert np.abs(noisy).max() == pytest.approx(add_noise.PEAK)


def test_utterances_keep_all_but_their_audio(tmp_path):
    before = read_data_dir(make_set(tmp_path))
    after = copy(tmp_path)
    levels = set()
    for old, new in zip(before, after, strict=True):
        assert (old.utt_id, old.text_line, old.text_ctc, old.spk) == (new.utt_id, new.text_line, new.text_ctc, new.spk)
        clean, noisy = soundfile.read(old.wav)[0], soundfile.read(new.wav)[0]
        assert len(clean) == len(noisy) == new.num_samples
        levels.add(10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2)))
    assert all(9.5 < level < 20.5 for level in levels)
    assert len({utt.wav for utt in after}) == 3, "both tasks of a file hear the same"
    assert max(levels) - min(levels) > 0.5, "each file has its own level"


def test_the_same_bytes_again_also_after_an_interruption(tmp_path, capsys):
    make_set(tmp_path)
    first = {utt.utt_id: Path(utt.wav).read_bytes() for utt in copy(tmp_path)}
    assert copy(tmp_path) and "already prepared" in capsys.readouterr().out
    for utt in read_data_dir(tmp_path / "noisy")[:2]:
        Path(utt.wav).unlink(missing_ok=True)
    again = {utt.utt_id: Path(utt.wav).read_bytes() for utt in copy(tmp_path)}
    assert again == first
    other = {utt.utt_id: Path(utt.wav).read_bytes() for utt in copy(tmp_path, seed=1)}
    assert all(other[utt] != first[utt] for utt in first)


def test_bad_input_is_one_clear_line(tmp_path, monkeypatch):
    make_set(tmp_path)
    with pytest.raises(ValueError, match=r"least and the greatest level, got 20 and 10 \(--snr\)"):
        copy(tmp_path, snr=(20.0, 10.0))
    with pytest.raises(DataDirError, match="no such data directory"):
        add_noise.noisy_copy(tmp_path / "none", tmp_path / "noisy", tmp_path / "audio", (10.0, 20.0))
    argv = f"add_noise.py --in_dir {tmp_path}/none --out_dir {tmp_path}/noisy --audio_dir {tmp_path}/audio"
    monkeypatch.setattr("sys.argv", argv.split())
    with pytest.raises(SystemExit, match="add_noise: .*no such data directory"):
        add_noise.main()
    assert not (tmp_path / "noisy").exists()
