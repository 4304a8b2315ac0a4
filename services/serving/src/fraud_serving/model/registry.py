"""Client of the model registry (MLflow's REST API): the version of an alias, and its files."""

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
    """The registry did not answer, or not as expected. A later attempt may succeed."""


class Registry:
    """Blocking client of one registry, used in the threads that follow an alias."""

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
        """The version that `alias` points to, None if the alias does not exist. Raises RegistryError."""
        answer = self._get(f"{_API}/registered-models/alias", {"name": name, "alias": alias})
        if answer is None:
            return None
        try:
            found = answer["model_version"]
            version, run_id = str(found["version"]), str(found.get("run_id", ""))
            tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        except (KeyError, TypeError) as error:
            raise RegistryError(f"expected a field in the registry's answer: {error}") from error
        location = self._get(f"{_API}/model-versions/get-download-uri", {"name": name, "version": version})
        if location is None:
            raise RegistryError(f"{name} version {version} was deleted")
        return Registered(version, run_id, self._resolved(str(location.get("artifact_uri", ""))), tags)

    def _resolved(self, source: str) -> str:
        """The artifact URI of `runs:/RUN/folder`; any other source unchanged. Raises RegistryError."""
        if not source.startswith(_RUNS):
            return source
        run_id, _, folder = source.removeprefix(_RUNS).partition("/")
        answer = self._get(f"{_API}/runs/get", {"run_id": run_id})
        if answer is None:
            raise RegistryError(f"run {run_id} of {source} was deleted")
        try:
            return f"{answer['run']['info']['artifact_uri']}/{folder}"
        except (KeyError, TypeError) as error:
            raise RegistryError(f"expected a field in the registry's answer: {error}") from error

    def download(self, registered: Registered) -> Artefact:
        """Download the version's files through the artifact proxy. Raises RegistryError, ArtefactRefusedError."""
        source = urlsplit(registered.source)
        if source.scheme != _SCHEME:
            raise ArtefactRefusedError(
                "source", f"version {registered.version}: expected a source {_SCHEME}:/..., got {registered.source}"
            )
        folder = f"{_PROXY}/{quote(source.path.strip('/'))}"
        return Artefact(
            model=self._read(f"{folder}/model.onnx", MAX_MODEL_BYTES),
            serving=self._read(f"{folder}/serving.json", MAX_SERVING_BYTES),
        )

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any] | None:
        """The JSON object at `path`; None if the registry answers that it does not exist. Raises RegistryError."""
        try:
            answer = self._client.get(path, params=query)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RegistryError(f"{path}: {error!r}") from error
        if not isinstance(body, dict):
            raise RegistryError(f"{path}: expected a JSON object")
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
                    raise ArtefactRefusedError("missing", f"{path} does not exist")
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > limit:
                        raise ArtefactRefusedError("size", f"{path} is larger than {limit} bytes")
        except httpx.HTTPError as error:
            raise RegistryError(f"{path}: {error!r}") from error
        return bytes(data)
