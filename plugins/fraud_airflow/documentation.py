"""Read-only access to the documentation folder: Markdown pages as HTML, and their pictures."""

import posixpath
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

# Raw HTML in a page is shown as text: a document is data.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
PICTURES: Final = {".svg": "image/svg+xml", ".png": "image/png"}
"""File name suffix -> media type of a picture."""


class NoSuchPageError(Exception):
    """There is no such Markdown page or picture below the documentation's root, or the path leaves it."""


class Documentation:
    """The pages below a folder. Paths are relative to the folder and use "/"."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def page(self, path: str) -> tuple[str, str]:
        """A Markdown page's title (its first heading) and its body as HTML. Raises NoSuchPageError."""
        tokens = _MARKDOWN.parse(self._file(path, ".md").read_text(encoding="utf-8"))
        _add_anchors(tokens)
        _unlink_outside(tokens, posixpath.dirname(path))
        title = next((tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"), path)
        return title, _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})

    def picture(self, path: str) -> tuple[bytes, str]:
        """A picture's bytes and media type. Raises NoSuchPageError."""
        file = self._file(path, *PICTURES)
        return file.read_bytes(), PICTURES[file.suffix]

    def _file(self, path: str, *suffixes: str) -> Path:
        if "\0" in path:
            raise NoSuchPageError(path)
        file = (self._root / path).resolve()
        if not file.is_relative_to(self._root) or file.suffix not in suffixes or not file.is_file():
            raise NoSuchPageError(path)
        return file


def _add_anchors(tokens: Sequence[Token]) -> None:
    """Give each heading the id that GitHub gives it, so that links to a section work in both places."""
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            kept = re.sub(r"[^\w\- ]", "", inline.content.lower())
            opening.attrSet("id", kept.replace(" ", "-"))


def _unlink_outside(tokens: Sequence[Token], folder: str) -> None:
    """Show a link to a file outside of the documentation as text: only the documentation is served."""
    for token in (child for block in tokens for child in block.children or []):
        if token.type == "link_open":
            target = urlsplit(str(token.attrs["href"]))
            leaves = posixpath.normpath(posixpath.join(folder, target.path)).startswith("..")
            outside = not target.scheme and not target.netloc and leaves
        if token.type in {"link_open", "link_close"} and outside:
            token.tag = "span"
            token.attrs = {}
