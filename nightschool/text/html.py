"""A page -> the words that its reader would see: no mark-up, no scripts, no styles. But: menus and footers stay."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

BLOCKS = {"address", "article", "aside", "blockquote", "br", "dd", "div", "dt", "figcaption", "footer", "form", "h1"}
BLOCKS |= {"h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table"}
BLOCKS |= {"title", "tr", "ul"}


class Page(HTMLParser):
    """Collects what a reader of a page would see."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.hidden = self.kept = False  # in a script or style; in <pre>, where spaces count

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden |= tag in ("script", "style")
        self.kept |= tag == "pre"
        if tag in BLOCKS:
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden &= tag not in ("script", "style")
        self.kept &= tag != "pre"
        if tag in BLOCKS:
            self.words.append("\n")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        if tag in BLOCKS:  # <br/>, one line
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.kept:
            data = " ".join(f".{data}.".split())[1:-1]  # any white space is one space, at both ends too
            data = data.lstrip() if self.words[-1:] == ["\n"] else data
        if data and not self.hidden:
            self.words.append(data)


def words_of_page(html: str) -> str:
    """'<p>One <b>two</b></p><p>three' -> 'One two\n\nthree'"""
    page = Page()
    page.feed(html)
    page.close()
    lines = [line.rstrip() for line in "".join(page.words).split("\n")]
    blank_once = (line for i, line in enumerate(lines) if line or (i and lines[i - 1]))
    return "\n".join(blank_once).strip("\n")
