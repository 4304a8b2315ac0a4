"""Start the tracking server with authentication: set its users' passwords and create the registered model first.

MLflow reads the administrator's password only when its user store is empty. This script sets the passwords of `.env` at
every start, so that a password is rotated by changing `.env` and restarting.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

ADMIN: Final = "admin"
READER: Final = "serving"
MODEL: Final = "fraud-detector"
_CONFIG: Final = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


def ensure_users(database: str, passwords: dict[str, str]) -> None:
    """Create the two users, or set their passwords. `passwords`: user -> password."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - the import takes seconds

    store = SqlAlchemyStore()
    store.init_db(database)
    for name, password in passwords.items():
        is_admin = name == ADMIN
        if store.has_user(name):
            store.update_user(name, password=password, is_admin=is_admin)
        else:
            store.create_user(name, password, is_admin=is_admin)


def ensure_model(database: str) -> None:
    """Create the registered model before the server accepts requests. MLflow makes the user who creates it its owner.

    The model must exist for the reader too: MLflow answers 403 to any user except the administrator for a model that
    does not exist, and serving could not distinguish "no version yet" from "registry unavailable".
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode  # noqa: PLC0415
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    try:
        SqlAlchemyStore(database).create_registered_model(
            MODEL, description="Probability that a card payment is fraud."
        )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def main() -> None:
    env = os.environ
    database = env.pop("MLFLOW_AUTH_DATABASE_URI")
    passwords = {ADMIN: env["MLFLOW_AUTH_ADMIN_PASSWORD"], READER: env.pop("MLFLOW_SERVING_PASSWORD")}
    ensure_users(database, passwords)
    ensure_model(env["MLFLOW_BACKEND_STORE_URI"])
    handle, config = tempfile.mkstemp(suffix=".ini")  # mode 600
    os.close(handle)
    Path(config).write_text(_CONFIG.format(database=database.replace("%", "%%"), admin=ADMIN))
    env |= {
        "MLFLOW_AUTH_CONFIG_PATH": config,
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves eight processes and half a gigabyte
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # Addresses with passwords are environment variables (MLFLOW_BACKEND_STORE_URI): every user can read arguments.
    os.execv(  # noqa: S606 - without a shell on purpose
        sys.executable,
        [
            sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000",  # noqa: S104 - a container
            "--workers", env.pop("MLFLOW_WORKERS", "2"), "--app-name", "basic-auth", "--serve-artifacts",
            # A worker imports for seconds before it answers its parent. uvicorn's default of 5 s is too short.
            "--uvicorn-opts", "--timeout-worker-healthcheck 60",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
