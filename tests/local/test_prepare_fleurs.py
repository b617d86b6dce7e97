"""FLEURS: from what lhotse downloads to data directories, any language into any."""

import pytest
import soundfile
from lhotse.recipes.fleurs import DEFAULT_LANGUAGES

from espnet_gated.data.check import check_data_dir
from espnet_gated.data.datadir import read_data_dir
from local.miniature import write_miniature
from local.prepare_fleurs import FLEURS_NAME, prepare_fleurs

SIZES = {"train": 4, "dev": 2, "test": 2}
LANGS = ("deu", "eng", "ita")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("fleurs") / "corpus"
    write_miniature("fleurs", root, [("deu", "eng"), ("eng", "ita")], SIZES)
    return root


def prepare(corpus, out, **options):
    given = {"langs": LANGS, "min_seconds": 0.2, **options}
    return prepare_fleurs(corpus, out / "data", out / "audio", **given)


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, prepare(corpus, out)


def table(corpus, lang, name):
    """Number of the sentence → rows of the metadata."""
    rows: dict[str, list[list[str]]] = {}
    text = (corpus / "fleurs" / "metadata" / FLEURS_NAME[lang] / f"{name}.tsv").read_text(encoding="utf-8")
    for line in text.splitlines():
        rows.setdefault(line.split("\t")[0], []).append(line.split("\t"))
    return rows


def test_all_languages_of_fleurs_have_a_name():
    assert sorted(FLEURS_NAME.values()) == sorted(DEFAULT_LANGUAGES)
    assert all(len(lang) == 3 and lang.isalpha() for lang in FLEURS_NAME)


def test_any_language_is_translated_into_any(corpus, prepared):
    """Every reading of a sentence, into every language that has the sentence; and nothing else."""
    out, summary = prepared
    for name in SIZES:
        assert check_data_dir(out / "data" / name) == []
        rows = {lang: table(corpus, lang, name) for lang in LANGS}
        expected = []
        for lang in LANGS:
            for number, readings in rows[lang].items():
                texts = {f"st_{t}": rows[t][number][0][2] for t in LANGS if t != lang and number in rows[t]}
                for reading in readings:
                    expected += [(lang, task, text) for task, text in {"asr": reading[2], **texts}.items()]
        assert sorted((u.lang, u.task, u.text) for u in read_data_dir(out / "data" / name)) == sorted(expected)
    assert summary["dropped"] == {name: {} for name in SIZES}
    last = [row for row in summary["sets"] if (row["set"], row["lang"]) == ("train", "ita")]
    assert [row["asr"] for row in last] == [4]  # one sentence is missing, one is read twice


def test_audio_at_16_khz_is_used_where_it_lies(corpus, prepared):
    out, _ = prepared
    for utt in read_data_dir(out / "data" / "train"):
        assert utt.wav.startswith(str(corpus))
        assert soundfile.info(utt.wav).frames == utt.num_samples
    assert not list((out / "audio").rglob("*.flac"))


def test_pairs_text_and_format_are_chosen(corpus, tmp_path):
    for file in (corpus / "fleurs" / "de_de" / "dev").glob("*.wav"):
        samples, _ = soundfile.read(file)  # not 16 kHz: it must be cut anew
        copy = tmp_path / "corpus" / file.relative_to(corpus)
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(copy, samples[::2], 8000)
    for name in ("train", "test"):
        (tmp_path / "corpus" / "fleurs" / "de_de" / name).symlink_to(corpus / "fleurs" / "de_de" / name)
    for folder in ("metadata", "en_us"):
        (tmp_path / "corpus" / "fleurs" / folder).symlink_to(corpus / "fleurs" / folder)
    options = {"langs": ["deu"], "st_pairs": ["deu-eng"], "text": "normalised", "audio_format": "wav"}
    prepare(tmp_path / "corpus", tmp_path, **options)
    assert check_data_dir(tmp_path / "data" / "dev") == []
    utts = read_data_dir(tmp_path / "data" / "dev")
    assert {(u.lang, u.task) for u in utts} == {("deu", "asr"), ("deu", "st_eng")}
    for utt in utts:
        assert utt.text == utt.text.lower() and utt.text[-1] not in ".?"
        assert utt.wav.startswith(str(tmp_path / "audio")) and utt.wav.endswith(".wav")


def test_a_sentence_of_a_test_set_is_trained_on_in_no_language(corpus, tmp_path):
    """Splits of two languages that disagree: the test set wins."""
    root = tmp_path / "corpus" / "fleurs"
    for lang in ("deu", "eng"):
        name = FLEURS_NAME[lang]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(corpus / "fleurs" / name)
        (root / "metadata" / name).mkdir(parents=True)
        for split in SIZES:
            rows = [line for found in table(corpus, lang, split).values() for line in found]
            if (lang, split) == ("deu", "test"):  # the number of a sentence that English trains on
                rows = [["101", *row[1:]] for row in rows]
            text = "".join("\t".join(row) + "\n" for row in rows)
            (root / "metadata" / name / f"{split}.tsv").write_text(text, encoding="utf-8")
    summary = prepare(tmp_path / "corpus", tmp_path, langs=["deu", "eng"])
    reason = "its recording or sentence is in a later set"
    assert summary["dropped"] == {"train": {reason: 4}, "dev": {}, "test": {}}  # two readers in each language


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["xyz"]}, "language must be one of afr, .*got 'xyz'"),
        ({"langs": ["deu", "fra"]}, "fr_fr: no such directory: fra is not downloaded"),
        ({"text": "upper"}, "text must be one of cased, normalised, got 'upper'"),
        ({"st_pairs": ["ita-all-eng"]}, "st_pairs must be source-target"),
        ({"corpus_dir": "."}, "no FLEURS as lhotse downloads it"),
    ],
)
def test_impossible_options_are_refused(corpus, tmp_path, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        prepare(options.pop("corpus_dir", corpus), tmp_path, **options)
    assert not list(tmp_path.glob("data/*/text"))
