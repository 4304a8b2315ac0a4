"""The results in docs/monitoring-alerts.md, each between two markers of its name."""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fraud.errors import BadConfigError

PAGE: Final = "docs/monitoring-alerts.md"
_WIDTH: Final = 150


def paragraph(parts: Iterable[str]) -> str:
    """Parts of a text as the lines of a paragraph."""
    return textwrap.fill(" ".join(parts), _WIDTH, break_long_words=False, break_on_hyphens=False)


def write_result(project: Path, name: str, text: str) -> Path:
    """Replace what is between the markers `<!-- NAME -->` and `<!-- end of NAME -->`. Returns the page's path.

    Raises BadConfigError for a page without the markers.
    """
    page = project / PAGE
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    found = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    content, count = found.subn(lambda match: f"{match[1]}{text}{match[2]}", page.read_text())
    if count != 1:
        raise BadConfigError(
            f"{page} has no place for the result", expected=f"one {begin.strip()} ... {end.strip()}", got=str(count)
        )
    page.write_text(content)
    return page
