"""Write and read ESPnet S2T data directories; the one place that knows their files.

A directory holds, sorted by utterance id and in UTF-8::

    wav.scp           utt path
    text              utt <deu><asr><notimestamps> Der Arzt ...
                      (or with times, as OWSM's: <deu><asr><0.00> Der Arzt ...<2.30>)
    text.prev         utt <na>
    text.ctc          utt source transcript without special tokens (<na> where there is none)
    utt2spk           utt spk
    spk2utt           spk utt utt ...
    utt2num_samples   utt 16000
    utt2lang          utt deu
    utt2task          utt asr | st_eng
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from espnet_gated.data.text_line import (
    LANG_RULE,
    NO_TEXT,
    TASK_RULE,
    TIMESTAMP_TOKEN,
    TextLine,
    is_lang,
    is_task,
    times_of,
    words_between,
)

_SPECIAL = re.compile(r"<[^<>\s]+>")


class DataDirError(ValueError):
    """A data directory, or an utterance meant for one, breaks the convention."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where (``line`` counts from 1, 0 is the whole file) and what.

    ``kind`` is a short word to count by: ``missing-id``, ``duplicate``, or the file whose value
    is wrong.
    """

    file: str
    line: int
    utt_id: str
    message: str
    kind: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.utt_id}: {self.message}" if self.utt_id else f"{place}: {self.message}"


@dataclass(frozen=True)
class Utterance:
    """One row of a data directory: one audio file with one task.

    Args:
        utt_id: unique id that starts with ``spk``, no white space.
        wav: path of the audio file.
        spk: speaker id.
        lang: spoken language, ISO 639-3.
        task: ``asr`` or ``st_<target language>``.
        text: what the model shall write, free of special tokens.
        text_ctc: source transcript, or ``<na>`` where there is none.
        num_samples: length of the audio in samples.
        text_prev: text before this utterance, or ``<na>``.
        timed: ``text`` with the times of its parts, where the directory has them.
    """

    utt_id: str
    wav: str
    spk: str
    lang: str
    task: str
    text: str
    text_ctc: str
    num_samples: int
    text_prev: str = NO_TEXT
    timed: str | None = None

    @property
    def text_line(self) -> str:
        """The text with its language, task and timestamp tokens, as in the file ``text``."""
        return str(TextLine(self.lang, self.task, self.text, self.timed))

    @property
    def times(self) -> list[str]:
        """The time tokens of the text."""
        return times_of(self.timed or "")

    @property
    def target_lang(self) -> str:
        """Language of ``text``: the spoken one for ``asr``, else the one the task names."""
        return self.lang if self.task == "asr" else self.task.removeprefix("st_")


# file -> value of an utterance in it; spk2utt is the one file not keyed by utterance
COLUMNS: dict[str, Callable[[Utterance], str]] = {
    "wav.scp": lambda u: u.wav,
    "text": lambda u: u.text_line,
    "text.prev": lambda u: u.text_prev,
    "text.ctc": lambda u: u.text_ctc,
    "utt2spk": lambda u: u.spk,
    "utt2num_samples": lambda u: str(u.num_samples),
    "utt2lang": lambda u: u.lang,
    "utt2task": lambda u: u.task,
}
FILES = (*COLUMNS, "spk2utt")


def utterance_faults(utt: Utterance) -> list[tuple[str, str]]:
    """All that is wrong with one utterance, as (file it belongs to, message)."""
    faults = []
    if not _is_word(utt.utt_id):
        faults.append(("text", f"utterance id must be one word, got {utt.utt_id!r}"))
    if not _is_word(utt.spk):
        faults.append(("utt2spk", f"speaker must be one word, got {utt.spk!r}"))
    elif not utt.utt_id.startswith(utt.spk):
        faults.append(("utt2spk", f"utterance id must start with its speaker, got {utt.spk!r}"))
    if not utt.wav.strip():
        faults.append(("wav.scp", "audio path is empty"))
    elif not _is_line(utt.wav):
        faults.append(("wav.scp", f"audio path must be one line without tabs, got {utt.wav!r}"))
    if not is_lang(utt.lang):
        faults.append(("utt2lang", f"language must be {LANG_RULE}; got {utt.lang!r}"))
    if not is_task(utt.task):
        faults.append(("utt2task", f"task must be {TASK_RULE}; got {utt.task!r}"))
    faults += _text_faults("text", utt.text, allow_na=False)
    if utt.timed is not None and not (_is_line(utt.timed) and words_between(utt.timed) == utt.text):
        faults.append(("text", f"text with times must be the text and times alone, got {utt.timed[:60]!r}"))
    faults += _text_faults("text.ctc", utt.text_ctc, allow_na=True)
    faults += _text_faults("text.prev", utt.text_prev, allow_na=True)
    if utt.num_samples <= 0:
        faults.append(("utt2num_samples", f"length must be above 0 samples, got {utt.num_samples}"))
    return faults


def write_data_dir(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a data directory, all of it or nothing.

    Files of an earlier data directory at ``path`` are replaced; other things found there stay.

    Args:
        path: directory to make; its parents are made too.
        utterances: in any order; they are written sorted by id.

    Raises:
        DataDirError: for no utterances, an id given twice, or an impossible value (all are
            checked before the first file is written).
    """
    path = Path(path).resolve()
    utts = sorted(utterances, key=lambda u: u.utt_id)
    _check_writable(path, utts)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
    try:
        for name, value in COLUMNS.items():
            _write_table(temp / name, ((u.utt_id, value(u)) for u in utts))
        _write_table(temp / "spk2utt", spk2utt_of((u.utt_id, u.spk) for u in utts).items())
        temp.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        swap_in(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def read_data_dir(path: str | Path) -> list[Utterance]:
    """Read a data directory, sorted by utterance id.

    Raises:
        DataDirError: naming file, line and utterance of the first thing wrong.
    """
    utts, problems = parse_data_dir(path)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataDirError(f"{problems[0]}{more}")
    return utts


def parse_data_dir(path: str | Path) -> tuple[list[Utterance], list[Problem]]:
    """Read what can be read and list what is wrong, without opening any audio.

    Returns:
        The utterances that all files know and agree on, sorted by id, and the problems.
    """
    path = Path(path)
    if not path.is_dir():
        return [], [Problem(str(path), 0, "", "no such data directory", "missing-file")]
    problems: list[Problem] = []
    tables = {}
    for name in FILES:
        tables[name], found = read_table(path / name)
        problems += found
    spk2utt = tables.pop("spk2utt")
    every_id = sorted(set().union(*tables.values()))
    if not every_id and not problems:
        problems.append(Problem(str(path / "text"), 0, "", "no utterances", "empty"))
    utts = []
    for utt_id in every_id:
        utt, found = _assemble(path, utt_id, tables)
        problems += found
        if utt is not None and not found:
            utts.append(utt)
    if (path / "utt2spk").is_file() and (path / "spk2utt").is_file():
        problems += _spk2utt_problems(path, tables["utt2spk"], spk2utt)
    return utts, problems


Table = Mapping[str, tuple[int, str]]


def read_table(file: Path) -> tuple[dict[str, tuple[int, str]], list[Problem]]:
    """Read ``key value`` lines.

    Returns:
        key -> (line number from 1, value), and the problems: a missing file, bytes that are not
        UTF-8, empty lines, keys given twice, keys out of order.
    """
    if not file.is_file():
        return {}, [Problem(str(file), 0, "", "file is missing", "missing-file")]
    table: dict[str, tuple[int, str]] = {}
    problems = []
    previous = ""

    def note(key: str, message: str, kind: str, number: int) -> None:
        problems.append(Problem(str(file), number, key, message, kind))

    # bytes, because text mode also ends a line where a transcript has a stray carriage return
    for number, raw in enumerate(file.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            note("", f"not UTF-8: {error.reason}", "encoding", number)
            continue
        key, _, value = line.partition(" ")
        if not line and number == 1 and file.stat().st_size == 0:
            note("", "file is empty", "empty", 0)
        elif not key or not _is_word(key):
            note("", f"empty or broken id in line {line[:60]!r}", "id", number)
        elif key in table:
            note(key, f"id seen before in line {table[key][0]}", "duplicate", number)
        else:
            if key < previous:
                note(key, f"not sorted: comes after {previous} (LC_ALL=C sort)", "order", number)
            table[key] = (number, value.strip())
            previous = key
    return table, problems


def swap_in(new: Path, path: Path) -> None:
    """Put the directory ``new`` in the place of ``path``; the old one is kept on failure.

    Entries of ``path`` that ``new`` lacks and that are no data files move along.
    """
    if not path.exists():
        os.rename(new, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
    os.rename(path, old)  # onto an empty directory: allowed, and the name is ours
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    for entry in sorted(old.iterdir()):
        if entry.name not in FILES and not (path / entry.name).exists():
            os.rename(entry, path / entry.name)
    shutil.rmtree(old)


def _assemble(path: Path, utt_id: str, tables: Mapping[str, Table]) -> tuple[Utterance | None, list[Problem]]:
    """One utterance out of all files, with the problems it has."""
    problems = []
    for name, table in tables.items():
        if utt_id not in table and (path / name).is_file():
            others = [other for other in tables if utt_id in tables[other]]
            message = f"id is missing here but stands in {others[0]}"
            problems.append(Problem(str(path / name), 0, utt_id, message, "missing-id"))
    if any(utt_id not in table for table in tables.values()):
        return None, problems
    row = {name: table[utt_id][1] for name, table in tables.items()}
    line = {name: table[utt_id][0] for name, table in tables.items()}

    def problem(name: str, message: str) -> None:
        problems.append(Problem(str(path / name), line[name], utt_id, message, name))

    text = TextLine.parse(row["text"])
    if text is None:
        problem("text", f"must start with <lang><task>{TIMESTAMP_TOKEN} or a time, got {row['text'][:60]!r}")
    for name, token in (("utt2lang", text.lang), ("utt2task", text.task)) if text else ():
        if token != row[name]:
            problem("text", f"has <{token}> where {name} says {row[name]!r}")
    if not re.fullmatch(r"-?\d+", row["utt2num_samples"]):
        problem("utt2num_samples", f"must be a whole number, got {row['utt2num_samples']!r}")
    if problems or text is None:
        return None, problems
    utt = Utterance(
        utt_id=utt_id,
        wav=row["wav.scp"],
        spk=row["utt2spk"],
        lang=row["utt2lang"],
        task=row["utt2task"],
        text=text.words,
        text_ctc=row["text.ctc"],
        num_samples=int(row["utt2num_samples"]),
        text_prev=row["text.prev"],
        timed=text.timed,
    )
    for name, message in utterance_faults(utt):
        problem(name, message)
    return utt, problems


def _spk2utt_problems(path: Path, utt2spk: Table, spk2utt: Table) -> list[Problem]:
    """spk2utt must say exactly what utt2spk says."""
    file = str(path / "spk2utt")
    listed = {(spk, utt) for spk, (_, utts) in spk2utt.items() for utt in utts.split()}
    wanted = {(spk, utt) for utt, (_, spk) in utt2spk.items()}
    problems = []
    for spk, utt in sorted(wanted - listed):
        line = spk2utt[spk][0] if spk in spk2utt else 0
        problems.append(Problem(file, line, utt, f"not listed under its speaker {spk!r}", "speakers"))
    for spk, utt in sorted(listed - wanted):
        message = f"listed under speaker {spk!r}, against utt2spk"
        problems.append(Problem(file, spk2utt[spk][0], utt, message, "speakers"))
    return problems


def _check_writable(path: Path, utts: list[Utterance]) -> None:
    if path.exists() and not path.is_dir():
        raise DataDirError(f"{path}: is a file, a data directory must be a directory")
    if not utts:
        raise DataDirError(f"{path}: no utterances to write")
    for before, utt in pairwise(utts):
        if before.utt_id == utt.utt_id:
            raise DataDirError(f"{path / 'text'}: {utt.utt_id}: id given twice")
    for utt in utts:
        for name, message in utterance_faults(utt):
            raise DataDirError(f"{path / name}: {utt.utt_id}: {message}")


def _text_faults(name: str, text: str, allow_na: bool) -> list[tuple[str, str]]:
    if not text.strip():
        return [(name, "text is empty" + (f" (write {NO_TEXT} for none)" if allow_na else ""))]
    if allow_na and text == NO_TEXT:
        return []
    if not _is_line(text):
        return [(name, f"text must be one line without tabs or outer spaces, got {text[:60]!r}")]
    special = _SPECIAL.search(text)
    if special:
        return [(name, f"text must be free of special tokens, got {special.group()!r}")]
    return []


def _is_word(value: str) -> bool:
    return value.split() == [value]


def _is_line(value: str) -> bool:
    return value == value.strip() and "\t" not in value and len(value.splitlines()) == 1


def spk2utt_of(utt2spk: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The lines of ``spk2utt``, sorted by speaker, out of pairs of utterance and speaker."""
    members: dict[str, list[str]] = {}
    for utt_id, spk in utt2spk:
        members.setdefault(spk, []).append(utt_id)
    return {spk: " ".join(members[spk]) for spk in sorted(members)}


def _write_table(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{key} {value}\n" for key, value in rows)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
