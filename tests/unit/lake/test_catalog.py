"""The dataset catalog is the only place that names datasets, and knows those of each declaration."""

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.contract import LABEL_COLUMNS, TRANSACTION_COLUMNS
from fraud.core.plan import tables
from fraud.lake import catalog, declarations
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
    names = {definition.name for definition in catalog.ALL} - FEED_NAMES | {
        "features",
        "daily",
        "daily_parts",
        "what_if",
    }
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


def test_names_are_unique_and_retention_names_settings() -> None:
    assert len({definition.name for definition in catalog.ALL}) == len(catalog.ALL)
    assert {definition.retention.setting for definition in catalog.ALL} <= set(Settings.model_fields)


def test_schemas_have_the_columns_of_the_contract_and_of_the_declaration() -> None:
    declared = ("distance_from_home", "merchant_category")
    assert tuple(catalog.TRANSACTIONS.schema(THREE).names) == (*TRANSACTION_COLUMNS, *declared)
    assert tuple(catalog.LABELS.schema(THREE).names) == LABEL_COLUMNS
    features = catalog.features(THREE.stored_hash).schema(THREE)
    names = ("transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d")
    assert tuple(features.names) == (*TRANSACTION_COLUMNS, *declared, *names)
    assert [str(features.field(name).type) for name in names] == ["double", "double", "int64"]


def test_parts_have_what_the_aggregates_of_a_table_need() -> None:
    table = tables(TWO_ENTITIES)[0]
    assert catalog.part_schema(table).names == ["known", "merchant_id", "rows", "frauds", "count:amount", "sum:amount"]
    distinct = table.features[0].model_copy(update={"aggregate": "distinct", "column": "user_id"})
    wider = replace(table, features=(distinct, *table.features), columns=(("amount", 4), ("user_id", 0)))
    assert catalog.part_schema(wider).names[-1] == "values:user_id"
    assert catalog.daily_parts(wider).name != catalog.daily_parts(table).name


def test_datasets_of_declarations_are_listed_once_and_found_in_a_lake(tmp_path: Path) -> None:
    lake, table = f"file://{tmp_path}", tables(TWO_ENTITIES)[0]
    definitions = catalog.of_declarations([TWO_ENTITIES, THREE, TWO_ENTITIES])
    assert [d.name for d in definitions] == [
        f"features/declaration-{TWO_ENTITIES.stored_hash[:12]}", f"daily/table-{table.id}",
        f"daily_parts/table-{table.id}", f"features/declaration-{THREE.stored_hash[:12]}",
    ]  # fmt: skip
    assert catalog.in_lake(lake) == []
    for definition in definitions:
        definition.at(lake).publish("2025-03-01", pa.table({"x": [1]}))
    (tmp_path / "features/notes").mkdir()
    found = catalog.in_lake(lake)
    assert {(d.name, d.family, d.retention) for d in found} == {(d.name, d.family, d.retention) for d in definitions}


def test_recorded_declarations_are_read_with_their_lists(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}"
    assert declarations.recorded(lake) == {}
    for declared in (TWO_ENTITIES, THREE, THREE):
        declarations.record(lake, declared)
    found = declarations.recorded(lake)
    assert {name: d.canonical() for name, d in found.items()} == {
        d.hash: d.canonical() for d in (THREE, TWO_ENTITIES)
    }  # fmt: skip


def test_what_if_datasets_are_found_by_version(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}"
    assert catalog.what_ifs(lake) == []
    for version in ("10", "9"):
        catalog.what_if(version).at(lake).publish("2025-03-01", pa.table({"x": [1]}))
    assert [d.name for d in catalog.what_ifs(lake)] == ["what_if/version-10", "what_if/version-9"]
