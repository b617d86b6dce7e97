"""A decoding directory is written, and replaced, as a whole or not at all."""

import itertools
import os
from types import SimpleNamespace

import pytest

from espnet_gated.inference.writer import DecodeWriter


def test_scores_do_not_outlive_what_they_judged(tmp_path):
    for again in (False, True):
        with DecodeWriter(tmp_path / "decode", {"again": again}):
            pass
        assert {f.name for f in (tmp_path / "decode").iterdir()} == {"decode_stats.jsonl", "decode_meta.json"}
        for name in ("score.json", "score_meta.json"):
            (tmp_path / "decode" / name).write_text("{}")
    with pytest.raises(KeyError), DecodeWriter(tmp_path / "decode", {}):
        raise KeyError
    assert (tmp_path / "decode" / "score.json").is_file()  # nothing has changed


def test_a_decoding_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """Longer n-best lists of an earlier decoding go too; logs stay; what is interrupted is undone."""
    out = tmp_path / "decode"

    def decode(nbest, text):
        with DecodeWriter(out, {"text": text}) as writer:
            writer.write("a", [(text, [text], [1], text, SimpleNamespace(score=0.0))] * nbest, {})

    def found():
        return {str(f.relative_to(out)): f.read_text() for f in out.rglob("*") if f.is_file()}

    decode(2, "one")
    (out / "log").mkdir()
    (out / "log" / "a.log").write_text("log")
    before, replace = found(), os.replace

    for fails_at in range(1, 8):
        calls = itertools.count(1)

        def interrupted(a, b, calls=calls, fails_at=fails_at):
            if next(calls) == fails_at:
                raise KeyboardInterrupt
            replace(a, b)

        with monkeypatch.context() as patch:
            patch.setattr("espnet_gated.inference.writer.os.replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                decode(1, "two")
        assert found() == before, fails_at
        assert [f.name for f in tmp_path.iterdir()] == ["decode"]
    decode(1, "two")
    assert (out / "1best_recog" / "text").read_text() == "a two\n"
    assert {f.name for f in out.iterdir()} == {"1best_recog", "decode_stats.jsonl", "decode_meta.json", "log"}
