"""Audio of the utterances to decode."""

import numpy as np
import pytest
import soundfile

from espnet_gated.data import ffmpeg
from espnet_gated.inference.audio import DecodeInputError, Item, batches, load_request, spread

FS = 16000


def test_stereo_at_another_rate_is_one_channel_at_the_model_s(tmp_path):
    path = tmp_path / "speech.flac"
    soundfile.write(path, np.full((4410, 2), [0.3, 0.1]), 44100)
    request = load_request(Item("utt1", "<deu>", "<asr>", str(path)), FS)
    assert (request.lang_sym, request.task_sym) == ("<deu>", "<asr>")
    assert request.speech.dtype == np.float32 and request.speech.shape == (1600,)
    np.testing.assert_allclose(request.speech[600:1000], 0.2, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.wav", None, "no such audio file"),
        ("text.wav", b"not audio at all", "unreadable audio"),
        ("empty.g722", b"", "audio is empty"),
        ("speech.m4a", b"anything", "needs torchcodec or ffmpeg"),
    ],
)
def test_unusable_audio_names_file_and_utterance(tmp_path, monkeypatch, name, content, message):
    for finder in ("_torchcodec_decoder", "find_program"):
        monkeypatch.setattr(ffmpeg, finder, lambda: None)
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    item = Item("utt1", None, None, str(path))
    with pytest.raises(DecodeInputError, match=message) as error:
        load_request(item, FS)
    assert "utt1" in str(error.value) and str(path) in str(error.value)


def test_batches_are_sorted_by_seconds_whatever_the_rate(tmp_path):
    items = []
    for rate, seconds in ((8000, 1.0), (48000, 0.5), (16000, 0.7)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.zeros(round(rate * seconds)), rate)
        items.append(Item(str(rate), None, None, str(path)))
    assert [[i.utt_id for i in batch] for batch in batches(items, 2, by_length=True)] == [["8000", "16000"], ["48000"]]


@pytest.mark.parametrize("number", [1, 4, 6, 7, 8])
def test_utterances_are_spread_over_all_tasks_where_tasks_take_turns(number):
    items = [Item(f"{n}-{task}", "<deu>", task, "") for n in range(12) for task in ("<asr>", "<st_eng>")]
    chosen = spread(items, number)
    halves = [sum(item.task == task for item in chosen) for task in ("<asr>", "<st_eng>")]
    assert halves[0] == halves[1] == max(1, round(number / 2))
    assert len(set(chosen)) == len(chosen)
    assert set(spread(items, 24)) == set(items)


def test_a_rare_task_is_not_left_out():
    items = [Item(str(n), "<deu>", "<asr>", "") for n in range(99)] + [Item("99", "<deu>", "<st_eng>", "")]
    assert [item.utt_id for item in spread(items, 5)] == ["0", "19", "39", "59", "79", "99"]
