"""mTEDx: ASR through lhotse's recipe, translations beside it."""

import re
import shutil
import tarfile

import pytest
import soundfile

from espnet_gated.data.check import check_data_dir
from espnet_gated.data.datadir import read_data_dir
from local import prepare_mtedx as module
from local.miniature import write_miniature
from local.prepare_mtedx import prepare_mtedx

SIZES = {"train": 5, "dev": 1, "test": 2}
PAIRS = [("fra", "eng"), ("ita", "eng"), ("ita", "fra")]
OPTIONS = {"langs": ["fra", "ita"], "st_pairs": ["all-eng", "ita-fra"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("mtedx") / "corpus"
    write_miniature("mtedx", root, PAIRS, SIZES)
    return root


def prepare(corpus, out, **options):
    return prepare_mtedx(corpus, out / "data", out / "audio", **{**OPTIONS, **options})


def lines(corpus, pair, split, lang):
    return (corpus / pair / "data" / split / "txt" / f"{split}.{lang}").read_text(encoding="utf-8").splitlines()


def by_task(folder):
    found: dict[tuple[str, str], list[str]] = {}
    for utt in read_data_dir(folder):
        found.setdefault((utt.lang, utt.task), []).append(utt.text)
    return {key: sorted(texts) for key, texts in found.items()}


def test_asr_and_translations(corpus, tmp_path):
    summary = prepare(corpus, tmp_path, nj=2)
    for name, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        assert check_data_dir(tmp_path / "data" / name) == []
        assert by_task(tmp_path / "data" / name) == {
            ("fra", "asr"): sorted(lines(corpus, "fr-fr", split, "fr")),
            ("fra", "st_eng"): sorted(lines(corpus, "fr-en", split, "en")),
            ("ita", "asr"): sorted(lines(corpus, "it-it", split, "it")),
            ("ita", "st_eng"): sorted(lines(corpus, "it-en", split, "en")),
            ("ita", "st_fra"): sorted(lines(corpus, "it-fr", split, "fr")),
        }
        # the talks are in three corpora, their segments once in ours
        utts = read_data_dir(tmp_path / "data" / name)
        assert len({utt.wav for utt in utts if utt.lang == "ita"}) == SIZES[name]
    assert summary["dropped"] == {name: {} for name in SIZES}
    assert all(utt.spk == "fra_fr_teTalk_0" for utt in utts if utt.lang == "fra")


def test_normalised_text_is_lhotse_s(corpus, tmp_path):
    prepare(corpus, tmp_path, text="normalised")
    assert check_data_dir(tmp_path / "data" / "test") == []
    utts = read_data_dir(tmp_path / "data" / "test")
    asr = [utt.text for utt in utts if utt.task == "asr" and utt.lang == "fra"]
    assert len(asr) == 2 and all(text == text.lower() and "." not in text for text in asr)
    # a translation's own transcript stays as it is, though the same seconds have another one for ASR
    translated = [utt for utt in utts if (utt.lang, utt.task) == ("fra", "st_eng")]
    assert sorted(utt.text_ctc for utt in translated) == sorted(lines(corpus, "fr-en", "test", "fr"))


@pytest.fixture
def own_corpus(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_segment_without_a_cased_line_is_left_out(own_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 0.7)
    yaml = own_corpus / "fr-fr" / "data" / "train" / "txt" / "train.yaml"
    rows = yaml.read_text().splitlines()
    yaml.write_text("\n".join([rows[0].replace("offset: 0.", "offset: 7000."), *rows[1:]]) + "\n")
    summary = prepare(own_corpus, tmp_path)
    # the line is somewhere else, where the talk is over
    assert summary["dropped"]["train"] == {"no cased line at its seconds": 1, "outside its recording": 1}
    monkeypatch.setattr(module, "ENOUGH", 0.9)
    with pytest.raises(ValueError, match="has lines for 4 of the 5 segments.*use --text normalised"):
        prepare(own_corpus, tmp_path / "again")


def test_segments_past_the_end_are_left_out_and_missing_talks_are_counted(own_corpus, tmp_path):
    """In recognition, which lhotse reads, as in translation: neither a text with half of its audio nor silence."""
    for pair in ("fr-fr", "fr-en"):  # half of the last segment of the French test talk is missing
        (talk,) = (own_corpus / pair / "data" / "test" / "wav").iterdir()
        *_, row = (own_corpus / pair / "data" / "test" / "txt" / "test.yaml").read_text().splitlines()
        seconds, offset = (float(re.search(rf"{name}: ([0-9.]+)", row)[1]) for name in ("duration", "offset"))
        samples, rate = soundfile.read(talk)
        soundfile.write(talk, samples[: round((offset + seconds / 2) * rate)], rate)
    for pair in ("it-en", "it-fr"):
        (talk,) = (own_corpus / pair / "data" / "valid" / "wav").iterdir()
        talk.unlink()
    summary = prepare(own_corpus, tmp_path)
    assert summary["dropped"] == {
        "train": {},
        "dev": {"no readable audio file": 2 * SIZES["dev"]},
        "test": {"outside its recording": 1},
    }
    assert len(by_task(tmp_path / "data" / "test")["fra", "asr"]) == SIZES["test"] - 1
    assert set(by_task(tmp_path / "data" / "dev")) == {("fra", "asr"), ("fra", "st_eng"), ("ita", "asr")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["nld"]}, "language must be one of ara, .*got 'nld'"),
        ({"langs": ["fra", "spa"], "st_pairs": []}, r"es-es/data: no such directory"),
        ({"st_pairs": ["fra-spa"]}, r"fr-es/data: no such directory"),
        ({"text": "upper"}, "text must be one of cased, normalised, got 'upper'"),
    ],
)
def test_impossible_options_are_refused(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(corpus, tmp_path, **options)
    assert not list(tmp_path.glob("data/*/text"))


def test_corpora_of_pairs_are_downloaded_once(corpus, tmp_path, monkeypatch):
    for pair in ("it-en", "it-fr"):
        with tarfile.open(tmp_path / f"mtedx_{pair}.tgz", "w:gz") as tar:
            tar.add(corpus / pair, arcname=pair)
    monkeypatch.setattr(module, "URL", tmp_path.as_uri())
    for _ in range(2):
        module.download_pairs(tmp_path / "mtedx_corpus", {("ita", "eng"), ("ita", "fra")})
        for file in tmp_path.glob("*.tgz"):
            file.unlink()
    assert (tmp_path / "mtedx_corpus" / "it-fr" / "data" / "test" / "txt" / "test.fr").is_file()
