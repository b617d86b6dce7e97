"""The text files that MuST-C and mTEDx share, and lhotse's recipes leave aside.

Both keep ``<pair>/data/<split>/txt/<split>.yaml`` (recording, start and length of each segment) and beside it one file
of lines for each language, ``<split>.<lang>``. lhotse reads MuST-C's translations without the English, and of mTEDx the
transcripts alone, in lower case and without punctuation.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet, fix_manifests
from tqdm import tqdm

from espnet_gated.data.audio import AudioError, audio_info

SLACK = 0.1  # seconds by which two files may put the start of a segment differently


def read_pair(data_dir: Path, split: str, source: str, target: str) -> dict[str, Any]:
    """Manifests of ``<pair>/data/<split>``; ``text`` is the transcript, ``custom["translation"]`` the translation.

    Raises:
        ValueError: for missing files, or files that disagree in length.
    """
    folder = data_dir / split
    rows = _read_yaml(folder / "txt" / f"{split}.yaml")
    transcripts, translations = (read_lines(folder / "txt", split, lang, len(rows)) for lang in (source, target))
    recordings: dict[str, Recording | None] = {}
    segments = []
    for row, transcript, translation in zip(
        tqdm(rows, desc=f"{source}-{target} {split}", mininterval=1.0), transcripts, translations, strict=True
    ):
        name = Path(row["wav"]).stem
        if name not in recordings:
            recordings[name] = _recording(folder / "wav", name)
        segments.append(
            SupervisionSegment(
                id=f"{name}_{round(1000 * float(row['offset'])):07d}",
                recording_id=name,
                start=float(row["offset"]),
                duration=round(float(row["duration"]), 8),
                channel=0,
                text=transcript,
                language=source,
                speaker=str(row["speaker_id"]),
                custom={"translation": translation},
            )
        )
    found = RecordingSet.from_recordings(recording for recording in recordings.values() if recording is not None)
    once = {segment.id: segment for segment in segments}
    fixed, supervisions = fix_manifests(found, SupervisionSet.from_segments(once.values()))
    return {"recordings": fixed, "supervisions": supervisions}


class TimedText:
    """The lines of one language of a split, found by recording and start."""

    def __init__(self, txt_dir: Path, split: str, lang: str) -> None:
        """Read them; ``ValueError`` for missing files, or files that disagree in length."""
        rows = _read_yaml(txt_dir / f"{split}.yaml")
        self._texts: dict[str, list[tuple[float, str]]] = {}
        for row, text in zip(rows, read_lines(txt_dir, split, lang, len(rows)), strict=True):
            self._texts.setdefault(Path(row["wav"]).stem, []).append((float(row["offset"]), text))
        for texts in self._texts.values():
            texts.sort()

    def at(self, recording_id: str, start: float) -> str | None:
        """The line whose segment starts within ``SLACK`` of ``start``; the nearest of several."""
        texts = self._texts.get(recording_id, [])
        place = bisect_left(texts, (start, ""))
        near = texts[max(0, place - 1) : place + 2]
        best = min(near, key=lambda item: abs(item[0] - start), default=None)
        return best[1] if best is not None and abs(best[0] - start) <= SLACK else None


def read_lines(txt_dir: Path, split: str, lang: str, count: int) -> list[str]:
    """The lines of one language; ``ValueError`` where they are missing or not ``count``."""
    file = txt_dir / f"{split}.{lang}"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; is the corpus unpacked whole?")
    text = file.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
    if len(lines) != count:
        raise ValueError(f"{file}: has {len(lines)} lines, {split}.yaml has {count} segments")
    return lines


def _read_yaml(file: Path) -> Sequence[dict[str, str]]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; is the corpus unpacked whole?")
    return _parse_yaml(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _parse_yaml(file: Path, _version: int) -> Sequence[dict[str, str]]:
    # all values as strings: a speaker or recording may look like a number (1e5, 0x7)
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    with file.open(encoding="utf-8") as stream:
        rows: Sequence[dict[str, str]] = yaml.load(stream, Loader=loader) or []  # noqa: S506 (builds nothing but strings)
    return rows


def _recording(wav_dir: Path, name: str) -> Recording | None:
    path = next((p for suffix in (".flac", ".wav") if (p := wav_dir / f"{name}{suffix}").is_file()), None)
    if path is None:
        logging.warning("%s: no audio for %s", wav_dir, name)
        return None
    try:
        audio_info(path)
    except AudioError as error:
        logging.warning("%s", error)
        return None
    return Recording.from_file(path, recording_id=name)
