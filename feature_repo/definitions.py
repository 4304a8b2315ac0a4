"""Feast definitions, generated from features.yaml: an entity per id column, and a view per entity and kind of feature.

The views are for point-in-time training sets, discovery and other readers. Serving computes window features from the
event histories of the online store instead (docs/adr/0003-online-history.md). No definition contains code.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import IdColumn
from fraud.features.feast_snapshot import View, snapshot_folder, views
from fraud.settings import Settings

SERVICE: Final = "fraud_detector_v1"
TTL: Final = timedelta(days=1, microseconds=-1)
"""A row holds for a day. Feast includes both ends, and at the end of the day the next row holds.

A transaction has its own row in a window view, so a training set needs no older ones. Without a ttl, Feast joins every
transaction with all earlier ones of the entity before it selects the latest.
"""
TYPES: Final = {"float64": Float64, "int64": Int64}
Object = Entity | FileSource | FeatureView | FeatureService


def define(declaration: Declaration, folder: str) -> list[Object]:
    """The objects to register, for the snapshot files (`fraud.features.feast_snapshot`) in a folder."""
    found = views(declaration)
    entities = {column: _entity(declaration, column) for column in sorted({view.id_column for view in found})}
    sources = [_source(view, folder) for view in found]
    made = [
        _view(view, entities[view.id_column], source, declaration.stored_hash)
        for view, source in zip(found, sources, strict=True)
    ]
    service = FeatureService(
        name=SERVICE, features=made, tags={"feature_hash": declaration.hash},
        description="Features of the model fraud-detector, in addition to the values of the request.",
    )  # fmt: skip
    return [*entities.values(), *sources, *made, service]


def _entity(declaration: Declaration, column: str) -> Entity:
    declared = declaration.column(column)
    names = ", ".join(sorted(name for name, entity in declaration.entities.items() if entity.id == column))
    text = declared.description if isinstance(declared, IdColumn) else ""
    return Entity(
        name=column, join_keys=[column], value_type=ValueType.STRING, description=text or f"The {names}.",
        tags={"entity": names},
    )  # fmt: skip


def _source(view: View, folder: str) -> FileSource:
    return FileSource(
        name=view.name.removesuffix("_features"), path=f"{folder}/{view.file}", file_format=ParquetFormat(),
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp", description=view.rows,
    )  # fmt: skip


def _view(view: View, entity: Entity, source: FileSource, stored_hash: str) -> FeatureView:
    return FeatureView(
        name=view.name, entities=[entity], ttl=TTL, source=source, description=view.description,
        schema=[
            Field(
                name=feature.name, dtype=TYPES[feature.dtype], description=feature.description,
                tags={"aggregate": feature.aggregate, "column": feature.column or ""},
            )
            for feature in view.features
        ],
        tags={"declaration": "feature_repo/features.yaml", "stored_hash": stored_hash[:12], "entity": view.entity},
    )  # fmt: skip


def _by_name(objects: Iterable[Object]) -> dict[str, Object]:
    """The `feast` command finds objects among a module's names. Kinds may share a name, so the type is part of it."""
    return {f"{type(item).__name__}_{item.name}": item for item in objects}


globals().update(
    _by_name(
        define(
            declaration_file.load(Path(__file__).with_name("features.yaml")), snapshot_folder(Settings.load().lake_uri)
        )
    )
)
