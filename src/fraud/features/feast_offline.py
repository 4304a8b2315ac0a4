"""Feast's DuckDB offline store with an as-of join, for the views of this platform.

Feast's own join pairs each event with all rows of its entity before it selects the latest, for each view: with a
million transactions that is most of the time of a training set. An as-of join sorts both sides once. The result is the
same for views whose rows have different keys (id, event time), as those of `fraud.features.feast_snapshot` have.
`feature_repo/feature_store.yaml` names this class.
"""

from typing import Any

import ibis
import pandas as pd
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry

_AT = "event_timestamp"


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

        Retrievals that this platform does not use are left to Feast's own join: events as SQL or with another time
        column, full names, renamed keys, and views without a ttl.
        """
        ours = all(view.ttl and not view.projection.join_key_map for view in feature_views)
        if isinstance(entity_df, str) or _AT not in entity_df or not ours or full_feature_names or any(other.values()):
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, **other
            )
        found = ibis.memtable(entity_df.assign(**{_AT: pd.to_datetime(entity_df[_AT], utc=True)}))
        names = list(entity_df.columns)
        for view in feature_views:
            prefix = f"{view.projection.name_to_use()}:"
            features = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
            at, keys = view.batch_source.timestamp_field, [column.name for column in view.entity_columns]
            rows = _read_data_source(view.batch_source, str(config.repo_path)).select(*keys, at, *features)
            rows = rows.rename({f"_row_{name}": name for name in (*keys, at)})
            found = found.asof_join(
                rows, on=found[_AT] >= rows[f"_row_{at}"], predicates=[found[k] == rows[f"_row_{k}"] for k in keys]
            )
            fresh = found[f"_row_{at}"] + ibis.literal(view.ttl) >= found[_AT]
            found = found.mutate(**{name: fresh.ifelse(found[name], None) for name in features})
            names += features
            found = found.select(*names)
        return IbisRetrievalJob(
            found, [], False, RetrievalMetadata(
                features=feature_refs, keys=[name for name in entity_df.columns if name != _AT],
                min_event_timestamp=entity_df[_AT].min(), max_event_timestamp=entity_df[_AT].max(),
            ),
            _write_data_source, config.offline_store.staging_location,
            config.offline_store.staging_location_endpoint_override, str(config.repo_path),
        )  # fmt: skip
