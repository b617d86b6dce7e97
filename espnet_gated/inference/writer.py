"""Writes a decoding directory: complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch
from espnet2.fileio.datadir_writer import DatadirWriter

from espnet_gated import __version__
from espnet_gated.analysis.scoring import META_FILE, SCORE_FILE
from espnet_gated.machine import cpu_name

STATS = "decode_stats.jsonl"
META = "decode_meta.json"
_FILES = (STATS, META, SCORE_FILE, META_FILE)


class DecodeWriter:
    """Results and statistics of utterances as they are decoded.

    Use as a context manager: everything goes to a hidden directory that takes the place of ``directory`` only when
    the block ends
    without an error.
    """

    def __init__(self, directory: str | Path, meta: Mapping[str, Any]):
        self.directory = Path(directory)
        self.meta = dict(meta)
        self._partial = self.directory.with_name(f".{self.directory.name}.partial-{os.getpid()}")
        self._files = contextlib.ExitStack()
        self._writer: DatadirWriter
        self._stats: TextIO

    def __enter__(self) -> DecodeWriter:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir()
        self._writer = self._files.enter_context(DatadirWriter(self._partial))
        self._stats = self._files.enter_context(open(self._partial / STATS, "w", encoding="utf-8"))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._files.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        (self._partial / META).write_text(json.dumps(self.meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.directory.exists():
            self._replace()
        else:
            os.replace(self._partial, self.directory)

    def _replace(self) -> None:
        """Take the place of what was decoded here before, n-best lists and scores too; all else (logs) stays.

        Whatever interrupts this, the earlier decoding is put back.
        """
        old = self.directory.with_name(f".{self.directory.name}.old-{os.getpid()}")
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir()
        moved: list[str] = []
        try:
            for entry in [*self.directory.glob("*best_recog"), *(self.directory / name for name in _FILES)]:
                if entry.exists():
                    os.replace(entry, old / entry.name)
            for entry in list(self._partial.iterdir()):
                moved.append(entry.name)
                os.replace(entry, self.directory / entry.name)
        except BaseException:
            for name in moved:
                if (self.directory / name).exists():
                    os.replace(self.directory / name, self._partial / name)
            for entry in list(old.iterdir()):
                os.replace(entry, self.directory / entry.name)
            old.rmdir()
            shutil.rmtree(self._partial, ignore_errors=True)
            raise
        self._partial.rmdir()
        shutil.rmtree(old)

    def write(self, utt_id: str, results: Any, stats: Mapping[str, Any]) -> None:
        """Write the n-best list of an utterance (what ``Speech2Text`` returned) and its statistics."""
        nbest, interctc = results if isinstance(results, tuple) else (results, None)
        for n, (text, tokens, ids, plain, hyp) in enumerate(nbest, 1):
            out = self._writer[f"{n}best_recog"]
            out["token"][utt_id] = " ".join(tokens)
            out["token_int"][utt_id] = " ".join(map(str, ids))
            out["score"][utt_id] = str(float(hyp.score))
            if text is not None:
                out["text"][utt_id] = text
                out["text_nospecial"][utt_id] = plain
        for layer, tokens in (interctc or {}).items():
            self._writer["1best_recog"][f"encoder_interctc_layer{layer}.txt"][utt_id] = " ".join(tokens)
        self._stats.write(json.dumps({"utt_id": utt_id, **stats}, ensure_ascii=False) + "\n")


def environment() -> dict[str, Any]:
    """Versions, machine and threads: what a result must carry."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("espnet", "torch")},
            "espnet_gated": __version__,
        },
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
