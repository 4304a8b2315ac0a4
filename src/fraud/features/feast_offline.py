"""Feast's DuckDB offline store with an as-of join, for the views of this platform.

Feast's own join pairs each event with all rows of its entity before it selects the latest, for each view: with a
million transactions that is most of the time of a training set. An as-of join sorts both sides once. It sorts ids and
times only, with numpy, which takes a third of the time of DuckDB's as-of join of all columns. The result is the same
for views whose rows have different keys (id, event time), as those of `fraud.features.feast_snapshot` have.
`feature_repo/feature_store.yaml` names this class.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage
from numpy.typing import NDArray

from fraud.features.engines.arrow_records import microseconds
from fraud.lake import catalog
from fraud.lake.objects import opened
from fraud.uris import uri_of

_AT: Final = "event_timestamp"
_NEVER: Final = -1


class AsOfOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc] # Feast is not typed
    """Section `offline_store` of feature_store.yaml."""

    type: str = "fraud.features.feast_offline.AsOfOfflineStore"


class AsOfOfflineStore(DuckDBOfflineStore):  # type: ignore[misc] # Feast is not typed
    """Reads, writes and materializes as the DuckDB store does."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **other: Any,  # noqa: ANN401 - what later versions of Feast pass
    ) -> RetrievalJob:
        """The latest row of each view at or before each event's `event_timestamp`, not older than the view's ttl.

        The rows have the order of the events. Times are compared in microseconds. Retrievals that this platform does
        not use are left to Feast's own join: events as SQL or with another time column, full names, and views that
        are not like the generated ones.
        """
        if (
            isinstance(entity_df, str) or _AT not in entity_df or full_feature_names or any(other.values())
            or not all(_generated(view, entity_df) for view in feature_views)
        ):  # fmt: skip
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, **other
            )
        return _AsOfJob(config, feature_views, feature_refs, entity_df)


class _AsOfJob(RetrievalJob):  # type: ignore[misc] # Feast is not typed
    """The join, which is computed when the result is requested."""

    def __init__(self, config: RepoConfig, views: list[FeatureView], refs: list[str], events: pd.DataFrame) -> None:
        self._config, self._views, self._refs = config, views, refs
        self._events = events.assign(**{_AT: pd.to_datetime(events[_AT], utc=True)})

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - of the interface
        events = pa.Table.from_pandas(self._events, preserve_index=False)
        event_us = pd.DatetimeIndex(self._events[_AT]).as_unit("us").asi8
        for view in self._views:
            prefix = f"{view.projection.name_to_use()}:"
            names = [ref.removeprefix(prefix) for ref in self._refs if ref.startswith(prefix)]
            [key], at = [column.name for column in view.entity_columns], view.batch_source.timestamp_field
            path = view.batch_source.path
            with opened(path if "://" in path else uri_of(Path(path))) as file:
                rows = pq.read_table(file, columns=[key, at, *names])
            row_us = microseconds(rows[at].cast(catalog.TIMESTAMP))
            latest = _latest(rows[key], row_us, events[key], event_us)
            stale = latest == _NEVER
            has_row = np.flatnonzero(~stale)
            stale[has_row] = row_us[latest[has_row]] + view.ttl // timedelta(microseconds=1) < event_us[has_row]
            values = rows.select(names).combine_chunks().take(pa.array(latest, mask=stale))
            for name in names:
                events = events.append_column(name, values[name])
        return events

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        return RetrievalMetadata(
            features=self._refs, keys=[name for name in self._events.columns if name != _AT],
            min_event_timestamp=self._events[_AT].min(), max_event_timestamp=self._events[_AT].max(),
        )  # fmt: skip

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        self._of_ibis().persist(storage, allow_overwrite, timeout)

    def supports_remote_storage_export(self) -> bool:
        return self._config.offline_store.staging_location is not None

    def to_remote_storage(self) -> list[str]:
        return list(self._of_ibis().to_remote_storage())

    def _of_ibis(self) -> IbisRetrievalJob:
        """The result as a job of the DuckDB store, which can write it."""
        store = self._config.offline_store
        return IbisRetrievalJob(
            ibis.memtable(self.to_arrow()), [], False, self.metadata, _write_data_source, store.staging_location,
            store.staging_location_endpoint_override, str(self._config.repo_path),
        )  # fmt: skip


def _generated(view: FeatureView, events: pd.DataFrame) -> bool:
    """Whether the view is like the generated ones: of a Parquet file, with one key and a ttl."""
    source, keys = view.batch_source, [column.name for column in view.entity_columns]
    parquet = isinstance(source, FileSource) and isinstance(source.file_format, ParquetFormat)
    own_names = not source.field_mapping and not view.projection.join_key_map
    return parquet and own_names and bool(view.ttl) and len(keys) == 1 and keys[0] in events


def _latest(
    row_ids: pa.ChunkedArray, row_us: NDArray[np.int64], event_ids: pa.ChunkedArray, event_us: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Index of the latest row with the id of each event, at or before its time, int64[events]; -1 for none.

    Both sides are sorted together by id and time, rows first among equal times. The last row before an event is then
    the latest one, if it has the same id.
    """
    encoded, rows = row_ids.combine_chunks().dictionary_encode(), len(row_us)
    of_events = pc.index_in(event_ids.cast(row_ids.type), value_set=encoded.dictionary)
    codes = np.concatenate([pc.fill_null(encoded.indices, -1), pc.fill_null(of_events, -2)])
    order = np.lexsort((np.concatenate([row_us, event_us]), codes))
    last = np.maximum.accumulate(np.where(order < rows, np.arange(len(order)), 0))
    row = order[last]
    row[(row >= rows) | (codes[row] != codes[order])] = _NEVER
    latest = np.empty(len(event_us), dtype=np.int64)
    is_event = order >= rows
    latest[order[is_event] - rows] = row[is_event]
    return latest
