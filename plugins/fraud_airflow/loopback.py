"""The name of this machine for an Airflow whose components all run on it and listen on the loopback interface."""


def hostname() -> str:
    """`[core] hostname_callable` of the embedded stack: where the API server asks for the logs of running tasks."""
    return "127.0.0.1"
