"""What is computed for a transaction, compiled from the declaration of a model version."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fraud.core.columns import codes, stored_column
from fraud.core.daily import Table
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, NumberColumn
from fraud.core.history import Layout
from fraud.core.vector import Vector
from fraud.core.windows import WindowSet


class Source(NamedTuple):
    """Where a base value of the vector comes from: a column, or the position among the stored features."""

    column: str | None
    feature: int
    """Index into `Plan.features`; -1 for a column."""


class Plan:
    """Columns, histories, daily tables and vector of a declaration whose category lists are filled in."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration: Final = declaration
        self.hash: Final = declaration.hash
        self.stored_hash: Final = declaration.stored_hash
        self.columns: Final = tuple(sorted(declaration.columns))
        """The declared columns, which transactions have in addition to the built-in ones."""
        self.windows: Final = tuple(window_sets(declaration))
        """One per entity with window features, in order of the entities' names."""
        self.tables: Final = tuple(tables(declaration))
        """One per entity with daily features, in order of the entities' names."""
        parts: tuple[WindowSet | Table, ...] = (*self.windows, *self.tables)
        self.features: Final = tuple(name for part in parts for name in part.names)
        """The window features of each of `windows`, then the daily ones of each of `tables`. Features with a column in
        the lake and a value in the prediction log; values of a transaction are lists in this order."""
        self.empty: Final = tuple(value for part in parts for value in part.empty)
        """Values without any history or snapshot; None is null."""
        self.vector: Final = Vector(declaration)
        features = {name: i for i, name in enumerate(self.features)}
        of_column = {f.name: f.column for f in declaration.requests if f.op == "column"}
        self.sources: Final = tuple(
            Source(of_column.get(name), features.get(name, -1)) for name, _, _ in self.vector.inputs[2:]
        )
        """Per base value of the vector after hour and weekday."""
        self._codes = {
            name: codes(column) for name, column in declaration.columns.items() if isinstance(column, CategoryColumn)
        }

    def base_values(
        self, hour: int, weekday: int, columns: Mapping[str, Any], features: Sequence[float | None]
    ) -> list[float | int | None]:
        """The base values of one transaction, for `Vector.row`.

        `columns`: checked values by name (USD for amount; text of a category; None for null). `features`: in the order
        of `features`.
        """
        values: list[float | int | None] = [hour, weekday]
        for column, feature in self.sources:
            if column is None:
                values.append(features[feature])
            elif column in self._codes:
                values.append(self._codes[column](columns[column]))
            else:
                value = columns[column]
                values.append(None if value is None else float(value))
        return values

    def unknown_code(self, column: str) -> int:
        """Index of the unknown value of a category column."""
        return self._codes[column]("")


def window_sets(declaration: Declaration) -> list[WindowSet]:
    """The window features of each entity that has some, in order of the entities' names."""
    return [
        WindowSet(layout(declaration, entity), windows)
        for entity in sorted(declaration.entities)
        if (windows := declaration.windows(entity))
    ]


def layout(declaration: Declaration, entity: str) -> Layout:
    """The layout of the history of an entity with window features."""
    found, windows = declaration.entities[entity], declaration.windows(entity)
    names = sorted({feature.column for feature in windows if feature.column is not None})
    if found.max_events is None or found.keep is None:
        raise ValueError(f"the entity {entity} has no window features")
    columns = tuple(stored_column(name, declaration.column(name)) for name in names)
    return Layout(entity, found.id, columns, found.max_events, found.keep)


def tables(declaration: Declaration) -> list[Table]:
    """The daily features of each entity that has some, in order of the entities' names."""
    found = []
    for entity in sorted(declaration.entities):
        features = declaration.daily_features(entity)
        if features:
            names = sorted({feature.column for feature in features if feature.column is not None})
            columns = tuple((name, decimals_of(declaration, name)) for name in names)
            found.append(
                Table(entity, declaration.entities[entity].id, features, declaration.daily.available_at, columns)
            )
    return found


def decimals_of(declaration: Declaration, name: str) -> int:
    """Decimals of a number column; 0 for other types."""
    column = declaration.column(name)
    return column.decimals or 0 if isinstance(column, NumberColumn) else 0
