"""A page that is one file: HTML with its style and pictures inside."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
:root { --ink: #22262b; --soft: #626a73; --line: #dde1e6; --tint: #f5f7f9; --blue: #0b5a8f; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1120px; padding: 40px 40px 80px; color: var(--ink); background: #fff;
  font: 15.5px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
h1 { font-size: 30px; font-weight: 300; letter-spacing: -0.01em; margin: 0 0 4px; }
h2 { font-size: 21px; font-weight: 400; margin: 52px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; font-weight: 600; margin: 28px 0 8px; }
p, li { max-width: 78ch; }
p { margin: 8px 0; }
.soft, figcaption, caption { color: var(--soft); font-size: 13.5px; }
nav { margin: 18px 0 0; font-size: 14px; line-height: 1.9; }
nav a { color: var(--blue); text-decoration: none; margin-right: 18px; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.short { background: var(--tint); border-left: 3px solid var(--blue); padding: 10px 20px 10px 4px; margin: 22px 0; }
.short ul { margin: 0; padding-left: 26px; }
.short li { margin: 5px 0; max-width: 100ch; }
figure { margin: 18px 0 24px; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 8px; max-width: 92ch; }
.wide { overflow-x: auto; margin: 14px 0 22px; }
table { border-collapse: collapse; font-size: 13.5px; line-height: 1.4; }
th { font-weight: 600; color: var(--soft); text-align: right; vertical-align: bottom;
  border-bottom: 1px solid #aab2bb; }
td { text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); white-space: nowrap; }
th, td { padding: 5px 9px; }
th:first-child, td:first-child { padding-left: 2px; }
.beside { display: flex; flex-wrap: wrap; gap: 0 48px; }
.left { text-align: left; }
.text { text-align: left; white-space: normal; min-width: 210px; }
.strong td { font-weight: 600; }
.mark { display: inline-block; padding: 0 8px; border-radius: 9px; font-size: 12.5px; border: 1px solid; }
.mark.good { color: #00684b; border-color: #7cc3ae; background: #edf8f4; }
.mark.bad { color: #a34100; border-color: #e5b08f; background: #fdf3ec; }
.mark.none { color: #59616a; border-color: #ccd2d8; background: #f6f7f8; }
pre { background: var(--tint); padding: 12px 16px; font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: 0.92em ui-monospace, "DejaVu Sans Mono", monospace; }
@media print {
  @page { size: A4; margin: 15mm 14mm; }
  body { max-width: none; padding: 0; font-size: 9.6pt; }
  nav { display: none; }
  h1 { font-size: 20pt; } h2 { font-size: 14pt; margin-top: 22pt; } h3 { font-size: 10.5pt; }
  h2, h3 { break-after: avoid; }
  figure, tr, .short { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7.4pt; } th, td { padding: 2.2pt 4.2pt; } .text { min-width: 30mm; }
  .soft, figcaption { font-size: 8.2pt; } pre { font-size: 6.8pt; } .mark { font-size: 7.2pt; padding: 0 4pt; }
  p, li, figcaption { max-width: none; }
}
"""


@dataclass(frozen=True)
class Mark:
    """A table cell that is a verdict; ``tone`` is ``good``, ``bad`` or ``none``."""

    text: str
    tone: str


Cell = str | Mark


@dataclass
class Page:
    """A page that is written once: blocks in order, and the pictures that go beside it as files."""

    title: str
    subtitle: str
    blocks: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    _sections: list[tuple[str, str]] = field(default_factory=list)

    def section(self, title: str) -> None:
        """Begin a section; it is listed at the top."""
        anchor = f"{_slug(title)}-{len(self._sections)}"
        self._sections.append((anchor, title))
        self.blocks.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>')

    def heading(self, title: str) -> None:
        """A heading within a section."""
        self.blocks.append(f"<h3>{html.escape(title)}</h3>")

    def text(self, text: str, soft: bool = False) -> None:
        """A paragraph; ``soft`` is smaller print. Words in backquotes become code."""
        self.blocks.append(f"<p{' class=soft' if soft else ''}>{_inline(text)}</p>")

    def short(self, lines: Sequence[str]) -> None:
        """The box with the main results."""
        items = "".join(f"<li>{_inline(line)}</li>" for line in lines)
        self.blocks.append(f'<div class="short"><ul>{items}</ul></div>')

    def bullets(self, lines: Sequence[str]) -> None:
        """A list."""
        self.blocks.append("<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>")

    def code(self, text: str) -> None:
        """Preformatted text."""
        self.blocks.append(f"<pre>{html.escape(text)}</pre>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[Cell]], left: int = 1, text: Sequence[int] = ()
    ) -> None:
        """A table; columns in which no row has anything are left out.

        Args:
            header: column titles.
            rows: cells.
            left: the first columns, left-aligned.
            text: columns that hold sentences and may wrap.
        """

        marks = {i for row in rows for i, cell in enumerate(row) if isinstance(cell, Mark)}

        bare = {i for i in range(left, len(header)) if rows and all(row[i] in ("", "-") for row in rows)}

        def line(cells: Sequence[Cell], tag: str) -> str:
            out = []
            for i, cell in enumerate(cells):
                if i in bare:
                    continue
                kind = "text" if i in text else "left" if i < left or i in marks else ""
                content = _typeset(html.escape(cell)) if isinstance(cell, str) else _mark(cell)
                out.append(f"<{tag}{f' class={kind}' if kind else ''}>{content}</{tag}>")
            return f"<tr>{''.join(out)}</tr>"

        body = "".join(line(row, "td") for row in rows)
        head = f"<thead>{line(header, 'th')}</thead>"
        self.blocks.append(f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>')

    def side_by_side(self, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Cell]]]]) -> None:
        """Tables with headings (title, header, rows), next to each other where there is room."""
        start = len(self.blocks)
        for title, header, rows in tables:
            self.blocks.append("<div>")
            self.heading(title)
            self.table(header, rows)
            self.blocks.append("</div>")
        self.blocks[start:] = [f'<div class="beside">{"".join(self.blocks[start:])}</div>']

    def figure(self, name: str, picture: bytes, caption: str) -> None:
        """A PNG inside the page; ``name`` is its file beside the page, without ending."""
        self.pictures[f"{_slug(name)}.png"] = picture
        data = base64.b64encode(picture).decode("ascii")
        width = int.from_bytes(picture[16:20], "big")  # of the PNG header; shown at its size on paper
        alt = html.escape(name, quote=True)
        image = f'<img src="data:image/png;base64,{data}" width="{round(width * 0.655)}" alt="{alt}">'
        self.blocks.append(f"<figure>{image}<figcaption>{_inline(caption)}</figcaption></figure>")

    def html(self) -> str:
        """The whole page."""
        links = " ".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, title in self._sections)
        head = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        )
        top = f"<h1>{html.escape(self.title)}</h1>\n<p class=soft>{_inline(self.subtitle)}</p>\n<nav>{links}</nav>\n"
        return head + top + "\n".join(self.blocks) + "\n</body>\n</html>\n"

    def write(self, directory: str | Path) -> Path:
        """Write ``report.html`` and the pictures; returns the page's path."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.pictures.items():
            _replace(directory / name, content)
        _replace(directory / "report.html", self.html().encode("utf-8"))
        return directory / "report.html"


def _mark(mark: Mark) -> str:
    return f'<span class="mark {mark.tone}">{html.escape(mark.text)}</span>'


def _inline(text: str) -> str:
    parts = re.split(r"`([^`]+)`", html.escape(text))
    return "".join(f"<code>{part}</code>" if i % 2 else _typeset(part) for i, part in enumerate(parts))


def _typeset(text: str) -> str:
    """A minus sign for the hyphen of a number, and no line break before its unit."""
    return re.sub(r"(?<=\d) %", "&#8239;%", re.sub(r"(?<![\w.,/-])-(?=\d)", "−", text))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _replace(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it."""
    temp = path.with_name(f".{path.name}.tmp")
    temp.write_bytes(content)
    os.replace(temp, path)
