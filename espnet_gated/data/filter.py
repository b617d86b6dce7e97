"""Keep the good utterances of a data directory and say which were dropped and why."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_gated.data.check import Limits, length_faults
from espnet_gated.data.datadir import (
    FILES,
    DataDirError,
    Problem,
    Utterance,
    parse_data_dir,
    write_data_dir,
)
from espnet_gated.data.probe import AudioProbe

LOG_FILE = "filter_log.json"
MAX_DROPPED = 0.1

# put right by writing the directory anew, so no reason to drop an utterance
_REPAIRED = {"order", "speakers"}


@dataclass(frozen=True)
class FilterResult:
    """What was kept and dropped.

    ``dropped`` maps utterance id -> reasons, each as (kind, message). ``done_before`` says that
    the output was there already and nothing was written.
    """

    kept: int
    dropped: dict[str, list[tuple[str, str]]]
    done_before: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Kind of reason -> utterances dropped for it; one with two reasons counts in both."""
        counts: dict[str, int] = {}
        for reasons in self.dropped.values():
            for kind in {kind for kind, _ in reasons}:
                counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def filter_data_dir(
    in_dir: str | Path,
    out_dir: str | Path,
    limits: Limits | None = None,
    *,
    max_dropped: float = MAX_DROPPED,
    decode: bool = True,
    nj: int = 1,
) -> FilterResult:
    """Write the good utterances of ``in_dir`` to ``out_dir``, with ``filter_log.json``.

    Does nothing when ``out_dir`` is complete and was made from the same files with the same
    limits.

    Args:
        in_dir: data directory; may be unsorted or hold broken utterances.
        out_dir: data directory to write (atomically).
        limits: allowed lengths and sample rate.
        max_dropped: share of the utterances that may be dropped; more than that is no stray mistake, and nothing is
            written.
        decode: decode all audio to its end, not only its head.
        nj: threads that look at audio.

    Raises:
        DataDirError: for a file that is missing or broken as a whole, too many utterances dropped or none left, or
            ``out_dir`` the same as ``in_dir``.
        ValueError: for an impossible ``max_dropped``.
    """
    if not 0 <= max_dropped <= 1:
        raise ValueError(f"max_dropped must be in [0, 1], got {max_dropped} (--max_dropped)")
    in_dir, out_dir, limits = Path(in_dir), Path(out_dir), limits or Limits()
    if in_dir.resolve() == out_dir.resolve():
        raise DataDirError(f"{out_dir}: the output directory must not be the input directory")
    made_from = _made_from(in_dir, limits, decode)
    if (done := _done(out_dir, made_from)) is not None:
        _raise_if_too_many(in_dir, done, max_dropped)
        return done
    utts, problems = parse_data_dir(in_dir)
    dropped = _broken(problems)
    audio = AudioProbe(limits.fs, decode=decode)
    audio.look_at((utt.wav for utt in utts), nj, label=f"audio of {in_dir.name}")
    kept = []
    for utt in utts:
        reasons = dropped.get(utt.utt_id, []) + _reasons(utt, audio, limits)
        if reasons:
            dropped[utt.utt_id] = reasons
        else:
            kept.append(utt)
    result = FilterResult(len(kept), dict(sorted(dropped.items())))
    _raise_if_too_many(in_dir, result, max_dropped)
    # without its log an output counts as unfinished, so the log goes first and comes last
    for name in _contexts_of(out_dir):
        (out_dir / name).unlink(missing_ok=True)
    (out_dir / LOG_FILE).unlink(missing_ok=True)
    write_data_dir(out_dir, kept)
    _copy_contexts(in_dir, out_dir, {utt.utt_id for utt in kept})
    _write_log(out_dir / LOG_FILE, result, made_from)
    return result


def _context_files(directory: Path) -> list[Path]:
    """The files ``utt2<name>`` that are not the convention's: labels and vectors of contexts."""
    return sorted(p for p in directory.glob("utt2*") if p.is_file() and p.name not in FILES)


def _copy_contexts(in_dir: Path, out_dir: Path, kept: Collection[str]) -> None:
    """The context files of ``in_dir``, with the lines of the utterances that are kept; others in ``out_dir`` stay.

    Places of vectors that are beside such a file (``speaker.ark:44``) get the path that leads there.
    """
    for path in _context_files(in_dir):
        lines = []
        for fields in (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()):
            if fields and fields[0] in kept:
                value = fields[1].strip() if len(fields) > 1 else ""
                beside = in_dir / value.rpartition(":")[0]
                if ":" in value and beside.is_file():
                    value = f"{beside.resolve()}:{value.rpartition(':')[2]}"
                lines.append(f"{fields[0]} {value}\n")
        (out_dir / path.name).write_text("".join(lines), encoding="utf-8")


def _contexts_of(out_dir: Path) -> list[str]:
    """Context files that an earlier filtering has written."""
    try:
        files = json.loads((out_dir / LOG_FILE).read_text(encoding="utf-8"))["made_from"]["files"]
        return [name for name in files if name.startswith("utt2") and name not in FILES]
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return []


def _raise_if_too_many(in_dir: Path, result: FilterResult, max_dropped: float) -> None:
    count, total = len(result.dropped), result.kept + len(result.dropped)
    why = ", ".join(f"{n} {kind}" for kind, n in result.counts.items())
    if not result.kept:
        raise DataDirError(f"{in_dir}: no utterance left of {count} ({why})")
    if count > max_dropped * total:
        utt, ((_, message), *_) = next(iter(result.dropped.items()))
        raise DataDirError(
            f"{in_dir}: {count} of {total} utterances would be dropped ({why}), more than {max_dropped:.0%} "
            f"(--max_dropped), the first being {utt}: {message}"
        )


def _broken(problems: Iterable[Problem]) -> dict[str, list[tuple[str, str]]]:
    """Reasons to drop utterances, out of what reading the files found."""
    dropped: dict[str, list[tuple[str, str]]] = {}
    for problem in problems:
        if problem.kind in _REPAIRED:
            continue
        if problem.utt_id:
            dropped.setdefault(problem.utt_id, []).append((problem.kind, str(problem)))
        elif not problem.line:
            raise DataDirError(str(problem))
        else:
            # a line without a readable id: its utterance, if any, is missed in this file
            dropped.setdefault(f"{problem.file}:{problem.line}", []).append((problem.kind, str(problem)))
    return dropped


def _reasons(utt: Utterance, audio: AudioProbe, limits: Limits) -> list[tuple[str, str]]:
    """Why a readable utterance is dropped; empty for a good one."""
    faults = [*audio.faults(utt.wav, utt.num_samples), *length_faults(utt, limits)]
    return [(fault.kind, fault.message) for fault in faults]


def _made_from(in_dir: Path, limits: Limits, decode: bool) -> dict[str, Any]:
    """All that decides the output, to see whether an earlier one still holds."""
    files = {}
    for path in (*(in_dir / name for name in FILES), *_context_files(in_dir)):
        if path.is_file():
            stat = path.stat()
            files[path.name] = [stat.st_size, stat.st_mtime_ns]
    return {
        "in_dir": str(in_dir.resolve()),
        "files": files,
        "limits": asdict(limits),
        "decode": decode,
    }


def _done(out_dir: Path, made_from: dict[str, Any]) -> FilterResult | None:
    """The result of an earlier run, if its output is complete and would be the same."""
    names = [*FILES, LOG_FILE, *(path.name for path in _context_files(Path(made_from["in_dir"])))]
    if not all((out_dir / name).is_file() for name in names):
        return None
    try:
        log = json.loads((out_dir / LOG_FILE).read_text(encoding="utf-8"))
        if log["made_from"] != made_from:
            return None
        dropped = {utt: [(kind, message) for kind, message in reasons] for utt, reasons in log["dropped"].items()}
        return FilterResult(log["kept"], dropped, done_before=True)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None


def _write_log(file: Path, result: FilterResult, made_from: dict[str, Any]) -> None:
    log = {
        "kept": result.kept,
        "dropped_utterances": len(result.dropped),
        "counts": result.counts,
        "dropped": result.dropped,
        "made_from": made_from,
    }
    temp = file.with_name(f".{file.name}.tmp")
    temp.write_text(json.dumps(log, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temp, file)
