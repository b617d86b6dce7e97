"""A line of the file ``text``: language and task, then words, with times between them or without."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_TEXT = "<na>"
TIMESTAMP_TOKEN = "<notimestamps>"

LANG_RULE = "three lower-case letters (ISO 639-3), e.g. deu"
TASK_RULE = "asr, or st_ and a target language such as st_eng"

_LANG = re.compile(r"[a-z]{3}")
_TASK = re.compile(r"asr|st_[a-z]{3}")
_TIME = re.compile(r"<\d+\.\d\d>")
_SYMBOLS = re.compile(r"<([^<>\s]+)><([^<>\s]+)>")
_LINE = re.compile(_SYMBOLS.pattern + r"(?:<notimestamps>(?:\s+(?P<words>.*))?|(?P<timed><\d+\.\d\d>.*))", re.DOTALL)


@dataclass(frozen=True)
class TextLine:
    """What a line says.

    Attributes:
        lang: first token, without brackets.
        task: second token, without brackets.
        words: of the text, without times.
        timed: the text with the times of its parts (``<0.00> ja<0.50>``), where the line has them.
    """

    lang: str
    task: str
    words: str
    timed: str | None = None

    @classmethod
    def parse(cls, line: str) -> TextLine | None:
        """Read ``<deu><asr><notimestamps> ja`` or ``<deu><asr><0.00> ja<0.50>``; ``None`` for anything else."""
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        timed = match["timed"]
        return cls(match[1], match[2], (match["words"] or "") if timed is None else words_between(timed), timed)

    def __str__(self) -> str:
        return f"<{self.lang}><{self.task}>" + (self.timed or f"{TIMESTAMP_TOKEN} {self.words}")


def is_lang(symbol: str) -> bool:
    """Whether this may name a language, see :data:`LANG_RULE`."""
    return _LANG.fullmatch(symbol) is not None


def is_task(symbol: str) -> bool:
    """Whether this may name a task, see :data:`TASK_RULE`."""
    return _TASK.fullmatch(symbol) is not None


def symbols_of(line: str) -> tuple[str, str] | None:
    """Language and task that a line begins with, without brackets; ``None`` where it does not."""
    match = _SYMBOLS.match(line)
    return None if match is None or not is_task(match[2]) else (match[1], match[2])


def without_times(line: str) -> str:
    """A line without its times: ``<deu><asr><0.00> ja<0.50>`` → ``<deu><asr><notimestamps> ja``."""
    found = TextLine.parse(line)
    return line if found is None or found.timed is None else str(TextLine(found.lang, found.task, found.words))


def words_of(line: str) -> str:
    """The words of a line, without special tokens in front and times; of words alone themselves."""
    found = TextLine.parse(line)
    return line if found is None else found.words


def words_between(timed: str) -> str:
    """The words of a text with times."""
    return " ".join(_TIME.sub(" ", timed).split())


def times_of(timed: str) -> list[str]:
    """The time tokens of a text."""
    return _TIME.findall(timed)
