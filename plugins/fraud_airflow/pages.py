"""Our pages inside Airflow: reports and version. Airflow does not put a plugin's app behind its login: we do."""

import mimetypes
import posixpath
from html import escape
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, HTTPException, Response

from fraud_airflow.reports import NoSuchReportError, Reports
from fraud_airflow.surroundings import Surroundings
from fraud_airflow.version import platform_version

app = FastAPI(
    title="fraud",
    # On the app, not on a route: a page added later is behind the login too.
    dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
    openapi_url=None,
)

_PRIVATE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# A report runs the scripts of its charting library. Sandboxed, it has no origin: it cannot use the reader's login.
_SEALED = _PRIVATE | {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'unsafe-inline' data: blob:; frame-ancestors 'self'"
}
_PLAIN = _PRIVATE | {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"}
_ABOUT = {
    "training": "what each training made: the ladder, every gate with its value, slices, curves",
    "drift": "recent days against what the Production model was trained on",
    "skew": "what was served against what is recomputed, bit for bit",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.6 system-ui,sans-serif;margin:2rem;color:#1c2733;background:#fff}}
a{{color:#0b57d0;text-decoration:none}}td{{padding:.15rem 2rem .15rem 0}}td+td{{color:#5a6b7b}}</style>
<h1>{title}</h1>{body}"""


def _page(title: str, body: str) -> Response:
    return Response(_PAGE.format(title=escape(title), body=body), media_type="text/html", headers=_PLAIN)


@app.get("/version")
def version() -> Response:
    """What is running: versions, commit, and where the services are."""
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in platform_version().items())
    return _page("Platform version", f"<table>{rows}</table>")


@app.get("/reports/{path:path}")
def report(path: str) -> Response:
    """A folder's list, or a report."""
    reports = Reports(Surroundings.read().reports_uri)
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
        f"<td>{escape(posixpath.basename(posixpath.dirname(s.page)))}</td><td>{escape(s.says)}</td></tr>"
        for s in summaries
    ) or "".join(
        f'<tr><td><a href="{quote(e.name)}{"/" * e.folder}">{escape(e.name)}</a></td>'
        f"<td>{_ABOUT.get(e.path, '') if e.folder else f'{e.size / 1000:,.0f} kB'}</td></tr>"
        for e in entries
    )
    return _page(f"Reports / {base}".rstrip(" /"), f"<table>{rows}</table>" if rows else "<p>None yet.</p>")
