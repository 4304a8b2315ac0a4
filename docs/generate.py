"""Write the tables of the documentation that are generated from code: `make docs`.

A generated table is the first one below its heading. `tests/unit/test_docs_policy.py` compares the pages with this
module's output.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from fraud.job_list import JOBS
from fraud.settings import Settings

DOCS: Final = Path(__file__).resolve().parent


def jobs() -> str:
    """The commands of `fraud.job_list.JOBS`."""
    return _table(("command", "purpose"), [(f"`fraud {name}`", _prose(job.help)) for name, job in JOBS.items()])


def settings() -> str:
    """The environment variables of `fraud.settings.Settings`."""
    rows = [
        (f"`FRAUD_{name.upper()}`", _default(field.default), _prose(field.description or ""))
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "value"), rows)


def records() -> str:
    """The architecture decision records by number, with the titles of their pages."""
    rows = []
    for path in sorted((DOCS / "adr").glob("[0-9]*.md")):
        title = re.sub(r"^#\s*\d+\.?\s*", "", path.read_text().partition("\n")[0])
        rows.append((str(int(path.name[:4])), f"[{title}]({path.name})"))
    return _table(("number", "title"), rows)


TABLES: Final[dict[tuple[str, str], Callable[[], str]]] = {
    ("jobs.md", "Commands"): jobs,
    ("jobs.md", "Settings"): settings,
    ("adr/README.md", "Records"): records,
}
"""(Page, heading) -> the table below that heading."""


def generated(page: str) -> str:
    """The text of a page with its generated tables as they should be. Raises ValueError for a missing table."""
    text = (DOCS / page).read_text()
    for (name, heading), table in TABLES.items():
        if name == page:
            pattern = re.compile(rf"(^## {heading}\n(?:(?!#|\|).*\n)*)((?:\|.*\n)+)", re.MULTILINE)
            text, count = pattern.subn(lambda match, table=table: match[1] + table(), text)  # type: ignore[misc]
            if count != 1:
                raise ValueError(f"docs/{page} has no table below the heading {heading!r}")
    return text


def _default(value: object) -> str:
    """A default as code; empty where the description names it, since it depends on other settings."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return "" if text in ("", ".") else f"`{text.lower() if isinstance(value, bool) else text}`"


def _prose(text: str) -> str:
    """Text for a cell: words with <placeholders> and file patterns as code, no column separators."""
    return re.sub(r"[\w/:.-]*<\w+>[\w/]*", r"`\g<0>`", text).replace("|", "\\|")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |")


def main() -> None:
    """Write every page that has a generated table."""
    for page in {page for page, _ in TABLES}:
        (DOCS / page).write_text(generated(page))


if __name__ == "__main__":
    main()
