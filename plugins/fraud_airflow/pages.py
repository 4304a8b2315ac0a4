"""The platform's pages inside Airflow: status, reports, documentation and version.

Airflow does not require a login for a plugin's app, so this module does. A browser without a login is redirected to the
login page, and after the login to the requested page. A link in an alert therefore works.
"""

import mimetypes
import posixpath
from html import escape
from typing import Final
from urllib.parse import quote, urlencode

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import RedirectResponse

from fraud_airflow import status_page
from fraud_airflow.documentation import PICTURES, Documentation, NoSuchPageError
from fraud_airflow.job_environment import JobEnvironment
from fraud_airflow.reports import NoSuchReportError, Reports
from fraud_airflow.version import platform_version

app = FastAPI(
    title="fraud",
    # On the app instead of a route, so that every later page requires the login too.
    dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
    openapi_url=None,
)

_PRIVATE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# A report runs the scripts of its charting library. The sandbox gives it no origin, so it cannot use the login cookie.
_SEALED = _PRIVATE | {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'unsafe-inline' data: blob:; frame-ancestors 'self'"
}
_PLAIN = _PRIVATE | {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"
}
KINDS: Final = {
    "training": "Each trained version: the levels compared, every gate with its value, slices and curves",
    "drift": "The distributions of recent days compared with the data that the Production model was trained on",
    "concept": "The decisions of recent days compared with their labels: precision, recall, calibration and money",
    "skew": "The features and probabilities that were served compared with a recomputation from the lake",
    "compare": "Two versions scored on the same day: where their decisions differ",
}
"""Folder below the reports' root -> description of its reports."""
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body{{font:15px/1.6 system-ui,sans-serif;margin:2rem;max-width:60rem;color:#1c2733;background:#fff}}
a{{color:#0b57d0;text-decoration:none}}
a:hover{{text-decoration:underline}}
h1{{font-size:1.6rem;line-height:1.3}}
h2{{font-size:1.15rem;margin-top:1.8rem}}
table{{border-collapse:collapse}}
th,td{{padding:.3rem 2rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e3e8ed}}
code,pre{{font:13px/1.5 ui-monospace,monospace;background:#f2f5f8;border-radius:4px}}
code{{padding:.1rem .3rem;overflow-wrap:anywhere}}
pre{{padding:.8rem 1rem;overflow-x:auto}}
pre code{{padding:0}}
img{{max-width:100%}}
nav a{{margin-right:1.5rem}}
.good,.bad{{font-size:1.15rem;font-weight:600}}
.good{{color:#146c2e}}
.bad{{color:#b3261e}}
</style>
<nav><a href="{base}/" target="_top">Airflow</a><a href="{base}/fraud/status">Status</a>
<a href="{base}/fraud/docs/runbooks/README.md">Runbooks</a><a href="{base}/fraud/reports/">Reports</a></nav>
{body}</html>"""


def _base() -> str:
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def _page(title: str, content: str, status_code: int = 200) -> Response:
    text = _PAGE.format(title=escape(title), base=escape(_base()), body=content)
    return Response(text, status_code, media_type="text/html", headers=_PLAIN)


@app.exception_handler(HTTPException)
async def redirect_to_login(request: Request, error: HTTPException) -> Response:
    """Redirect a browser without a login to Airflow's login page. Other clients get the 401."""
    if error.status_code != 401 or "text/html" not in request.headers.get("accept", ""):
        return await http_exception_handler(request, error)
    return RedirectResponse(f"{_base()}/api/v2/auth/login?{urlencode({'next': request.url.path})}")


@app.get("/docs/{path:path}")
def document(path: str) -> Response:
    """A page of docs/ as HTML, or a picture."""
    documentation = Documentation(JobEnvironment.read().project / "docs")
    try:
        if path.endswith(tuple(PICTURES)):
            content, media_type = documentation.picture(path)
            return Response(content, media_type=media_type, headers=_PLAIN)
        title, body = documentation.page(path)
    except NoSuchPageError as error:
        raise HTTPException(404, "no such page") from error
    return _page(title, body)


@app.get("/status")
def platform_status(request: Request) -> Response:
    """What serves, what is wrong, and what changed. A synchronous function, so that it runs in a thread of its own."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    token = bearer if scheme.lower() == "bearer" else request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")
    try:
        found = status_page.status(token)
    except status_page.NoStatusError as error:
        text = f'<h1>Status</h1><p class="bad">The status cannot be read</p><p>{escape(str(error))}</p>'
        return _page("Status", text, 503)
    return _page("Status", status_page.body(found, _base()))


@app.get("/version")
def version() -> Response:
    """Versions of the packages, the commit, and the addresses of the services."""
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in platform_version().items())
    return _page("Platform version", f"<h1>Platform version</h1><table>{rows}</table>")


@app.get("/reports/{path:path}")
def report(path: str) -> Response:
    """The list of a folder, or a report."""
    reports = Reports(JobEnvironment.read().reports_uri)
    try:
        if path and not path.endswith("/"):
            kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
            return Response(reports.read(path), media_type=kind, headers=_SEALED)
        entries, summaries = reports.entries(path), reports.summaries(path)
    except NoSuchReportError as error:
        raise HTTPException(404, "no such report") from error
    base = path.strip("/")
    rows = "".join(
        f'<tr><td><a href="{quote(posixpath.relpath(s.page, base or "."))}">{s.written:%Y-%m-%d %H:%M}</a></td>'
        f"<td>{escape(posixpath.basename(posixpath.dirname(s.page)))}</td><td>{escape(s.result)}</td></tr>"
        for s in summaries
    ) or "".join(
        f'<tr><td><a href="{quote(e.name)}{"/" * e.folder}">{escape(e.name)}</a></td>'
        f"<td>{KINDS.get(e.path, '') if e.folder else f'{e.size / 1000:,.0f} kB'}</td></tr>"
        for e in entries
    )
    title = f"Reports / {base}".rstrip(" /")
    description = f"<p>{KINDS[base]}.</p>" if base in KINDS else ""
    head = "<tr><th>Written (UTC)</th><th>Run or day</th><th>Result</th></tr>" if summaries else ""
    table = f"<table>{head}{rows}</table>" if rows else "<p>There is no report yet.</p>"
    return _page(title, f"<h1>{escape(title)}</h1>{description}{table}")
