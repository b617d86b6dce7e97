"""From lhotse's manifests to ESPnet data directories: the one way, for every corpus."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lhotse import SupervisionSegment

from espnet_gated.data.check import Limits, length_faults
from espnet_gated.data.datadir import Utterance, utterance_faults, write_data_dir
from local.manifests.cut import FS, Clip, cut_segments
from local.manifests.segments import NO_AUDIO, Sets, drop_leaks

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass(frozen=True)
class Places:
    """Where a preparation reads and writes, and how.

    Attributes:
        corpus_dir: the corpus as downloaded.
        data_dir: gets a data directory for each set, ``<corpus>.json`` with the counts, and lhotse's manifests.
        audio_dir: gets the audio of the segments.
        min_seconds, max_seconds: shorter and longer segments are left out of all sets.
        audio_format: ``flac`` or ``wav``.
        nj: threads or processes.
    """

    corpus_dir: Path
    data_dir: Path
    audio_dir: Path
    min_seconds: float = 0.1
    max_seconds: float = 30.0
    audio_format: str = "flac"
    nj: int = 1

    @property
    def manifests(self) -> Path:
        """Where lhotse's recipes write."""
        return self.data_dir / "manifests"


def prepare(
    corpus: str,
    places: Places,
    pairs: Collection[tuple[str, str]],
    options: Mapping[str, Any],
    read: Callable[[], tuple[Sets, dict[str, Counter[str]]]],
) -> dict[str, Any]:
    """Read a corpus, cut its segments and write its data directories.

    Does nothing where the same call has finished before (``<data_dir>/<corpus>.json`` says so; without it all is done
    again, and where audio files were missing: they may be there by now).

    Args:
        corpus: name, for messages and files.
        places: see there.
        pairs: (source, target) languages to translate.
        options: all else that decides the result.
        read: gives canonical sets in the order train, dev, tests, and what it left out: set → reason → count.

    Returns:
        What is written to ``<corpus>.json``: ``made_from``, ``sets`` (rows with segments, minutes and utterances of
        each set and language), ``dropped`` (set → reason → count).

    Raises:
        ValueError: for a corpus that is not there or not as expected, a set without utterances, or impossible options.
        MissingDecoderError: where the audio takes torchcodec or ffmpeg and there is neither.
    """
    if not places.corpus_dir.is_dir():
        raise ValueError(f"{places.corpus_dir}: no such directory (--corpus_dir)")
    limits = Limits(fs=FS, min_seconds=places.min_seconds, max_seconds=places.max_seconds)
    made_from = {
        key: str(value.resolve()) if isinstance(value, Path) else value for key, value in asdict(places).items()
    }
    made_from = {**made_from, **options, "st_pairs": sorted("-".join(pair) for pair in pairs)}
    del made_from["nj"]
    made_from = json.loads(json.dumps(made_from))  # as the stamp gives it back
    stamp = places.data_dir / f"{corpus}.json"
    before = _read_stamp(stamp)
    if before is not None and before["made_from"] == made_from and _lacks_audio(before):
        print(f"{places.data_dir}: {corpus} was prepared while audio was missing ({stamp.name}), looking again")
    elif before is not None and before["made_from"] == made_from:
        print(f"{places.data_dir}: {corpus} is prepared already ({stamp.name}), nothing to do")
        return before
    stamp.unlink(missing_ok=True)
    sets, dropped = read()
    sets, leaked = drop_leaks(sets)
    rows = []
    for name, manifests in sets.items():
        clips, without = cut_segments(
            manifests, places.audio_dir, places.audio_format, places.nj, label=f"{corpus} {name}"
        )
        reasons = dropped.get(name, Counter()) + leaked[name] + Counter(without.values())
        utterances = list(_good(_utterances(manifests["supervisions"], clips, pairs), limits, reasons))
        if not utterances:
            raise ValueError(f"{places.corpus_dir}: no utterance for {name} (left out: {dict(reasons) or 'nothing'})")
        write_data_dir(places.data_dir / name, utterances)
        dropped[name] = reasons
        rows += _rows(name, utterances)
    summary = {
        "made_from": made_from,
        "sets": rows,
        "dropped": {k: dict(sorted(v.items())) for k, v in dropped.items()},
    }
    _write_stamp(stamp, summary)
    return summary


def format_summary(summary: Mapping[str, Any]) -> str:
    """The counts as Markdown, for the terminal and a recipe's README."""
    lines = ["| set | language | segments | minutes | ASR | ST |", "|---|---|---|---|---|---|"]
    for row in summary["sets"]:
        lines.append("| " + " | ".join(str(row[k]) for k in ("set", "lang", "segments", "minutes", "asr", "st")) + " |")
    lines.append("")
    for name, reasons in summary["dropped"].items():
        lines += [f"left out of {name}: {count} ({reason})" for reason, count in reasons.items()]
    return "\n".join(lines)


def clean_text(text: str | None) -> str:
    """One line with single spaces (transcripts hold tabs, no-break spaces and line separators)."""
    return " ".join((text or "").split())


def _utterances(
    supervisions: Collection[SupervisionSegment], clips: Mapping[str, Clip], pairs: Collection[tuple[str, str]]
) -> Iterator[Utterance]:
    """ASR and translations of every segment that has audio."""
    for segment in supervisions:
        if segment.id not in clips:
            continue
        clip, source = clips[segment.id], clean_text(segment.text)
        texts = {"asr": source} if segment.custom["asr"] else {}
        for target, text in sorted(segment.custom["translations"].items()):
            if (segment.language, target) in pairs:
                texts[f"st_{target}"] = clean_text(text)
        speaker = f"{segment.language}_{_word(segment.speaker or segment.recording_id)}"
        for task, text in texts.items():
            yield Utterance(
                utt_id=f"{speaker}-{_word(segment.id)}-{task}",
                wav=str(clip.path),
                spk=speaker,
                lang=segment.language,
                task=task,
                text=text,
                text_ctc=source,
                num_samples=clip.num_samples,
            )


def _good(utterances: Iterator[Utterance], limits: Limits, reasons: Counter[str]) -> Iterator[Utterance]:
    """Those that pass the check of data directories; the others are counted."""
    for utterance in utterances:
        faults = [message.split(",")[0] for _, message in utterance_faults(utterance)]
        faults += [fault.kind for fault in length_faults(utterance, limits)] if not faults else []
        if faults:
            reasons[f"utterance: {faults[0]}"] += 1
        else:
            yield utterance


def _word(name: str) -> str:
    return _NOT_IN_IDS.sub("_", name)


def _rows(name: str, utterances: list[Utterance]) -> list[dict[str, Any]]:
    rows = []
    for lang in sorted({utt.lang for utt in utterances}):
        mine = [utt for utt in utterances if utt.lang == lang]
        samples = {utt.wav: utt.num_samples for utt in mine}
        asr = sum(utt.task == "asr" for utt in mine)
        minutes = round(sum(samples.values()) / FS / 60, 2)
        row = {"set": name, "lang": lang, "segments": len(samples), "minutes": minutes}
        rows.append({**row, "asr": asr, "st": len(mine) - asr})
    return rows


def _read_stamp(stamp: Path) -> dict[str, Any] | None:
    try:
        summary: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
        sets = {row["set"] for row in summary["sets"]}
        return summary if all((stamp.parent / name / "text").is_file() for name in sets) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lacks_audio(summary: Mapping[str, Any]) -> bool:
    return any(reasons.get(NO_AUDIO) for reasons in summary["dropped"].values())


def _write_stamp(stamp: Path, summary: Mapping[str, Any]) -> None:
    temp = stamp.with_name(f".{stamp.name}.tmp")
    temp.write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temp, stamp)
