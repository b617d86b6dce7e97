"""A data directory is written whole or not at all, and reads back as it was written."""

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gated.data import datadir
from espnet_gated.data.datadir import (
    FILES,
    DataDirError,
    Utterance,
    read_data_dir,
    write_data_dir,
)

ASR = Utterance("anna-1-asr", "a b.wav", "anna", "deu", "asr", "Der Arzt.", "der arzt", 16000)
ST = replace(ASR, utt_id="anna-1-st_eng", task="st_eng", text="The doctor.", text_ctc="<na>")
BOB = replace(ASR, utt_id="bob-7-asr", spk="bob", lang="fra", text="Ça va ?", num_samples=8000)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_files_are_espnets_and_sorted(tmp_path):
    write_data_dir(tmp_path / "train", [BOB, ST, ASR])
    text = {name: (tmp_path / "train" / name).read_text(encoding="utf-8") for name in FILES}
    assert sorted(os.listdir(tmp_path / "train")) == sorted(FILES)
    assert text["text"] == (
        "anna-1-asr <deu><asr><notimestamps> Der Arzt.\n"
        "anna-1-st_eng <deu><st_eng><notimestamps> The doctor.\n"
        "bob-7-asr <fra><asr><notimestamps> Ça va ?\n"
    )
    assert text["spk2utt"] == "anna anna-1-asr anna-1-st_eng\nbob bob-7-asr\n"
    assert text["utt2num_samples"].splitlines()[2] == "bob-7-asr 8000"
    assert text["text.ctc"].splitlines()[1] == "anna-1-st_eng <na>"
    assert text["text.prev"].splitlines()[0] == "anna-1-asr <na>"
    assert read_data_dir(tmp_path / "train") == [ASR, ST, BOB]


# any text a transcript may hold: no line breaks, outer spaces or special tokens
TEXTS = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Zs"), blacklist_characters="<>") | st.just(" "),
    min_size=1,
).filter(lambda text: text == text.strip())


@given(st.dictionaries(st.text("abcxyz-_0189äß", min_size=1, max_size=8), TEXTS, min_size=1))
@settings(max_examples=40, deadline=None)
def test_round_trip(texts):
    utts = [replace(ASR, utt_id=f"anna-{key}", text=text) for key, text in texts.items()]
    with tempfile.TemporaryDirectory() as folder:
        write_data_dir(Path(folder) / "d", utts)
        assert read_data_dir(Path(folder) / "d") == sorted(utts, key=lambda utt: utt.utt_id)


@pytest.mark.parametrize(
    ("utts", "says"),
    [
        ([], "no utterances"),
        ([ASR, ASR], "anna-1-asr: id given twice"),
        ([replace(ASR, lang="de")], "anna-1-asr: language must be three .*got 'de'"),
        ([replace(ASR, task="st")], "task must be asr, or st_.*got 'st'"),
        ([replace(ASR, text="")], "/text: anna-1-asr: text is empty"),
        ([replace(ASR, text="a\nb")], "one line"),
        ([replace(ASR, text="a <noise> b")], "special tokens, got '<noise>'"),
        ([replace(ASR, text_ctc="")], r"text.ctc: .*write <na> for none"),
        ([replace(ASR, num_samples=0)], "above 0 samples, got 0"),
        ([replace(ASR, utt_id="a b")], "id must be one word, got 'a b'"),
        ([replace(ASR, spk="eva")], "must start with its speaker, got 'eva'"),
        ([replace(ASR, wav=" ")], "audio path is empty"),
    ],
)
def test_bad_utterance_is_named_and_nothing_written(tmp_path, utts, says):
    with pytest.raises(DataDirError, match=says):
        write_data_dir(tmp_path / "train", utts)
    assert list(tmp_path.iterdir()) == []


def test_failure_midway_leaves_nothing(tmp_path, monkeypatch):
    write_table = datadir._write_table

    def full_disk(file, rows):
        if file.name == "utt2spk":
            raise OSError("no space left")
        write_table(file, rows)

    monkeypatch.setattr(datadir, "_write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_data_dir(tmp_path / "train", [ASR])
    assert list(tmp_path.iterdir()) == []


def test_failure_midway_keeps_the_old_directory(tmp_path, monkeypatch):
    target = tmp_path / "train"
    write_data_dir(target, [ASR])
    rename, calls = os.rename, []

    def fails_once(old, new):
        calls.append(new)
        if len(calls) == 2:  # the old directory is out of the way, the new one not yet there
            raise OSError("interrupted")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="interrupted"):
        write_data_dir(target, [BOB])
    assert read_data_dir(target) == [ASR]
    assert list(tmp_path.iterdir()) == [target]


def test_writing_again_replaces_data_and_keeps_other_files(tmp_path):
    target = tmp_path / "train"
    write_data_dir(target, [ASR, ST])
    (target / "audio").mkdir()
    (target / "audio" / "a.wav").write_text("sound")
    write_data_dir(target, [BOB])
    assert read_data_dir(target) == [BOB]
    assert (target / "audio" / "a.wav").read_text() == "sound"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("text", "<deu><asr>", "<eng><asr>", "text:1: anna-1-asr: has <eng> where utt2lang says"),
        ("text", "<deu><asr><notimestamps> ", "", "text:1: anna-1-asr: must start with <lang>"),
        ("text", " Ça va ?", "", "text:3: bob-7-asr: text is empty"),
        ("utt2task", " st_eng", " mt", "text:2: anna-1-st_eng: has <st_eng> where utt2task says"),
        ("utt2num_samples", "8000", "8k", "utt2num_samples:3: bob-7-asr: .*whole number.*'8k'"),
        ("utt2num_samples", "8000", "-8000", "utt2num_samples:3: bob-7-asr: .*above 0.*-8000"),
        ("utt2lang", "bob-7-asr fra\n", "", "utt2lang: bob-7-asr: id is missing here"),
        ("wav.scp", "bob-7-asr", "anna-1-asr", "wav.scp:3: anna-1-asr: id seen before in line 1"),
        ("wav.scp", "anna-1-asr", "zoe-1-asr", "wav.scp:2: anna-1-st_eng: not sorted"),
        ("utt2spk", "bob-7-asr bob", " bob", "utt2spk:3: empty or broken id"),
        ("spk2utt", " anna-1-st_eng", "", "spk2utt:1: anna-1-st_eng: not listed under .*'anna'"),
        ("spk2utt", "bob bob-7", "bob bob-8-asr bob-7", "spk2utt:2: bob-8-asr: listed .*'bob'"),
    ],
)
def test_reading_names_file_line_and_utterance(tmp_path, file, old, new, says):
    write_data_dir(tmp_path, [ASR, ST, BOB])
    edit(tmp_path / file, old, new)
    with pytest.raises(DataDirError, match=says) as error:
        read_data_dir(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_missing_and_empty_file(tmp_path, name):
    write_data_dir(tmp_path, [ASR])
    (tmp_path / name).write_text("")
    with pytest.raises(DataDirError, match=re.escape(f"{name}: file is empty")):
        read_data_dir(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataDirError, match=re.escape(f"{name}: file is missing")):
        read_data_dir(tmp_path)


def test_bytes_that_are_not_utf8(tmp_path):
    write_data_dir(tmp_path, [ASR, ST])
    content = (tmp_path / "text").read_bytes().replace(b"The doctor", b"The d\xe9ctor")
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataDirError, match="text:2: not UTF-8"):
        read_data_dir(tmp_path)


def test_no_directory(tmp_path):
    with pytest.raises(DataDirError, match="nowhere: no such data directory"):
        read_data_dir(tmp_path / "nowhere")


def test_target_language():
    assert (ASR.target_lang, ST.target_lang) == ("deu", "eng")
