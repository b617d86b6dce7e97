"""The token list: ESPnet's order, special tokens in one piece, text that survives."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_gated.bin.tokenize import main
from espnet_gated.data.tokenizer import SpecialTokens, read_texts, train_tokenizer

SENTENCES = [
    "Die Ärztin hört am Montag Musik.",
    "L'élève lit à l'école.",
    "Può venire alle tre?",
    "The doctor listens to music on Monday.",
] * 3
SPECIAL = SpecialTokens(("deu", "fra"), ("asr", "st_eng"), time_resolution=10.0, max_time=30.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(SENTENCES, out, 80, SPECIAL)
    return out


def processor(path: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(path / "bpe.model"))


def test_order_is_espnets(trained):
    tokens = (trained / "tokens.txt").read_text(encoding="utf-8").splitlines()
    head = "<blank> <unk> <na> <nospeech> <deu> <fra> <asr> <st_eng> <notimestamps>"
    assert tokens[:13] == [*head.split(), "<0.00>", "<10.00>", "<20.00>", "<30.00>"]
    assert tokens[-3:] == ["<sos>", "<eos>", "<sop>"]
    assert len(set(tokens)) == len(tokens)
    assert {"<s>", "</s>"}.isdisjoint(tokens)


def test_special_tokens_stay_whole(trained):
    pieces = processor(trained).encode("<deu><st_eng><notimestamps> Music", out_type=str)
    assert pieces[1:4] == ["<deu>", "<st_eng>", "<notimestamps>"]


def test_every_piece_is_in_the_token_list(trained):
    tokens = set((trained / "tokens.txt").read_text(encoding="utf-8").splitlines())
    for text in SENTENCES:
        assert set(processor(trained).encode(text, out_type=str)) <= tokens


LETTERS = "".join(sorted({c for text in SENTENCES for c in text if not c.isspace()}))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=6).map(" ".join))
def test_text_of_known_letters_survives(trained, text):
    model = processor(trained)
    assert model.decode(model.encode(text)) == text


def test_training_again_gives_the_same_files(trained, tmp_path):
    train_tokenizer(SENTENCES, tmp_path, 80, SPECIAL)
    assert (tmp_path / "tokens.txt").read_bytes() == (trained / "tokens.txt").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bpe.model", "tokens.txt"]


def test_first_and_last_time_only():
    assert SpecialTokens(("deu",), ("asr",), 30.0, 30.0).times == ("<0.00>", "<30.00>")
    assert len(SpecialTokens(("deu",), ("asr",)).times) == 1501


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ()}, r"at least one name \(--langs\)"),
        ({"langs": ("<deu>",)}, r"got '<deu>' \(--langs\)"),
        ({"tasks": ("asr", "deu")}, "given twice: deu"),
        ({"time_resolution": 0.0}, r"got 0.0 and 30.0"),
        ({"time_resolution": 0.7}, "whole number"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpecialTokens(**{"langs": ("deu",), "tasks": ("asr",), **options})


def test_texts_are_distinct_and_free_of_special_tokens(tmp_path):
    file = tmp_path / "text"
    file.write_text("b <deu><asr><notimestamps> Zwei.\na Eins.\nc Zwei.\nd <na>\n", "utf-8")
    assert read_texts([file]) == ["Eins.", "Zwei."]
    file.write_text("d <na>\n", "utf-8")
    with pytest.raises(ValueError, match=r"no text in .*\(--text\)"):
        read_texts([file])


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"nbpe 100000: .*\(--nbpe\)"):
        train_tokenizer(SENTENCES, tmp_path, 100000, SPECIAL)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text("".join(f"u{i} {s}\n" for i, s in enumerate(SENTENCES)), "utf-8")
    options = ["--text", str(text), "--output_dir", str(tmp_path / "out"), "--langs", "deu"]
    main([*options, "--nbpe", "70", "--tasks", "asr", "--time_resolution", "30"])
    assert "bpe.model and tokens.txt" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="tokenize: .*--nbpe"):
        main([*options, "--nbpe", "5", "--tasks", "asr", "--time_resolution", "30"])
