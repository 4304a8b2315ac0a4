"""Write what is generated from code: tables of the documentation, and the JSON Schema of features.yaml: `make docs`.

A generated table is the first one below its heading. `tests/unit/test_docs_policy.py` compares the pages with this
module's output.
"""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import AGGREGATES, DAILY_AGGREGATES, OPERANDS
from fraud.core.plan import tables
from fraud.job_list import JOBS
from fraud.lake import catalog
from fraud.settings import Settings

DOCS: Final = Path(__file__).resolve().parent
SCHEMA: Final = DOCS.parent / "feature_repo/features.schema.json"
_OPERAND_KEYS: Final = ("column", "of", "by", "minus", "first", "until", "days")


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


def datasets() -> str:
    """The datasets of `fraud.lake.catalog`, with those of a declaration under a placeholder."""
    rows = []
    for name, definition in _definitions().items():
        retention = definition.retention
        more = f" + {retention.more_days} day{'s' if retention.more_days > 1 else ''}" if retention.more_days else ""
        condition = f", and until {retention.condition}" if retention.condition else ""
        rows.append(
            (
                f"`{name}`", f"`{definition.key}`: {definition.key_value}",
                ", ".join(definition.sorted_by) or "position in the delivered file",
                f"`FRAUD_{retention.setting.upper()}`{more}{condition}", retention.starts_at,
            )
        )  # fmt: skip
    return _table(("dataset", "partition key", "rows sorted by", "kept for", "age counted from"), rows)


def dataset_columns() -> str:
    """The columns of the datasets with the shipped declaration."""
    declaration = declaration_file.load_of(DOCS.parent)
    kinds = {"double": "float64", "float": "float32", "timestamp[us, tz=UTC]": "timestamp", "date32[day]": "date"}
    rows = []
    for name, definition in _definitions().items():
        fields = [f"{f.name} {kinds.get(str(f.type), str(f.type))}" for f in definition.schema(declaration)]
        rows.append((f"`{name}`", ", ".join(fields)))
    return _table(("dataset", "columns"), rows)


def _definitions() -> dict[str, catalog.DatasetDefinition]:
    declaration = declaration_file.load_of(DOCS.parent)
    found = {definition.name: definition for definition in catalog.ALL}
    found["features/declaration-HASH"] = catalog.features(declaration.stored_hash)
    for table in tables(declaration)[:1]:
        found["daily/table-ID"], found["daily_parts/table-ID"] = catalog.daily(table), catalog.daily_parts(table)
    found["what_if/version-N"] = catalog.what_if("N")
    return found


TABLES: Final[dict[tuple[str, str], Callable[[], str]]] = {
    ("architecture.md", "Datasets of the lake"): datasets,
    ("architecture.md", "Columns of the datasets"): dataset_columns,
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


def schema() -> str:
    """The JSON Schema of feature declarations, for editors.

    It comes from the types that read the file. Rules between several parts (an unknown column, a cycle) are checked by
    `fraud features check` only.
    """
    found = Declaration.model_json_schema()
    definitions = {name: _plain(part) for name, part in found.pop("$defs").items()}
    definitions["Daily"]["properties"]["available_at"]["default"] = "03:00"
    definitions["CategoryColumn"]["oneOf"] = [{"required": ["values"]}, {"required": ["learn"]}]
    definitions["RequestFeature"]["allOf"] = [_needs("op", op, _OPERAND_KEYS, keys) for op, keys in OPERANDS.items()]
    for name, rules in (("WindowFeature", AGGREGATES), ("DailyFeature", DAILY_AGGREGATES)):
        definitions[name]["allOf"] = [
            _needs("aggregate", aggregate, ("column",), {"column"} if types else set())
            for aggregate, types in rules.items()
        ]
    written = _plain(found)
    for key in ("columns", "entities", "daily"):
        written["properties"][key].pop("default", None)
    for key in ("columns", "entities"):
        written["properties"][key]["additionalProperties"] = False
    return json.dumps(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "Feature declaration",
            "description": "docs/features.md describes the keys. `make docs` writes this file.",
            **{key: value for key, value in written.items() if key not in ("title", "description")},
            "definitions": definitions,
        },
        indent=2,
    ) + "\n"  # fmt: skip


def _plain(node: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Without generated titles, nulls and keywords of OpenAPI, which make editors' completions longer."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/definitions/") if isinstance(node, str) else node
    kept = {key: value for key, value in node.items() if key != "discriminator"}
    if isinstance(kept.get("title"), str) and ("type" in kept or "anyOf" in kept or "$ref" in kept):
        del kept["title"]
    if {"type": "null"} in kept.get("anyOf", ()):
        (only,) = (option for option in kept.pop("anyOf") if option != {"type": "null"})
        kept = {**only, **kept}
    if kept.get("default", 0) in (None, ""):
        del kept["default"]
    return {key: _plain(value) for key, value in kept.items()}


def _needs(key: str, value: str, operands: Collection[str], needed: Collection[str]) -> dict[str, Any]:
    """A line with this value of the key has the needed operands, and no others."""
    others = {name: False for name in operands if name not in needed}
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"required": sorted(needed), "properties": others},
    }


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
    """Write every page that has a generated table, and the schema."""
    for page in {page for page, _ in TABLES}:
        (DOCS / page).write_text(generated(page))
    SCHEMA.write_text(schema())


if __name__ == "__main__":
    main()
