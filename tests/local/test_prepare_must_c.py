"""MuST-C: lhotse's segments and translations, with the English that its recipe leaves out."""

import pytest
import soundfile

from espnet_gated.data.check import check_data_dir
from espnet_gated.data.datadir import read_data_dir
from local.miniature import write_miniature
from local.prepare_must_c import SETS, prepare_must_c

SIZES = {"train": 5, "dev": 1, "test": 2}
OPTIONS = {"st_pairs": ["eng-deu", "eng-fra"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("must_c") / "corpus"
    write_miniature("must_c", root, [("eng", "deu"), ("eng", "fra")], SIZES)
    return root


def prepare(corpus, out, **options):
    return prepare_must_c(corpus, out / "data", out / "audio", **{**OPTIONS, **options})


def lines(corpus, split, lang, pair=None):
    folder = corpus / f"en-{pair or lang}" / "data" / split / "txt"
    return (folder / f"{split}.{lang}").read_text(encoding="utf-8").splitlines()


def test_one_segment_has_the_translations_of_all_pairs(corpus, tmp_path):
    summary = prepare(corpus, tmp_path, nj=2)
    for name in SETS:
        assert check_data_dir(tmp_path / "data" / name) == []
        utts = read_data_dir(tmp_path / "data" / name)
        texts = {task: sorted(u.text for u in utts if u.task == task) for task in ("asr", "st_deu", "st_fra")}
        assert texts == {
            "asr": sorted(lines(corpus, name, "en", "de")),
            "st_deu": sorted(lines(corpus, name, "de")),
            "st_fra": sorted(lines(corpus, name, "fr")),
        }
        assert len({u.wav for u in utts}) == len(texts["asr"])
        assert {u.lang for u in utts} == {"eng"}
        english = dict(zip(lines(corpus, name, "de"), lines(corpus, name, "en", "de"), strict=True))
        assert all(u.text_ctc == english[u.text] for u in utts if u.task == "st_deu")
    assert summary["dropped"] == {name: {} for name in SETS}


def test_what_was_cut_short_goes_on(corpus, tmp_path):
    """Audio that is there is kept, what is missing is made, and no file is half there."""
    prepare(corpus, tmp_path, st_pairs=["eng-deu"])
    files = sorted((tmp_path / "audio").rglob("*.flac"))
    contents = {file: file.read_bytes() for file in files}
    (tmp_path / "data" / "must_c.json").unlink()
    files[0].unlink()
    kept = {file: file.stat().st_mtime_ns for file in files[1:]}
    prepare(corpus, tmp_path, st_pairs=["eng-deu"])
    assert {file: file.read_bytes() for file in sorted((tmp_path / "audio").rglob("*.*"))} == contents
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == kept


def test_a_failed_write_leaves_nothing(corpus, tmp_path, monkeypatch):
    real = soundfile.write

    def fail(file, *args, **kwargs):
        real(file, *args, **kwargs)
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="no space left"):
        prepare(corpus, tmp_path)
    assert not [file for file in (tmp_path / "audio").rglob("*") if file.is_file()]
    assert not list(tmp_path.glob("data/*/text"))


def test_other_options_prepare_anew(corpus, tmp_path):
    prepare(corpus, tmp_path, st_pairs=["eng-deu"])
    assert {u.task for u in read_data_dir(tmp_path / "data" / "dev")} == {"asr", "st_deu"}
    prepare(corpus, tmp_path)
    assert {u.task for u in read_data_dir(tmp_path / "data" / "dev")} == {"asr", "st_deu", "st_fra"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["deu"]}, "language must be one of eng; got 'deu'"),
        ({"st_pairs": ["eng-ita"]}, r"en-it/data: no such directory"),
        ({"st_pairs": []}, "need at least one pair"),
    ],
)
def test_impossible_options_are_refused(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(corpus, tmp_path, **options)
    assert not list(tmp_path.glob("data/*/text"))
