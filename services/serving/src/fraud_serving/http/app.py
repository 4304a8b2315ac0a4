"""The applications of the public and the internal port: FastAPI routes for documentation, health, lineage, metrics."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from fraud_serving.http import docs_page, openapi, what_if
from fraud_serving.http.predict import PredictApp
from fraud_serving.http.rate_limit import RateLimit
from fraud_serving.http.traced import TracedPredictApp
from fraud_serving.schema import Problem
from fraud_serving.scoring.inference import RULE_VERSION
from fraud_serving.service import ScoringService, Service


class Health(BaseModel):
    """Liveness: the process runs."""

    live: bool


class Ready(BaseModel):
    """Readiness: whether a model is loaded, warmed up and self-tested, and its version."""

    ready: bool
    model_version: str
    store_connected: bool


class Lineage(BaseModel):
    """The served version. `declaration` has its columns, entities and features with the category lists that training
    found, `groups` the inputs of each group of the reasons. `tags` are those of the registry: commit, data, parameters,
    lock files, gates."""

    model_version: str
    model_sha256: str | None
    run_id: str | None
    threshold: float | None
    level: str | None
    feature_hash: str | None
    declaration: dict[str, Any] | None
    groups: dict[str, list[str]]
    tags: dict[str, str]


def public(service: Service) -> PredictApp:
    """The application of the public port. It has /metrics only if no internal port is set."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Fraud detector",
        version="1",
        summary="Scores card payments for fraud in real time.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    _add_health(app, service)
    _add_lineage(app, service)
    if not service.settings.internal_port:
        _add_metrics(app, service)
    docs_page.add(app)
    if service.what_if is not None:
        what_if.add(app, service.what_if)
    _add_error_handler(app)
    # FastAPI documents replacing this method as the way to extend the document.
    app.openapi = lambda: _document(app, service)  # type: ignore[method-assign]
    settings = service.settings
    application = partial(TracedPredictApp, service.spans) if settings.traces else PredictApp
    return application(
        service.scorer, _head_as_get(app), service.metrics, service.keys,
        RateLimit(settings.client_rate, settings.client_burst_seconds), service.access, settings.max_in_flight,
        settings.max_body_bytes, settings.max_batch_bytes, settings.body_deadline_seconds,
    )  # fmt: skip


def _document(app: FastAPI, service: Service) -> dict[str, Any]:
    state = service.scorer.state
    example, columns = openapi.full_example(state), openapi.columns_of(state)
    return openapi.document(app, state, docs_page.guide(example, columns, keys_required=service.keys is not None))


def internal(service: ScoringService) -> ASGIApp:
    """The application of the internal port, for the platform only: health and metrics."""
    app = FastAPI(title="Fraud detector, internal", openapi_url=None, docs_url=None, redoc_url=None)
    _add_health(app, service)
    _add_metrics(app, service)
    _add_error_handler(app)
    return _head_as_get(app)


def _head_as_get(app: ASGIApp) -> ASGIApp:
    """Handle HEAD as GET; the server sends no body. Every route of the two applications is a GET."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answer


def _add_error_handler(app: FastAPI) -> None:
    """Errors have the same body as those of POST /predict."""
    kinds = {401: "key", 404: "path", 405: "method"}

    @app.exception_handler(StarletteHTTPException)
    async def refuse(_: Request, error: StarletteHTTPException) -> Response:
        reason, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            reason = "no resource at this path"
        if error.status_code == 405:
            reason, headers = "expected GET or HEAD", {"allow": "GET, HEAD"}
        problem = Problem(kinds[error.status_code], reason)
        return Response(msgspec.json.encode(problem), error.status_code, headers, "application/json")


def _add_health(app: FastAPI, service: ScoringService) -> None:
    @app.get("/health", tags=["operation"], summary="Liveness")
    async def health() -> Health:
        return Health(live=True)

    @app.get(
        "/ready",
        tags=["operation"],
        summary="Readiness: a model is loaded, warmed up and self-tested",
        responses={
            503: {"model": Ready, "description": "No model is loaded; POST /predict answers by the level 0 rule."}
        },
    )
    async def ready(response: Response) -> Ready:
        model = service.scorer.state.production
        response.status_code = 200 if model else 503
        version = model.version if model else RULE_VERSION
        return Ready(ready=model is not None, model_version=version, store_connected=service.store_connected)


def _add_lineage(app: FastAPI, service: Service) -> None:
    def require_key(request: Request) -> None:
        key = request.headers.get("x-api-key", "")
        if service.keys is not None and service.keys.client_of(key.encode("latin-1")) is None:
            raise HTTPException(401, "the X-API-Key header is missing or unknown", {"www-authenticate": "ApiKey"})

    @app.get(
        "/model",
        tags=["operation"],
        summary="Lineage of the served version",
        dependencies=[Depends(require_key)],
        responses={401: {"description": "The X-API-Key header is missing or unknown.", "content": openapi.PROBLEM}},
        openapi_extra={"security": openapi.OPTIONAL_KEY},
    )
    async def model() -> Lineage:
        served = service.scorer.state.production
        if served is None:
            return Lineage(
                model_version=RULE_VERSION, model_sha256=None, run_id=None, threshold=None, level=None,
                feature_hash=None, declaration=None, groups={}, tags={},
            )  # fmt: skip
        return Lineage(
            model_version=served.version, model_sha256=served.model_sha256, run_id=served.run_id,
            threshold=served.threshold, level=served.level, feature_hash=served.plan.hash,
            declaration=json.loads(served.plan.declaration.canonical()), groups=served.groups.inputs, tags=served.tags,
        )  # fmt: skip


def _add_metrics(app: FastAPI, service: ScoringService) -> None:
    responses: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Metrics in the Prometheus text format",
        response_class=Response,
        responses=responses,
    )
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
