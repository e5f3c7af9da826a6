"""A plain HTML page: headings, paragraphs, pictures and tables; no scripts, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
div { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: heading.
        text: paragraphs, plain.
        table: rows of cells, the first being the header.
        pictures: file name beside the page -> alternative text, for readers who cannot see it.
    """

    title: str
    text: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    pictures: dict[str, str] | None = None


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        if section.table:
            parts.append(_table(section.table))
        for name, shows in (section.pictures or {}).items():
            parts.append(f'<img src="{html.escape(name)}" alt="{html.escape(shows)}">')
    return "\n".join([*parts, "</html>", ""])


def _table(rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    head, *body = rows
    return "\n".join(["<div><table>", line(head, "th"), *(line(r, "td") for r in body),
                      "</table></div>"])  # fmt: skip
