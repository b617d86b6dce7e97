"""What a corpus must say of its segments, whatever its own files look like.

Manifests are lhotse's: ``{"recordings": RecordingSet, "supervisions": SupervisionSet}``, as its recipes return them.
Made canonical, a supervision has

- ``language``: the spoken one, ISO 639-3; ``speaker``; ``start`` and ``duration`` in the recording,
- ``text``: what is said,
- ``custom["translations"]``: target language (ISO 639-3) → text,
- ``custom["asr"]``: whether it also serves as an utterance of the task ``asr``,
- ``custom["passage"]``: what must not be in two sets, beside the recording (a sentence that several people read).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

Manifests = Mapping[str, Any]
Sets = dict[str, Manifests]

LEAKED = "its recording or sentence is in a later set"
AMBIGUOUS = "two transcripts for the same seconds"
NO_AUDIO = "no readable audio file"
OUTSIDE = "outside its recording"


def canonical(
    segment: SupervisionSegment,
    language: str,
    text: str | None = None,
    translations: Mapping[str, str] | None = None,
    asr: bool = True,
    passage: str | None = None,
) -> SupervisionSegment:
    """A segment with the fields listed above, at whole milliseconds; ``text`` where it is to be replaced."""
    custom: dict[str, Any] = {"translations": dict(translations or {}), "asr": asr}
    if passage is not None:
        custom["passage"] = passage
    start, end = round(segment.start, 3), round(segment.end, 3)
    text = segment.text if text is None else text
    return replace(segment, start=start, duration=round(end - start, 3), language=language, text=text, custom=custom)


def with_audio(
    segments: Iterable[SupervisionSegment], recordings: Mapping[str, Recording | None]
) -> tuple[Manifests, Counter[str]]:
    """Manifests of the segments whose recording there is.

    Their seconds stay as they are, unlike lhotse's ``fix_manifests`` has it: how much of a segment lies behind the end
    of its recording is for :func:`local.manifests.cut.cut_segments` to see.

    Args:
        segments: of one set.
        recordings: by name; ``None`` where its audio is missing or cannot be read.

    Returns:
        The manifests, and how many segments were left out for what reason.
    """
    every = list(segments)
    kept = [segment for segment in every if recordings.get(segment.recording_id) is not None]
    used = dict.fromkeys(segment.recording_id for segment in kept)
    manifests = {
        "recordings": RecordingSet.from_recordings(recordings[name] for name in used),
        "supervisions": SupervisionSet.from_segments(kept),
    }
    return manifests, +Counter({NO_AUDIO: len(every) - len(kept)})


def join(parts: Iterable[Manifests]) -> tuple[Manifests, Counter[str]]:
    """One set out of several that may share recordings, such as those of ``en-de`` and ``en-fr``.

    Segments of the same seconds with the same transcript become one, with the translations of all. Where ASR would have
    two transcripts for the same seconds, neither is to be trusted.

    Returns:
        The manifests, and how many segments were left out for what reason.
    """
    recordings: dict[str, Any] = {}
    at: dict[tuple[str, int, int], dict[str | None, list[SupervisionSegment]]] = {}
    for part in parts:
        for recording in part["recordings"]:
            recordings.setdefault(recording.id, recording)
        for segment in part["supervisions"]:
            key = (segment.recording_id, round(segment.start * 1000), round(segment.end * 1000))
            at.setdefault(key, {}).setdefault(segment.text, []).append(segment)
    kept: dict[str, SupervisionSegment] = {}
    dropped: Counter[str] = Counter()
    for by_text in at.values():
        found = [_merge(same) for same in by_text.values()]
        if sum(segment.custom["asr"] for segment in found) > 1:
            dropped[AMBIGUOUS] += sum(segment.custom["asr"] for segment in found)
            found = [segment for segment in found if not segment.custom["asr"]]
        for segment in found:
            name = _free_name(segment.id, kept)
            kept[name] = replace(segment, id=name)
    manifests = {
        "recordings": RecordingSet.from_recordings(recordings.values()),
        "supervisions": SupervisionSet.from_segments(kept.values()),
    }
    return manifests, dropped


def drop_leaks(sets: Sets) -> tuple[Sets, dict[str, Counter[str]]]:
    """Take out of a set what a later one (dev after train, test after dev) has too.

    Corpora keep the splits of one language pair apart; put together, the pairs need not agree.

    Returns:
        The sets, and set → reason → count.
    """
    held: set[tuple[str, str]] = set()
    result: Sets = {}
    dropped: dict[str, Counter[str]] = {}
    for name in reversed(list(sets)):
        supervisions = list(sets[name]["supervisions"])
        free = [segment for segment in supervisions if not _names(segment) & held]
        dropped[name] = Counter({LEAKED: len(supervisions) - len(free)} if len(free) < len(supervisions) else {})
        result[name] = {**sets[name], "supervisions": SupervisionSet.from_segments(free)}
        held.update(*(_names(segment) for segment in free))
    return {name: result[name] for name in sets}, dropped


def _names(segment: SupervisionSegment) -> set[tuple[str, str]]:
    names = {("recording", segment.recording_id)}
    passage = (segment.custom or {}).get("passage")
    return names if passage is None else names | {("passage", passage)}


def _free_name(name: str, taken: Container[str]) -> str:
    """``name``, numbered where another pair has it too."""
    if name not in taken:
        return name
    return next(f"{name}.{number}" for number in count(2) if f"{name}.{number}" not in taken)


def _merge(same: list[SupervisionSegment]) -> SupervisionSegment:
    first, *others = same
    if not others:
        return first
    translations: dict[str, str] = {}
    for segment in same:
        translations = {**segment.custom["translations"], **translations}
    asr = any(segment.custom["asr"] for segment in same)
    return replace(first, custom={**first.custom, "translations": translations, "asr": asr})
