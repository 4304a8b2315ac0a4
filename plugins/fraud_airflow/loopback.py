"""The host name of an Airflow whose components all run on one machine and listen on the loopback interface."""


def hostname() -> str:
    """`[core] hostname_callable` of the embedded stack. The API server reads logs of running tasks from this host."""
    return "127.0.0.1"
