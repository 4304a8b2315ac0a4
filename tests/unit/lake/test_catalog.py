"""The dataset catalog is the only place that names datasets, and docs/architecture.md agrees with it."""

import ast
import re
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from fraud.core.contract import LABEL_COLUMNS, TRANSACTION_COLUMNS
from fraud.core.features import WINDOW_NAMES
from fraud.lake import catalog
from fraud.lake.catalog import DatasetDefinition
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[3]
PACKAGE: Final = ROOT / "src/fraud"
CATALOG: Final = PACKAGE / "lake/catalog.py"
FEED_NAMES: Final = {"transactions", "labels"}
"""Feeds of the landing zone (`fraud.ingest.landing.Feed`) have the names of two datasets."""


def dataset_calls(source: str) -> list[ast.Call]:
    """Calls of `Dataset(...)` and `dataset.Dataset(...)`; MLflow has a class of that name too."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in ("Dataset", "dataset.Dataset")]


def literal_names(source: str) -> list[int]:
    """Lines of calls of `Dataset(...)` with a string, or a string that is formatted, as the dataset's name."""
    found = []
    for call in dataset_calls(source):
        names = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
        if any(isinstance(part, ast.Constant | ast.JoinedStr) for name in names for part in ast.walk(name)):
            found.append(call.lineno)
    return found


def folder_names(source: str) -> list[int]:
    """Lines of strings that are, or start a path with, the name of a dataset that is no feed."""
    names = {definition.name for definition in catalog.ALL} - FEED_NAMES | {"what_if"}
    path = re.compile(rf"(?:{'|'.join(sorted(names))})/")
    strings = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [node.lineno for node in strings if path.match(node.value) and not node.value.endswith(".py")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_but_the_catalog_contains_a_dataset_name(path: Path) -> None:
    if path == CATALOG:
        pytest.skip("the catalog itself")
    assert literal_names(path.read_text()) == [], "use fraud.lake.catalog"
    assert folder_names(path.read_text()) == [], "use fraud.lake.catalog"


def test_a_dataset_name_in_a_call_is_found() -> None:
    source = 'a = Dataset(uri, "scores")\nb = dataset.Dataset(uri, name=f"x/{y}")\nc = Dataset(uri, name, "dt")\n'
    assert literal_names(source) == [1, 2]
    assert folder_names('x = f"training_sets/snapshot={s}"\ny = "features"\n') == [1]


def dataset_rows() -> str:
    """The table of datasets as docs/architecture.md shows it."""
    rows = [
        "| dataset | partition key | rows sorted by | kept for | age counted from |",
        "| --- | --- | --- | --- | --- |",
    ]
    for definition in (*catalog.ALL, catalog.what_if("N")):
        columns = ", ".join(definition.sorted_by) or "position in the delivered file"
        rows.append(
            f"| `{definition.name}` | `{definition.key}`: {definition.key_value} | {columns} | {kept_for(definition)} "
            f"| {definition.retention.starts_at} |"
        )
    return "\n".join(rows)


def kept_for(definition: DatasetDefinition) -> str:
    retention = definition.retention
    more = f" + {retention.more_days} days" if retention.more_days else ""
    condition = f", and until {retention.condition}" if retention.condition else ""
    return f"`FRAUD_{retention.setting.upper()}`{more}{condition}"


def column_rows() -> str:
    """The columns of every dataset as docs/architecture.md shows them."""
    return "\n".join(
        f"* `{definition.name}`: {', '.join(f'{field.name} {type_name(field.type)}' for field in definition.schema)}"
        for definition in catalog.ALL
    )


def type_name(kind: pa.DataType) -> str:
    return {"double": "float64", "float": "float32", "timestamp[us, tz=UTC]": "timestamp"}.get(str(kind), str(kind))


@pytest.mark.parametrize("expected", [dataset_rows(), column_rows()], ids=["datasets", "columns"])
def test_the_architecture_page_describes_the_catalog(expected: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.partition("## Datasets of the lake")[2].partition("\n## ")[0]
    assert expected in section, f"put this below 'Datasets of the lake':\n{expected}"


def test_names_are_unique_and_retention_names_settings() -> None:
    assert len({definition.name for definition in catalog.ALL}) == len(catalog.ALL)
    assert {definition.retention.setting for definition in catalog.ALL} <= set(Settings.model_fields)


def test_schemas_have_the_columns_of_the_contract_and_of_the_features() -> None:
    assert tuple(catalog.TRANSACTIONS.schema.names) == TRANSACTION_COLUMNS
    assert tuple(catalog.LABELS.schema.names) == LABEL_COLUMNS
    assert tuple(catalog.FEATURES.schema.names) == (*TRANSACTION_COLUMNS, *WINDOW_NAMES)


def test_daily_datasets_are_those_with_a_partition_per_day() -> None:
    assert [d.name for d in catalog.DAILY] == ["transactions", "labels", "features", "scores", "predictions"]


def test_what_if_datasets_are_found_by_version(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}"
    assert catalog.what_ifs(lake) == []
    for version in ("10", "9"):
        catalog.what_if(version).at(lake).publish("2025-03-01", pa.table({"x": [1]}))
    assert [d.name for d in catalog.what_ifs(lake)] == ["what_if/version=10", "what_if/version=9"]
