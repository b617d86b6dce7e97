"""Europarl-ST: from its layout on disk, m4a and all, to data directories."""

import logging
import tarfile

import numpy as np
import pytest
import soundfile
from lhotse import load_manifest

from espnet_gated.data import ffmpeg
from espnet_gated.data.audio import read_audio
from espnet_gated.data.check import check_data_dir
from espnet_gated.data.datadir import read_data_dir
from local.manifests import europarl_st
from local.miniature import write_miniature
from local.prepare_europarl_st import prepare_europarl_st

SIZES = {"train": 5, "dev": 1, "test": 2}
PAIRS = [("deu", "eng"), ("deu", "fra"), ("ita", "eng")]
# (language, task) → utterances in train; de-en and de-fr are cut alike here, so each segment has both translations
TRAIN = {("deu", "asr"): 5, ("deu", "st_eng"): 5, ("deu", "st_fra"): 5, ("ita", "asr"): 5, ("ita", "st_eng"): 5}

pytestmark = pytest.mark.skipif(ffmpeg.find_program() is None, reason="no program ffmpeg")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("europarl_st") / "corpus"
    write_miniature("europarl_st", root, PAIRS, SIZES)
    return root


def prepare(corpus, out, **options):
    given = {"langs": ["deu", "ita"], "st_pairs": ["all-eng", "deu-fra"], **options}
    return prepare_europarl_st(corpus, out / "data", out / "audio", **given)


def lines(file):
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, prepare(corpus, out, nj=2)


def test_data_directories_are_good_and_complete(prepared):
    out, summary = prepared
    for name, size in SIZES.items():
        assert check_data_dir(out / "data" / name) == []
        utts = read_data_dir(out / "data" / name)
        counts = {key: sum((u.lang, u.task) == key for u in utts) for key in {(u.lang, u.task) for u in utts}}
        assert counts == {key: count * size // SIZES["train"] for key, count in TRAIN.items()}
    assert summary["dropped"] == {name: {} for name in SIZES}
    assert sum(row["asr"] + row["st"] for row in summary["sets"]) == 5 * sum(SIZES.values())


def test_texts_are_those_of_the_segment(corpus, prepared):
    folder = corpus / "v1.1" / "de" / "en" / "test"
    utts = {(u.lang, u.task, u.text): u for u in read_data_dir(prepared[0] / "data" / "test")}
    for german, english in zip(lines(folder / "segments.de"), lines(folder / "segments.en"), strict=True):
        asr, st = utts["deu", "asr", german], utts["deu", "st_eng", english]
        assert asr.wav == st.wav and asr.text_ctc == st.text_ctc == german
        assert asr.utt_id.removesuffix("asr") == st.utt_id.removesuffix("st_eng")
        assert asr.spk == "deu_spk_30"


def test_the_audio_is_the_segment_s(corpus, prepared):
    """16 kHz, one channel, and the same sound as in the recording."""
    folder = corpus / "v1.1" / "de" / "en" / "test"
    utts = {u.text: u for u in read_data_dir(prepared[0] / "data" / "test") if u.task == "asr"}
    for line, german in zip(lines(folder / "segments.lst"), lines(folder / "segments.de"), strict=True):
        speech, start, end = line.split()
        whole = read_audio(corpus / "v1.1" / "de" / "audios" / f"{speech}.m4a", 16000)
        samples, rate = soundfile.read(utts[german].wav)
        assert rate == 16000 and samples.shape == (round((float(end) - float(start)) * 16000),)
        expected = whole[round(float(start) * 16000) :][: len(samples)]
        assert np.abs(samples - expected).max() < 1e-3 < np.abs(samples).max()


def test_a_second_run_does_nothing(corpus, prepared, capsys):
    out, summary = prepared
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert prepare(corpus, out) == summary
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out


def test_manifests_are_in_the_shape_of_lhotse_s_recipes(corpus, tmp_path):
    found = europarl_st.prepare_europarl_st(corpus, tmp_path, ["de"], ["en", "de"])
    assert list(found) == ["de-en"] and list(found["de-en"]) == ["train", "dev", "test"]
    for split, manifests in found["de-en"].items():
        for kind in ("recordings", "supervisions"):
            file = tmp_path / f"europarl_st-de-en_{kind}_{split}.jsonl.gz"
            assert list(load_manifest(file)) == list(manifests[kind])
    (first, *_) = found["de-en"]["test"]["supervisions"]
    folder = corpus / "v1.1" / "de" / "en" / "test"
    assert (first.text, first.custom["translation"]) == (
        lines(folder / "segments.de")[0],
        lines(folder / "segments.en")[0],
    )
    assert (first.language, first.speaker) == ("de", lines(folder / "speakers.lst")[0])
    (recording,) = found["de-en"]["test"]["recordings"]
    assert (recording.sampling_rate, recording.num_channels) == (44100, 2)
    assert recording.duration == pytest.approx(first.end, abs=10)


@pytest.fixture
def own_corpus(tmp_path):
    """A miniature to break."""
    write_miniature("europarl_st", tmp_path / "corpus", [("ita", "eng")], SIZES)
    return tmp_path / "corpus"


ITALIAN = {"langs": ["ita"], "st_pairs": ["ita-eng"]}


def test_broken_audio_and_odd_times_are_left_out_with_a_reason(own_corpus, tmp_path, caplog):
    root = own_corpus / "v1.1" / "it"
    first, second = sorted((root / "audios").glob("*0901*"))
    first.write_bytes(b"not audio")
    second.rename(second.with_name("elsewhere.m4a"))
    segments = root / "en" / "dev" / "segments.lst"
    (line,) = lines(segments)
    segments.write_text(f"{line}\n{line.split()[0]} 900.0 901.0\n{line.split()[0]} 2.0 1.0\n")
    for lang in ("it", "en"):
        file = root / "en" / "dev" / f"segments.{lang}"
        file.write_text(file.read_text() + "Testo\nTesto\n")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ValueError, match="no utterance for train"),
    ):
        prepare(own_corpus, tmp_path, **ITALIAN)
    said = "\n".join(record.getMessage() for record in caplog.records)
    for words in (f"{first}: unreadable audio", f"no audio for speech {second.stem}", "segments.lst:3: ends before"):
        assert words in said
    assert not (tmp_path / "data" / "europarl_st.json").exists()
    found = europarl_st.prepare_europarl_st(own_corpus, languages=["it"])["it-en"]
    assert [(len(sets["supervisions"]), sets["left_out"]) for sets in found.values()] == [
        (0, {"no readable audio file": SIZES["train"]}),
        (SIZES["dev"] + 1, {}),  # one of them after the end of its recording: for the cutting to see
        (SIZES["test"], {}),
    ]


def test_what_lacks_audio_is_counted_and_looked_for_again(own_corpus, tmp_path, capsys):
    """A test speech without audio, and then with it; a segment that runs past the end of its recording."""
    root = own_corpus / "v1.1" / "it"
    segments = root / "en" / "test" / "segments.lst"
    first, second = lines(segments)
    (speech,) = {line.split()[0] for line in (first, second)}
    other = f"{speech}.other"
    segments.write_text(f"{first}\n{other} {second.split(maxsplit=1)[1]}\n")
    dev = root / "en" / "dev" / "segments.lst"
    dev.write_text(lines(dev)[0] + "\n" + " ".join([lines(dev)[0].split()[0], "0.0", "900.0"]) + "\n")
    for lang in ("it", "en"):
        file = root / "en" / "dev" / f"segments.{lang}"
        file.write_text(file.read_text() + "Un testo.\n")
    summary = prepare(own_corpus, tmp_path, **ITALIAN)
    assert summary["dropped"] == {
        "train": {},
        "dev": {"outside its recording": 1},
        "test": {"no readable audio file": 1},
    }
    assert len(read_data_dir(tmp_path / "data" / "test")) == 2
    (root / "audios" / f"{other}.m4a").write_bytes((root / "audios" / f"{speech}.m4a").read_bytes())
    capsys.readouterr()
    summary = prepare(own_corpus, tmp_path, **ITALIAN)
    assert summary["dropped"]["test"] == {} and len(read_data_dir(tmp_path / "data" / "test")) == 4
    assert "was prepared while audio was missing (europarl_st.json), looking again" in capsys.readouterr().out
    assert prepare(own_corpus, tmp_path, **ITALIAN) == summary
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("en/dev/segments.it", "Una.\nDue.\n", "must have as many lines, got 1, 2 and 1"),
        (
            "en/dev/segments.lst",
            "it.2008 1.0\n",
            r"segments.lst:1: expected a speech, start and end, got 'it.2008 1.0'",
        ),
        ("en/dev/speakers.lst", "a\nb\n", "speeches.lst and speakers.lst must have as many lines, got 1 and 2"),
        ("en/test/segments.en", None, "segments.en: no such file; is the corpus unpacked whole"),
    ],
)
def test_a_broken_corpus_is_refused(own_corpus, tmp_path, file, content, message):
    path = own_corpus / "v1.1" / "it" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        prepare(own_corpus, tmp_path, **ITALIAN)
    assert not list((tmp_path / "data").glob("*/text"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["rus"]}, "language must be one of deu, eng.*got 'rus'"),
        ({"st_pairs": ["deu-rus"]}, "st_pairs must be source-target.*got 'deu-rus'"),
        ({"st_pairs": []}, "need at least one pair"),
        (
            {"langs": ["deu", "fra"], "st_pairs": ["deu-eng"]},
            "fra is translated into nothing.*--langs deu fra, --st_pairs",
        ),
        ({"audio_format": "mp3"}, "audio_format must be one of flac, wav, got 'mp3'"),
        ({"max_seconds": 0.0}, "below max_seconds"),
        ({"corpus_dir": "nowhere"}, "nowhere: no such directory"),
        ({"corpus_dir": "."}, "no Europarl-ST v1.1 here"),
    ],
)
def test_impossible_options_are_refused(corpus, tmp_path, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        prepare(options.pop("corpus_dir", corpus), tmp_path, **options)
    assert not list(tmp_path.glob("data/*/text"))


def test_a_missing_decoder_ends_it_at_once(corpus, tmp_path, monkeypatch):
    for name in ("_torchcodec_decoder", "find_program"):
        monkeypatch.setattr(ffmpeg, name, lambda: None)
    with pytest.raises(ffmpeg.MissingDecoderError, match="pip install imageio-ffmpeg"):
        prepare(corpus, tmp_path)


def test_the_download_is_unpacked_once(corpus, tmp_path):
    archive = tmp_path / "v1.1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(corpus / "v1.1", arcname="v1.1")
    target = tmp_path / "downloads"
    assert europarl_st.download_europarl_st(target, url=archive.as_uri()) == target / "v1.1"
    archive.unlink()
    assert europarl_st.download_europarl_st(target, url=archive.as_uri()) == target / "v1.1"
