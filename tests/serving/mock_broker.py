"""librdkafka's mock cluster in a process of its own: one broker whose log outlives an outage.

    python mock_broker.py

Prints its address. `down` on standard input closes every connection and refuses new ones, as a killed broker does; `up`
brings it back with its records, its committed offsets and its producers' state, as a broker with a disk. `refuse API
CODE` answers the next request of that API with an error of Kafka's protocol. Each command is answered by `done`. A
partition keeps its last 5 MB. Offsets of transactions are accepted and not kept.
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka

PRODUCER, BROKER = 0, 1
REBALANCE_DELAY_MS = 200


def library() -> ctypes.CDLL:
    """The librdkafka that confluent_kafka loaded."""
    folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    found = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()), ("rd_kafka_new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
        ("rd_kafka_mock_broker_set_down", number, (pointer, ctypes.c_int32)),
        ("rd_kafka_mock_broker_set_up", number, (pointer, ctypes.c_int32)),
        (
            "rd_kafka_mock_push_request_errors_array", None,
            (pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)),
        ),
    ):  # fmt: skip
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def main() -> None:
    kafka = library()
    error = ctypes.create_string_buffer(512)
    client = kafka.rd_kafka_new(PRODUCER, kafka.rd_kafka_conf_new(), error, len(error))
    cluster = kafka.rd_kafka_mock_cluster_new(client, 1)
    for topic in sys.argv[1:]:
        name, _, partitions = topic.rpartition(":")
        assert kafka.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1) == 0
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, REBALANCE_DELAY_MS)
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "refuse":
            api, code = map(int, numbers)
            kafka.rd_kafka_mock_push_request_errors_array(cluster, api, 1, (ctypes.c_int * 1)(code))
        else:
            change = {"down": kafka.rd_kafka_mock_broker_set_down, "up": kafka.rd_kafka_mock_broker_set_up}[command]
            assert change(cluster, BROKER) == 0
        print("done", flush=True)


if __name__ == "__main__":
    main()
