"""A data directory as ESPnet's recipes of OWSM leave it, with times and archives of audio, is decoded and scored."""

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_gated.bin.complete_data import main
from espnet_gated.data.datadir import read_data_dir
from espnet_gated.inference.audio import DecodeInputError, load_request, read_items

TEXT = {
    "anna-1-asr": "<deu><asr><0.00> Der Arzt<0.50><0.60> kommt.<1.00>",
    "anna-1-st_eng": "<deu><st_eng><notimestamps> The doctor comes.",
    "bob-2-asr": "<fra><asr><notimestamps> Ça va ?",
}
RATE = 8000


def wave(seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(RATE)


@pytest.fixture
def owsm(tmp_path):
    """``wav.scp`` into an archive, ``text``, ``utt2spk``; nothing else."""
    folder = tmp_path / "test"
    folder.mkdir()
    with open(tmp_path / "wav.ark", "wb") as ark, open(folder / "wav.scp", "w") as scp:
        for number, utt in enumerate(TEXT):
            where = {utt: (RATE, wave(number))}
            kaldiio.save_ark(ark, where, scp=scp, append=True, write_function="soundfile")
    (folder / "text").write_text("".join(f"{utt} {text}\n" for utt, text in TEXT.items()), encoding="utf-8")
    (folder / "utt2spk").write_text("".join(f"{utt} {utt.split('-')[0]}\n" for utt in TEXT), encoding="utf-8")
    return folder


def test_language_and_task_are_what_the_text_begins_with(owsm):
    items = read_items(owsm / "wav.scp", owsm)
    assert [(i.lang, i.task) for i in items] == [("<deu>", "<asr>"), ("<deu>", "<st_eng>"), ("<fra>", "<asr>")]
    (owsm / "utt2task").write_text("".join(f"{utt} asr\n" for utt in TEXT), encoding="utf-8")  # a file of its own wins
    assert [i.task for i in read_items(owsm / "wav.scp", owsm)] == ["<asr>"] * 3


def test_text_without_symbols_tells_nothing(owsm):
    (owsm / "text").write_text("anna-1-asr Der <b><i> Arzt\n", encoding="utf-8")
    assert {(i.lang, i.task) for i in read_items(owsm / "wav.scp", owsm)} == {(None, None)}


def test_audio_of_an_archive(owsm):
    items = read_items(owsm / "wav.scp", owsm)
    for number, item in enumerate(items):
        np.testing.assert_allclose(load_request(item, RATE).speech, wave(number), atol=1e-4)
    assert len(load_request(items[0], 2 * RATE).speech) == 2 * RATE


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        ("gone.ark:9", "audio gone.ark:9 does not exist"),
        ("sox a.mp3 -t wav - |", "pipes are not run here: sox a.mp3 -t wav - |"),
    ],
)
def test_audio_that_cannot_be_there(owsm, wav, message):
    (owsm / "wav.scp").write_text(f"anna-1-asr {wav}\n", encoding="utf-8")
    with pytest.raises(DecodeInputError, match="anna-1-asr") as error:
        read_items(owsm / "wav.scp", owsm)
    assert message in str(error.value)


def test_a_place_where_no_audio_begins(owsm):
    place, offset = (owsm / "wav.scp").read_text(encoding="utf-8").split()[1].rsplit(":", 1)
    (owsm / "wav.scp").write_text(f"anna-1-asr {place}:{int(offset) + 5}\n", encoding="utf-8")
    (item,) = read_items(owsm / "wav.scp", owsm)
    with pytest.raises(DecodeInputError, match=r"anna-1-asr: .*wav.ark:\d+: unreadable audio"):
        load_request(item, RATE)


def test_completed_it_reads_as_one_of_ours(owsm, capsys):
    before = {file.name: file.read_bytes() for file in owsm.iterdir()}
    assert main([str(owsm)]) == 0
    assert {name: (owsm / name).read_bytes() for name in before} == before
    first, second, third = read_data_dir(owsm)
    assert (first.text, first.text_ctc, first.spk) == ("Der Arzt kommt.", "Der Arzt kommt.", "anna")
    assert f"{first.utt_id} {first.text_line}" == (owsm / "text").read_text(encoding="utf-8").splitlines()[0]
    assert first.times == ["<0.00>", "<0.50>", "<0.60>", "<1.00>"] and not second.times
    assert (second.text_ctc, second.task, third.lang, third.num_samples) == ("<na>", "st_eng", "fra", 2 * RATE)
    assert main([str(owsm)]) == 0
    assert "nothing is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("text", "anna-1-asr Der Arzt\n", "anna-1-asr: must start with <lang><task>, got 'Der Arzt'"),
        ("wav.scp", "carl-1 carl.wav\n", "wav.scp:1: carl-1: has no text"),
        ("wav.scp", "anna-1-asr gone.wav\n", "gone.wav: no such audio file"),
    ],
)
def test_what_cannot_be_completed_is_named(owsm, capsys, file, line, message):
    (owsm / file).write_text(line, encoding="utf-8")
    if file == "text":
        (owsm / "wav.scp").write_text("anna-1-asr gone.wav\n", encoding="utf-8")
    assert main([str(owsm)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert sorted(file.name for file in owsm.iterdir()) == ["text", "utt2spk", "wav.scp"]


def test_a_file_beside_archives_is_still_a_file(owsm, tmp_path):
    soundfile.write(tmp_path / "odd.ark.wav", wave(0), RATE)
    (owsm / "wav.scp").write_text(f"anna-1-asr {tmp_path / 'odd.ark.wav'}\n", encoding="utf-8")
    (item,) = read_items(owsm / "wav.scp", owsm)
    assert len(load_request(item, RATE).speech) == RATE
