"""What all preparations share: joining, cutting, command lines and miniatures."""

import inspect
import json

import numpy as np
import pytest
import soundfile
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from local import miniature, prepare_europarl_st, prepare_fleurs, prepare_mtedx, prepare_must_c
from local.manifests import cli, datadirs
from local.manifests.cut import cut_segments
from local.manifests.segments import AMBIGUOUS, canonical, join
from local.manifests.ted import TimedText
from local.pairs import parse_pairs

FUNCTIONS = [
    getattr(module, module.__name__.rpartition(".")[2])
    for module in (prepare_europarl_st, prepare_fleurs, prepare_mtedx, prepare_must_c)
]


def segment(name="s", start=0.0, duration=1.0, text="Satz.", translations=None, asr=True, recording="talk"):
    plain = SupervisionSegment(name, recording, start, duration, text=text, speaker="a b")
    return canonical(plain, "deu", translations=translations, asr=asr)


def manifests(*segments, recordings=()):
    return {
        "recordings": RecordingSet.from_recordings(recordings),
        "supervisions": SupervisionSet.from_segments(segments),
    }


def joined(*parts):
    found, dropped = join(parts)
    rows = [(s.id, s.text, s.custom["translations"], s.custom["asr"]) for s in found["supervisions"]]
    return rows, dict(dropped)


def test_the_same_seconds_of_two_pairs_become_one_segment():
    rows, dropped = joined(
        manifests(segment("x", translations={"eng": "One."})),
        manifests(segment("y", 0.0001, translations={"fra": "Un."}, asr=False), segment("x", 2.0, text="Zwei.")),
    )
    assert rows == [("x", "Satz.", {"eng": "One.", "fra": "Un."}, True), ("x.2", "Zwei.", {}, True)]
    assert dropped == {}


def test_two_transcripts_for_the_same_seconds_serve_no_asr():
    other = segment("z", text="Anders.", translations={"eng": "Other."}, asr=False)
    rows, dropped = joined(manifests(segment("x")), manifests(segment("y", text="Nein.")), manifests(other))
    assert rows == [("z", "Anders.", {"eng": "Other."}, False)]
    assert dropped == {AMBIGUOUS: 2}


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, (32000, 2)), 16000)
    return Recording.from_file(path)


def test_segments_beyond_their_recording_have_no_clip(talk, tmp_path):
    spans = {"whole": (0.0, 2.0), "inside": (0.5, 1.0), "nearly": (1.0, 1.05), "half": (1.0, 2.0), "after": (9.0, 1.0)}
    found = manifests(*(segment(name, *span) for name, span in spans.items()), recordings=[talk])
    clips, dropped = cut_segments(found, tmp_path / "audio", nj=2)
    assert dropped == dict.fromkeys(("half", "after"), "outside its recording")
    assert {name: clip.num_samples for name, clip in clips.items()} == {
        "whole": 32000,
        "inside": 16000,
        "nearly": 16000,
    }
    for clip in clips.values():
        info = soundfile.info(clip.path)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, clip.num_samples)


def test_clips_that_are_not_whole_are_cut_again(talk, tmp_path):
    """What an earlier run left: a FLAC cut in half, one that is too short, and a good one, which is not touched."""
    found = manifests(*(segment(f"s{n}", 0.5 * n, 0.5) for n in range(3)), recordings=[talk])
    clips, _ = cut_segments(found, tmp_path / "audio")
    paths = [clip.path for clip in clips.values()]
    before = [path.read_bytes() for path in paths]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[0].write_bytes(before[0][: len(before[0]) // 2])
    soundfile.write(paths[1], np.full(7000, 0.1), 16000)
    again, dropped = cut_segments(found, tmp_path / "audio")
    assert again == clips and dropped == {}
    assert [path.read_bytes() for path in paths] == before
    assert paths[2].stat().st_mtime_ns == times[2]


def test_damaged_recordings_used_as_they_are_and_silent_ones_are_left_out(tmp_path, capsys):
    recordings = []
    for name, level in (("good", 0.3), ("cut", 0.3), ("mute", 0.0)):
        samples = np.random.default_rng(0).uniform(-level, level, 32000)
        soundfile.write(tmp_path / f"{name}.flac", samples, 16000)
        recordings.append(Recording.from_file(tmp_path / f"{name}.flac"))
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    whole = [segment(name, 0.0, 2.0, recording=name) for name in ("good", "cut", "mute")]
    part = segment("part", 0.5, 1.0, recording="mute")
    found = manifests(*whole, part, recordings=recordings)
    clips, dropped = cut_segments(found, tmp_path / "audio")
    assert {name: clip.path for name, clip in clips.items()} == {"good": tmp_path / "good.flac"}
    assert dropped == {"cut": "unreadable audio", "mute": "silent audio", "part": "silent audio"}
    assert f"left out: {tmp_path / 'cut.flac'}: unreadable audio" in capsys.readouterr().out


def test_unreadable_recordings_are_named_and_left_out(talk, tmp_path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    found = manifests(
        segment("good"), segment("bad", recording="broken"), recordings=[talk, broken_recording(talk, broken)]
    )
    clips, dropped = cut_segments(found, tmp_path / "audio")
    assert set(clips) == {"good"} and dropped == {"bad": "unreadable audio"}
    assert str(broken) in capsys.readouterr().out


def broken_recording(talk, path):
    data = talk.to_dict()
    data["id"] = "broken"
    data["sources"][0]["source"] = str(path)
    return Recording.from_dict(data)


def test_texts_are_found_by_their_seconds(tmp_path):
    rows = [("a.wav", 1.0), ("a.wav", 1.08), ("b.wav", 1.0), ("0x7.wav", 3.5)]
    yaml = "".join(f"- {{duration: 1.0, offset: {o}, speaker_id: 1e5, wav: {w}}}\n" for w, o in rows)
    (tmp_path / "dev.yaml").write_text(yaml)
    (tmp_path / "dev.de").write_text("eins\nzwei\u2028zwei\ndrei\nvier\n", encoding="utf-8")
    texts = TimedText(tmp_path, "dev", "de")
    assert [line and line.text for line in (texts.at("a", s) for s in (0.95, 1.03, 1.05, 1.17, 1.2))] == [
        "eins",
        "eins",
        "zwei\u2028zwei",
        "zwei\u2028zwei",
        None,
    ]
    assert (texts.at("b", 1.0).text, texts.at("0x7", 3.5).text, texts.at("c", 1.0)) == ("drei", "vier", None)
    (tmp_path / "dev.de").write_text("eins\n")
    with pytest.raises(ValueError, match=r"dev.de: has 1 lines, dev.yaml has 4 segments"):
        TimedText(tmp_path, "dev", "de")


def test_transcripts_become_one_line_without_special_tokens(talk, tmp_path):
    texts = ["Ein\tText\u2028mit\xa0Lücken.", "Noch <unk> einer.", "", "x" * 200]
    spans = [(0.0, 0.9), (0.5, 1.0), (0.6, 1.0), (0.7, 1.0)]
    found = manifests(
        *(segment(f"s{n}", *s, t) for n, (s, t) in enumerate(zip(spans, texts, strict=True))), recordings=[talk]
    )
    places = datadirs.Places(tmp_path, tmp_path / "data", tmp_path / "audio")
    sets = {"train": {**found, "supervisions": list(found["supervisions"])}}
    summary = datadirs.prepare("any", places, set(), {}, lambda: (sets, {}))
    assert (tmp_path / "data" / "train" / "text").read_text(encoding="utf-8").splitlines() == [
        "deu_a_b-s0-asr <deu><asr><notimestamps> Ein Text mit Lücken."
    ]
    assert sum(summary["dropped"]["train"].values()) == 3
    assert json.loads((tmp_path / "data" / "any.json").read_text(encoding="utf-8")) == summary
    assert "| train | deu | 1 |" in datadirs.format_summary(summary)


def test_pairs():
    langs = ["deu", "fra"]
    assert parse_pairs(["all-eng", "deu-fra"], langs, ["eng"]) == {("deu", "eng"), ("fra", "eng"), ("deu", "fra")}
    assert parse_pairs(["all-all"], langs) == {("deu", "fra"), ("fra", "deu")}
    for wrong in ("all-eng", "eng-deu", "deu-deu", "deu", "deu-fra-ita"):
        with pytest.raises(ValueError, match=f"got '{wrong}'"):
            parse_pairs([wrong], langs)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_command_lines_have_the_arguments_of_the_functions(function):
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:3] == ["corpus_dir", "data_dir", "audio_dir"]
    options = cli.get_parser(function, ["deu"]).parse_args(["--corpus_dir", "c", "--data_dir", "d", "--audio_dir", "a"])
    assert list(vars(options)) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            value = getattr(options, name)
            assert (tuple(value) if isinstance(value, list) else value) == parameter.default


def test_a_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys):
    places = [f"--{name}={tmp_path / name}" for name in ("corpus_dir", "data_dir", "audio_dir")]
    assert cli.run(prepare_must_c.prepare_must_c, ["eng"], places) == 1
    assert capsys.readouterr().err == f"prepare_must_c: {tmp_path / 'corpus_dir'}: no such directory (--corpus_dir)\n"


def test_a_package_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare_fleurs.fleurs, "is_module_available", lambda name: name != "datasets")
    places = [f"--{name}={tmp_path / name}" for name in ("corpus_dir", "data_dir", "audio_dir")]
    assert cli.run(prepare_fleurs.prepare_fleurs, ["deu"], [*places, "--download", "--langs", "deu"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prepare_fleurs: ")]
    assert "a package is missing" in line and "pip install 'datasets>=2.19,<3'" in line


def test_a_package_that_runs_no_scripts_is_named(tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Dataset scripts are no longer supported, but found fleurs.py")

    monkeypatch.setattr(prepare_fleurs.fleurs, "download_fleurs", refuse)
    places = [f"--{name}={tmp_path / name}" for name in ("corpus_dir", "data_dir", "audio_dir")]
    assert cli.run(prepare_fleurs.prepare_fleurs, ["deu"], [*places, "--download", "--langs", "deu"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prepare_fleurs: ")]
    assert "no longer supported" in line and "pip install 'datasets>=2.19,<3'" in line


def test_a_miniature_is_written_once_and_overwrites_nothing_else(tmp_path):
    options = {"sizes": {"train": 1, "dev": 1, "test": 1}}
    miniature.write_miniature("fleurs", tmp_path / "a", **options)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}
    miniature.write_miniature("fleurs", tmp_path / "a", **options)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")} == before
    miniature.write_miniature("fleurs", tmp_path / "a", seed=1, **options)
    assert {file.name for file in tmp_path.iterdir()} == {"a"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something else"):
        miniature.write_miniature("fleurs", tmp_path / "mine", **options)
    assert miniature.main(["--corpus", "fleurs", "--corpus_dir", str(tmp_path / "mine")]) == 1
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
