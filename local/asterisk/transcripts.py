"""Read the transcripts that come with the prompts, and clean them by a written rule.

A file has lines ``name: what is said``; ``;`` starts a comment. The rule, in this order:

1. A name given twice keeps its first text. A text that holds another prompt's ``name:`` is two
   lines run together and is dropped; its own name repeated in front is removed.
2. Brackets ``[...]``, ``(...)``, ``<...>``. Around the whole text they describe a sound (silence, a
   tone): no speech, dropped, and with it the prompt in every language. Without letters inside
   (``at [@]``) or behind all other words (``(in inglese)``) they are notes and are removed. With
   words behind them (``Il [suo] messaggio``) nothing tells whether they are spoken: dropped.
3. ``?`` is a question mark at the end or before a capital; anywhere else it stands for a lost letter
   (``pi? tardi``) and the prompt is dropped in that language.
4. A digit on its own is spelled as the prompts themselves say it (``press 1`` -> ``press one``).
5. Quotation marks, ellipses and lone dashes are removed; curly apostrophes become straight; a mark
   that runs into the next word gets its space; a Latin letter in a Cyrillic word (``первoe``)
   becomes the Cyrillic one that looks like it.
6. What then still holds anything but letters and ``. , : ; ! ? ' -`` (``500``, ``H.323``, ``*``,
   ``on/off``) has no certain reading and is dropped. So is a text without a letter of its
   language's script.

Prompt names are lower-cased (``letters/O`` is the file ``letters/o``). Everything is in Unicode NFC
with single spaces. Case, spelling mistakes and missing accents (the
Spanish file has few) stay as they were written.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

NO_SPEECH = "no speech"
UNCLEAR_BRACKET = "unclear bracket"
LOST_LETTER = "lost letter"
MERGED = "merged prompts"
NO_READING = "no certain reading"
EMPTY = "empty text"
OTHER_SCRIPT = "other script"
NAMED_TWICE = "named twice"

DIGITS = {
    "eng": "zero one two three four five six seven eight nine",
    "spa": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fra": "zéro un deux trois quatre cinq six sept huit neuf",
    "ita": "zero uno due tre quattro cinque sei sette otto nove",
    "rus": "ноль один два три четыре пять шесть семь восемь девять",
}
LANGUAGES = tuple(DIGITS)

_LINE = re.compile(r"([\w/-]+):(.*)")
_BRACKETED = re.compile(r"\[([^\]]*)\]|\(([^)]*)\)|<([^>]*)>")
_LETTER = re.compile(r"[^\W\d_]")
_LOST = re.compile(r"\?(?!\s*$|\s+[^\W\d_a-zà-ÿа-я])")
_LONE_DIGIT = re.compile(r"(?<![\w.-])\d(?![\w-]|[.,]\d)")
_LONE_DASH = re.compile(r"(?<!\S)-+(?!\S)")
_GLUED_MARK = re.compile(r"([,:;!?])(?=\w)|(?<=[^\W\d_A-ZА-Я]{2})(\.)(?=[A-ZÀ-ÝА-Я])")
_ALLOWED = re.compile(r"[^\W\d_]|[ .,:;!?'-]")
_SCRIPT = {lang: "CYRILLIC" if lang == "rus" else "LATIN" for lang in LANGUAGES}
_LOOK_ALIKES = str.maketrans("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ")
_REPLACED = str.maketrans({"’": "'", "‘": "'", "–": "-", "—": "-", "…": "..."})


class Unusable(ValueError):
    """A text that the rule drops; the message is the reason, one of this module's constants."""


@dataclass(frozen=True)
class Transcripts:
    """One language's transcripts: clean ``texts`` by prompt name, and why others were ``dropped``."""

    texts: dict[str, str]
    dropped: dict[str, str]


def read_transcripts(file: Path, lang: str) -> Transcripts:
    """Read and clean a transcript file (UTF-8, plain or ``.gz``).

    Args:
        file: lines ``name: text``.
        lang: one of ``LANGUAGES`` (ISO 639-3).

    Raises:
        ValueError: for a language without a rule, or a line that is no ``name: text``.
    """
    if lang not in DIGITS:
        raise ValueError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    raw, twice = _read_lines(file)
    texts: dict[str, str] = {}
    dropped = {f"{name} (again)": NAMED_TWICE for name in twice}
    for name, text in raw.items():
        try:
            texts[name] = clean(text, lang, name, raw)
        except Unusable as reason:
            dropped[name] = str(reason)
    return Transcripts(texts, dropped)


def clean(text: str, lang: str, name: str = "", names: Collection[str] = ()) -> str:
    """Clean one text by the rule of this module.

    Args:
        text: as the file has it.
        lang: one of ``LANGUAGES``.
        name: the prompt's own name.
        names: all prompt names of the file.

    Raises:
        Unusable: for a text that the rule drops.
    """
    text = unicodedata.normalize("NFC", text).translate(_REPLACED).strip()
    text = _without_names(text, name, names)
    text = _without_brackets(text)
    text = re.sub(r"[\"“”„«»]", "", text)
    if _LOST.search(text):
        raise Unusable(LOST_LETTER)
    words = DIGITS[lang].split()
    text = _LONE_DIGIT.sub(lambda match: words[int(match.group())], text)
    text = re.sub(r"\.{2,}", " ", text)
    text = _LONE_DASH.sub(" ", text)
    text = _GLUED_MARK.sub(lambda match: f"{match.group()} ", text)
    text = re.sub(r"\s+([.,:;!?])", r"\1", text).replace("..", ".")
    text = " ".join(_one_script(word) for word in text.split())
    if not _LETTER.search(text):
        raise Unusable(NO_READING if text else EMPTY)
    if _ALLOWED.sub("", text):
        raise Unusable(NO_READING)
    if not any(_SCRIPT[lang] in unicodedata.name(char, "") for char in text):
        raise Unusable(OTHER_SCRIPT)
    return text


def _one_script(word: str) -> str:
    return word.translate(_LOOK_ALIKES) if re.search("[а-яёА-ЯЁ]", word) else word


def _read_lines(file: Path) -> tuple[dict[str, str], list[str]]:
    """name -> raw text in file order, and the names that came again."""
    raw: dict[str, str] = {}
    twice = []
    octets = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    for number, line in enumerate(octets.decode("utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{file}:{number}: expected 'name: text', got {line[:60]!r}")
        name = match[1].lower()
        if name in raw:
            twice.append(name)
        else:
            raw[name] = match[2].strip()
    return raw, twice


def _without_names(text: str, name: str, names: Collection[str]) -> str:
    while name and text.lower().startswith(f"{name}:"):
        text = text[len(name) + 1 :].strip()
    inner = re.findall(r"([\w/]+(?:[-/]\w+)+):", text.lower())
    if any(other in names for other in inner):
        raise Unusable(MERGED)
    return text


def _without_brackets(text: str) -> str:
    matches = list(_BRACKETED.finditer(text))
    if matches and not _LETTER.search(_BRACKETED.sub("", text)):
        raise Unusable(NO_SPEECH)
    for match in matches:
        behind = _BRACKETED.sub("", text[match.end() :])
        if _LETTER.search(match.group()) and _LETTER.search(behind):
            raise Unusable(UNCLEAR_BRACKET)
    return _BRACKETED.sub(" ", text)
