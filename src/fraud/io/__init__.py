"""Side effects behind small interfaces: lake partitions, online history, registry, reports."""
