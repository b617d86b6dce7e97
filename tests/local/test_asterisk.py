"""The asterisk corpus: audio, and the whole preparation on a miniature of its packages. No network."""

import gzip
import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gated.data import g722
from espnet_gated.data.datadir import read_data_dir
from local.asterisk import audio, corpus, split, transcripts
from local.pairs import parse_pairs
from local.prepare_asterisk import get_parser, licence_notice, main, prepare_asterisk

SETS = ("train", "dev", "test", "test_unseen_spk")
COPYRIGHT = "Files: *\nCopyright: 2003, A. Speaker\nLicense: CC-BY-SA-3.0\n\n" + "The whole text.\n" * 80


# --- audio ------------------------------------------------------------------------------------------------------------
def test_g722_is_exact():
    """The checksum is that of another decoder (FFmpeg's) for the same octets."""
    samples = g722.decode(bytes((i * i * 7 + i * 37 + 11) % 256 for i in range(4000)))
    digest = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
    assert digest == "577ed6cb30bae64b325c67f3c11ef685ba1ae6dbd8e84a2f2b346303cdee05b1"


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=50))
def test_g722_is_a_stream(head, tail):
    """What is decoded does not depend on what follows, and an octet gives two samples."""
    samples = g722.decode(head + tail)
    assert samples.dtype == np.int16
    assert len(samples) == 2 * len(head + tail)
    np.testing.assert_array_equal(samples[: 2 * len(head)], g722.decode(head))


def tone(seconds, rate=8000):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".gsm"])
def test_telephone_audio_becomes_16_khz(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    if suffix == ".gsm":
        soundfile.write(file, tone(0.5), 8000, format="RAW", subtype="GSM610")
    else:
        soundfile.write(file, tone(0.5), 8000)
    samples = audio.read_16k(file)
    assert len(samples) == pytest.approx(8000, abs=400)
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    assert np.argmax(spectrum) * 16000 / len(samples) == pytest.approx(440, abs=5)


def test_bad_audio_is_named_and_leaves_nothing(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"no sound")
    with pytest.raises(audio.AudioError, match=r"a\.wav: cannot be read"):
        audio.cache_16k(file, tmp_path / "out" / "a.flac")
    assert not (tmp_path / "out").exists()


# --- the whole preparation on a miniature -----------------------------------------------------------------------------
WORDS = {"eng": "call", "spa": "llamada", "fra": "appel", "ita": "chiamata", "rus": "вызов"}
SPELLED = "bcdfghjklmnpqrstvwxz"
NAMES = [a + b for a in SPELLED[:10] for b in SPELLED[:5]]


def mini_lines(lang):
    """50 prompts, half of them repeated under a second name in one language; some that must go."""
    lines = [f"vm-{name}: {WORDS[lang]} {name} {lang if lang != 'rus' else 'рус'}" for name in NAMES]
    lines += [f"conf-{name}: {WORDS[lang].upper()} {name} {lang if lang != 'rus' else 'рус'}!" for name in NAMES[::2]]
    lines += [f"digits/{i}: {word}" for i, word in enumerate(transcripts.DIGITS[lang].split())]
    lines += [f"phonetic/{char}_p: {WORDS[lang]} {char * 3}" for char in SPELLED]
    lines += ["beep: [a tone]", f"letters/a: {'эй' if lang == 'rus' else 'a'}", f"loud: {WORDS[lang]} 500"]
    lines += ["quick: " + " ".join([WORDS[lang]] * 9)]
    return "\n".join(["; Core Sounds", *lines]) + "\n"


def mini_package(root, package, folder, write):
    for line in mini_lines("eng").splitlines()[1:]:
        file = root / "unpacked" / package / corpus.SOUNDS / folder / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)
    doc = root / "unpacked" / package / corpus.DOC / package
    doc.mkdir(parents=True)
    (doc / "copyright").write_text(COPYRIGHT)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """The packages' layout: short G.722 noise, one file of 9 s, 8 kHz wav and raw GSM."""
    root = tmp_path_factory.mktemp("downloads")
    rng = np.random.default_rng(0)

    def write(file):
        if voice.package.endswith("g722"):
            seconds = 9 if file.name == f"vm-{NAMES[1]}" else 1
            file.with_suffix(".g722").write_bytes(rng.bytes(8000 * seconds))
        elif voice.package.endswith("wav"):
            soundfile.write(file.with_suffix(".wav"), tone(1), 8000)
        else:
            soundfile.write(file.with_suffix(".gsm"), tone(1), 8000, format="RAW", subtype="GSM610")

    for voice in corpus.VOICES:
        mini_package(root, voice.package, voice.folder, write)
    for lang in transcripts.LANGUAGES:
        package = corpus.transcript_package(lang)
        doc = root / "unpacked" / package / corpus.DOC / package
        doc.mkdir(parents=True)
        (doc / "copyright").write_text(COPYRIGHT)
        text = doc / f"core-sounds-{corpus.DEBIAN_LANG[lang]}.txt.gz"
        text.write_bytes(gzip.compress(mini_lines(lang).encode()))
    return root


@pytest.fixture(scope="module")
def prepared(downloads, tmp_path_factory):
    data = tmp_path_factory.mktemp("recipe") / "data"
    return data, prepare_asterisk(data, downloads, nj=2)


def test_directories(prepared):
    data, summary = prepared
    utts = {name: read_data_dir(data / name) for name in SETS}
    assert json.loads((data / "asterisk.json").read_text()) == summary
    for row in summary["sets"]:
        chosen = [u for u in utts[row["set"]] if row["lang"] in (u.lang, "all")]
        assert row["asr"] == sum(u.task == "asr" for u in chosen)
        assert row["st"] == sum(u.task != "asr" for u in chosen)
        assert row["prompts"] == len({u.wav for u in chosen})
    every = [u for chosen in utts.values() for u in chosen]
    assert len({u.utt_id for u in every}) == len(every)
    assert {u.lang for u in every} == set(transcripts.LANGUAGES)
    for utt in every:
        info = soundfile.info(utt.wav)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, utt.num_samples)
        assert utt.text == utt.text_ctc or utt.task != "asr"


def test_no_test_prompt_is_trained_on(prepared):
    data, summary = prepared
    utts = {name: read_data_dir(data / name) for name in SETS}

    def said(*names):
        return {split.normalise(text) for name in names for u in utts[name] for text in (u.text, u.text_ctc)}

    def prompts(*names):
        return {Path(u.wav).stem for name in names for u in utts[name]}

    assert not said("train", "dev") & said("test", "test_unseen_spk")
    assert not said("train") & said("dev")
    assert not prompts("train", "dev") & prompts("test", "test_unseen_spk")
    assert {u.spk for u in utts["test_unseen_spk"]} == {"ita_menardi", "fra_armelle"}
    assert not {u.spk for u in utts["train"]} & {u.spk for u in utts["test_unseen_spk"]}
    assert set(summary["split"].values()) == {"train", "dev", "test"}


@pytest.fixture(scope="module")
def augmented(downloads, tmp_path_factory):
    data = tmp_path_factory.mktemp("augmented") / "data"
    return data, prepare_asterisk(data, downloads, speeds=[0.9], joined=8, synth_voices=1, synth_spans=6, nj=2)


def test_additions_go_to_training_alone(prepared, augmented):
    plain, _ = prepared
    data, summary = augmented
    for name in SETS[1:]:
        assert (data / name / "text").read_bytes() == (plain / name / "text").read_bytes()
    before = {u.utt_id: u for u in read_data_dir(plain / "train")}
    after = {u.utt_id: u for u in read_data_dir(data / "train")}
    assert before.items() <= after.items()
    added = [u for utt_id, u in after.items() if utt_id not in before]
    assert {row["kind"] for row in summary["additions"]} == {
        "other speeds", "prompts in a row", "pieces of prompts, synthesised", "prompts, synthesised",
    }  # fmt: skip
    assert sum(row["asr"] + row["st"] for row in summary["additions"]) == len(added)
    for utt in added:
        info = soundfile.info(utt.wav)
        assert (info.samplerate, info.frames) == (16000, utt.num_samples)
        assert utt.text == utt.text_ctc or utt.task != "asr"


def test_additions_say_nothing_that_is_held_out(augmented):
    data, _ = augmented
    held_out = {(u.lang, split.normalise(u.text_ctc)) for name in SETS[1:] for u in read_data_dir(data / name)}
    trained = {(u.lang, split.normalise(u.text_ctc)) for u in read_data_dir(data / "train")}
    assert not trained & held_out


def test_speeds_and_rows_are_of_real_recordings(augmented):
    data, _ = augmented
    by_id = {u.utt_id: u for u in read_data_dir(data / "train")}
    slow = [u for utt_id, u in by_id.items() if utt_id.startswith("sp0.9-")]
    for utt in slow:
        original = by_id[utt.utt_id.removeprefix("sp0.9-")]
        assert utt.text == original.text
        assert utt.num_samples == pytest.approx(original.num_samples / 0.9, abs=3)
    real = {voice.spk for voice in corpus.VOICES}
    assert len(slow) == len([u for u in by_id.values() if u.spk in real and "-joined." not in u.utt_id])
    rows = [u for utt_id, u in by_id.items() if "-joined." in utt_id]
    assert rows
    assert all(u.num_samples > 2 * 16000 for u in rows)  # two recordings of a second each, and a gap
    assert {u.task for u in rows} >= {"asr", "st_eng"}


def test_a_synthesised_recording_is_translated_once(augmented):
    data, _ = augmented
    tasks = {}
    for utt in read_data_dir(data / "train"):
        if utt.spk.startswith("synth"):
            tasks.setdefault(utt.wav, []).append(utt.task)
    assert all(len(of_one) <= 2 and "asr" in of_one for of_one in tasks.values())
    assert any(len(of_one) == 2 for of_one in tasks.values())


def test_what_is_left_out(prepared):
    data, summary = prepared
    every = [u for name in SETS for u in read_data_dir(data / name)]
    ids = {u.utt_id for u in every}
    for gone in ("-beep-", "-loud-", "-quick-", f"eng_allison-vm-{NAMES[1]}-"):
        assert not [utt_id for utt_id in ids if gone in utt_id]
    assert summary["dropped"]["eng_allison"] == {
        "no certain reading": 1, "no speech": 1, "text too long for audio": 1, "too long": 1,
    }  # fmt: skip
    assert not [x for x in ids if "letters.a-st" in x or "phonetic." in x and "-st" in x]  # spelling is not translated
    assert "eng_allison-letters.a-asr" in ids
    assert all("-vm-" not in u.utt_id and "-conf-" not in u.utt_id for u in every if u.spk == "fra_armelle")


def test_translations(prepared):
    data, _ = prepared
    by_id = {u.utt_id: u for name in SETS for u in read_data_dir(data / name)}
    tasks = {(u.lang, u.target_lang) for u in by_id.values() if u.task != "asr"}
    others = set(transcripts.LANGUAGES) - {"eng"}
    assert tasks == {("eng", lang) for lang in others} | {(lang, "eng") for lang in others}
    utt = by_id["rus_ivrvoice-digits.4-st_eng"]
    assert (utt.text, utt.text_ctc, utt.task, utt.lang) == ("four", "четыре", "st_eng", "rus")


def test_licences_are_kept_and_shown(prepared, downloads, capsys):
    data, _ = prepared
    assert (data / "licences" / "asterisk-core-sounds-ru-g722.txt").read_text() == COPYRIGHT
    notice = "Files: * · Copyright: 2003, A. Speaker · License: CC-BY-SA-3.0"
    assert licence_notice(data / "licences" / "asterisk-core-sounds-en.txt") == notice
    arguments = ["--data_dir", str(data.parent / "cli"), "--downloads_dir", str(downloads), "--langs", "eng", "rus"]
    assert main([*arguments, "--st_pairs", "rus-eng"]) == 0
    out = capsys.readouterr().out
    assert notice in out
    assert "| train | rus |" in out
    assert not (data.parent / "cli" / "test_unseen_spk").exists()


def test_a_second_run_gives_the_same_and_converts_nothing(prepared, downloads, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(audio, "read_16k", refuse)
    data, summary = prepared
    assert prepare_asterisk(tmp_path / "data", downloads) == summary
    for file in ("text", "wav.scp", "utt2num_samples"):
        assert (tmp_path / "data" / "test" / file).read_bytes() == (data / "test" / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["eng", "deu"]}, "langs must be some of .*deu"),
        ({"langs": []}, "langs must be some of"),
        ({"st_pairs": ["fra-deu"]}, "st_pairs must be source-target .*'fra-deu'"),
        ({"st_pairs": ["fra"]}, "st_pairs must be"),
        ({"st_pairs": ["fra-fra"]}, "st_pairs must be"),
        ({"max_seconds": 0.1}, "min_seconds must be above 0 and below max_seconds"),
        ({"test_share": 1.2}, "test_share must be"),
        ({"speeds": [1.0]}, "speeds must be in .* not 1, got 1.0"),
        ({"joined": -1}, "joined must be at least 0, got -1"),
    ],
)
def test_bad_options(downloads, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_asterisk(tmp_path / "data", downloads, **options)
    assert not (tmp_path / "data").exists()


def test_pairs():
    langs = ("eng", "fra", "ita")
    assert parse_pairs(["all-eng", "eng-ita"], langs) == {("fra", "eng"), ("ita", "eng"), ("eng", "ita")}
    assert len(parse_pairs(["all-all"], langs)) == 6
    assert parse_pairs([], langs) == set()


def test_free_translations_are_no_translations():
    assert corpus.is_translation("caret", "accento circonflesso")
    assert not corpus.is_translation("Appello completo.", "Playback of the list of people attending is complete.")


def test_command_line_has_the_arguments_of_the_function():
    parameters = inspect.signature(prepare_asterisk).parameters
    options = get_parser().parse_args(["--data_dir", "d", "--downloads_dir", "w"])
    assert list(vars(options)) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            value = getattr(options, name)
            assert (tuple(value) if isinstance(value, list) else value) == parameter.default
