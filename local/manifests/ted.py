"""The text files that MuST-C and mTEDx share, and lhotse's recipes leave aside.

Both keep ``<pair>/data/<split>/txt/<split>.yaml`` (recording, start and length of each segment) and beside it one file
of lines for each language, ``<split>.<lang>``. lhotse reads MuST-C's translations without the English, and of mTEDx the
transcripts alone, in lower case and without punctuation.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import yaml
from lhotse import Recording, SupervisionSegment
from tqdm import tqdm

from espnet_gated.data.audio import AudioError, audio_info
from local.manifests.segments import NO_AUDIO, OUTSIDE, Manifests, with_audio

SLACK = 0.1  # seconds by which two files may put the start of a segment differently


def read_pair(data_dir: Path, split: str, source: str, target: str) -> tuple[Manifests, Counter[str]]:
    """Manifests of ``<pair>/data/<split>``; ``text`` is the transcript, ``custom["translation"]`` the translation.

    Returns:
        The manifests, and how many segments were left out for what reason.

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
    once = {segment.id: segment for segment in segments}
    return with_audio(once.values(), recordings)


@dataclass(frozen=True, order=True)
class Line:
    """A line and its segment: seconds from the recording's beginning, and its length."""

    start: float
    seconds: float
    text: str


class TimedText:
    """The lines of one language of a split, found by recording and start."""

    def __init__(self, txt_dir: Path, split: str, lang: str) -> None:
        """Read them; ``ValueError`` for missing files, or files that disagree in length."""
        rows = _read_yaml(txt_dir / f"{split}.yaml")
        self._lines: dict[str, list[Line]] = {}
        for row, text in zip(rows, read_lines(txt_dir, split, lang, len(rows)), strict=True):
            line = Line(float(row["offset"]), float(row["duration"]), text)
            self._lines.setdefault(Path(row["wav"]).stem, []).append(line)
        for lines in self._lines.values():
            lines.sort()

    def at(self, recording_id: str, start: float) -> Line | None:
        """The line whose segment starts within ``SLACK`` of ``start``; the nearest of several."""
        lines = self._lines.get(recording_id, [])
        place = bisect_left(lines, start, key=lambda line: line.start)
        near = lines[max(0, place - 1) : place + 2]
        best = min(near, key=lambda line: abs(line.start - start), default=None)
        return best if best is not None and abs(best.start - start) <= SLACK else None

    def lost(self, recordings: Iterable[Recording]) -> Counter[str]:
        """How many lines lhotse's recipes pass over without a word, as there is no audio of them: reason → lines."""
        ends = {recording.id: recording.duration for recording in recordings}
        reasons: Counter[str] = Counter()
        for name, lines in self._lines.items():
            reasons[NO_AUDIO] += len(lines) if name not in ends else 0
            reasons[OUTSIDE] += sum(line.start >= ends[name] for line in lines) if name in ends else 0
        return +reasons


def untrimmed(segment: SupervisionSegment, line: Line, recording: Recording) -> SupervisionSegment:
    """A segment with its own end, where lhotse's recipes have put the end of its recording in its place."""
    end = line.start + line.seconds
    trimmed = abs(segment.end - recording.duration) <= SLACK and end > segment.end
    return replace(segment, duration=end - segment.start) if trimmed else segment


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
