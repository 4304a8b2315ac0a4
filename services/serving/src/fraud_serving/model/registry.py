"""The model registry, asked over MLflow's REST interface: which version an alias names, and that version's files."""

from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

from fraud_serving.model.model import Artefact, ArtefactRefusedError, Registered

_API: Final = "/api/2.0/mlflow"
_PROXY: Final = "/api/2.0/mlflow-artifacts/artifacts"
_SCHEME: Final = "mlflow-artifacts"
_RUNS: Final = "runs:/"
MAX_MODEL_BYTES: Final = 512 * 1024 * 1024
MAX_SERVING_BYTES: Final = 16 * 1024 * 1024


class RegistryError(Exception):
    """The registry does not answer, or not as it should. Asking again may help."""


class Registry:
    """A client of one registry. Blocking: it is used in the watcher's thread."""

    def __init__(self, url: str, username: str, password: str) -> None:
        auth = httpx.BasicAuth(username, password) if username else None
        self._client = httpx.Client(base_url=url, auth=auth, timeout=httpx.Timeout(10.0, connect=3.0), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def aliased(self, name: str, alias: str) -> Registered | None:
        """The version that `alias` names now, None when it names none. Raises RegistryError."""
        answer = self._get(f"{_API}/registered-models/alias", {"name": name, "alias": alias})
        if answer is None:
            return None
        try:
            found = answer["model_version"]
            version, run_id = str(found["version"]), str(found.get("run_id", ""))
            tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        except (KeyError, TypeError) as error:
            raise RegistryError(f"the registry's answer lacks {error}") from error
        where = self._get(f"{_API}/model-versions/get-download-uri", {"name": name, "version": version})
        if where is None:
            raise RegistryError(f"{name} version {version} is gone")
        return Registered(version, run_id, self._resolved(str(where.get("artifact_uri", ""))), tags)

    def _resolved(self, source: str) -> str:
        """Where `runs:/RUN/folder` really lies; any other source as it is. Raises RegistryError."""
        if not source.startswith(_RUNS):
            return source
        run_id, _, folder = source.removeprefix(_RUNS).partition("/")
        answer = self._get(f"{_API}/runs/get", {"run_id": run_id})
        if answer is None:
            raise RegistryError(f"run {run_id} of {source} is gone")
        try:
            return f"{answer['run']['info']['artifact_uri']}/{folder}"
        except (KeyError, TypeError) as error:
            raise RegistryError(f"the registry's answer lacks {error}") from error

    def download(self, registered: Registered) -> Artefact:
        """The version's files through the artifact proxy, not verified. Raises RegistryError, ArtefactRefusedError."""
        source = urlsplit(registered.source)
        if source.scheme != _SCHEME:
            raise ArtefactRefusedError(
                "source", f"version {registered.version} lies at {registered.source}, expected {_SCHEME}:/..."
            )
        folder = f"{_PROXY}/{quote(source.path.strip('/'))}"
        return Artefact(
            model=self._read(f"{folder}/model.onnx", MAX_MODEL_BYTES),
            serving=self._read(f"{folder}/serving.json", MAX_SERVING_BYTES),
        )

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any] | None:
        """A JSON object; None when the registry says that the thing does not exist."""
        try:
            answer = self._client.get(path, params=query)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RegistryError(f"{path}: {error!r}") from error
        if not isinstance(body, dict):
            raise RegistryError(f"{path}: not a JSON object")
        if answer.status_code == httpx.codes.OK:
            return body
        absent = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if answer.status_code in (400, 404) and body.get("error_code") in absent:
            return None
        raise RegistryError(f"{path}: {answer.status_code} {body.get('error_code', '')} {body.get('message', '')}")

    def _read(self, path: str, limit: int) -> bytes:
        data = bytearray()
        try:
            with self._client.stream("GET", path) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise ArtefactRefusedError("missing", f"{path} is not there")
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > limit:
                        raise ArtefactRefusedError("size", f"{path} is larger than {limit} bytes")
        except httpx.HTTPError as error:
            raise RegistryError(f"{path}: {error!r}") from error
        return bytes(data)
