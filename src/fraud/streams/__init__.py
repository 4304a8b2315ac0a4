"""Events of other systems: Redis streams and Kafka topics."""
