"""Sentences to synthesise that no prompt has: Debian's installation guide, which exists in all five languages.

The prompts know a few hundred words of each language, and a third of a test prompt's words are not among them. What
comes from here has the sounds of a language in tens of thousands of other orders. Only runs of plain words are taken:
whatever has digits, file names or another script ends a run.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from local.asterisk.transcripts import DIGITS

PACKAGE = "installation-guide-amd64"
_FOLDERS = {"eng": "en", "spa": "es", "fra": "fr", "ita": "it", "rus": "ru"}
_PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL)
_PRE = re.compile(r"<(pre|code|tt)\b.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_WORD = {
    lang: re.compile(r"[а-яё]+(-[а-яё]+)*" if lang == "rus" else r"[a-zà-öø-ÿœ]+(['-][a-zà-öø-ÿœ]+)*")
    for lang in DIGITS
}
MIN_WORDS = 2


def read_guide(root: Path, lang: str) -> list[list[str]]:
    """Runs of lower-case words, in the order of the guide; each different run once.

    Args:
        root: the unpacked package.
        lang: one of the prompts' languages (ISO 639-3).

    Raises:
        FileNotFoundError: there is no guide in that language.
    """
    folder = root / "usr" / "share" / "doc" / PACKAGE / _FOLDERS[lang]
    pages = sorted(folder.glob("*.html"))
    if not pages:
        raise FileNotFoundError(f"no pages in {folder}; is the package unpacked whole?")
    runs = (run for page in pages for run in _runs(page.read_text(encoding="utf-8"), lang))
    return [list(run) for run in dict.fromkeys(runs)]


def _runs(page: str, lang: str) -> Iterator[tuple[str, ...]]:
    for paragraph in _PARAGRAPH.findall(page):
        text = (
            html.unescape(_TAG.sub(" ", _PRE.sub(" # ", paragraph)))
            .replace("’", "'")
            .replace("\N{NO-BREAK SPACE}", " ")
        )
        run: list[str] = []
        for piece in [*text.split(), "#"]:
            word = piece.strip('.,:;!?()«»"“”').lower()
            if _WORD[lang].fullmatch(word):
                run.append(word)
            if word != piece.lower() or not _WORD[lang].fullmatch(word):  # a mark ends the run, as a strange word does
                if len(run) >= MIN_WORDS:
                    yield tuple(run)
                run = []
