"""The documentation page: Swagger UI, served by this process.

The scripts come from a Python package, not from a content delivery network, so the page works in a closed network. Its
Content-Security-Policy allows scripts and connections of this service only.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Addresses are relative, so the page also works below a path prefix.
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#docs", deepLinking: true, tryItOutEnabled: true, displayRequestDuration: true,
  defaultModelRendering: "model", docExpansion: "list", validatorUrl: null,
});
"""
_GUIDE: Final = """
Send a payment to `POST /predict` while the customer waits. The answer contains the decision, the fraud probability and
the model version. It takes milliseconds. When the registry or the online store
is down the service still answers, with `"degraded": true`, and never with a 5xx status.

Every error has the body `Problem`, also 404 for an unknown path and 405 for another method. `HEAD` is answered like
`GET`, without a body.

### Integrate

1. **Key.** Every request carries the header `X-API-Key: <client>.<secret>`. Request a key from the platform team; it is
   shown once. {keys}
2. **Send.** With `user_id` (then `transaction_id`, `merchant_id` and `event_timestamp` are required too) the decision
   uses the stored histories, and this payment is added to them. Without `user_id` the decision uses only the fields
   of the request. Keep connections open (HTTP/1.1 keep-alive) and reuse them. An offer to upgrade to HTTP/2, which
   Java's `HttpClient` makes by default, is ignored; nothing needs to be set.
3. **Time out and retry.** 100 ms is a sufficient timeout. After a timeout or a lost connection send the same
   `transaction_id` again: the payment is counted once, and within an hour the first answer comes back with
   `"repeated": true`. Retry a 429 after `Retry-After` seconds. Do not retry another 4xx unchanged.
4. **Decide.** Act on `is_fraud`: its threshold is chosen by cost with each model version. Do not compare
   `fraud_probability` with a threshold of your own. Store `prediction_id` with the order: it identifies the answer in
   the prediction log.
5. **Without an answer**, use a fallback of your own, for example by amount.

### Fields of the loaded model

Besides the fields that every payment has, the model reads these. Leave out what you do not have. A field that is not
declared is refused, so that a misspelt one is noticed.

{columns}

### From a shell

```sh
curl -s http://127.0.0.1:8000/predict -H 'content-type: application/json'{key_header} \\
  -d '{payment}'
```

### From Python

```python
import httpx

client = httpx.Client(
    base_url="http://127.0.0.1:8000",  # this service
    headers={{"X-API-Key": "checkout.<secret>"}},
    timeout=0.2,
)

def looks_like_fraud(payment: dict) -> tuple[bool, str]:
    \"\"\"The decision and the prediction id. Raises httpx.HTTPError when there is no answer.\"\"\"
    for attempt in range(2):
        try:
            answer = client.post("/predict", json=payment)
            break
        except httpx.TransportError:  # the transaction_id makes a second attempt safe
            if attempt:
                raise
    answer.raise_for_status()
    decision = answer.json()
    return decision["is_fraud"], decision["prediction_id"]
```
"""


def guide(example: Mapping[str, object], columns: Mapping[str, str], *, keys_required: bool) -> str:
    """The integration guide, Markdown: the description in the OpenAPI document.

    `example`: a payment with ids; `columns`: the declared columns of the loaded version, with their kinds.
    """
    rows = "\n".join(f"| `{name}` | {kind} |" for name, kind in columns.items())
    return _GUIDE.format(
        keys="" if keys_required else "**This service runs open and requires no key.**",
        key_header=" -H 'X-API-Key: checkout.<secret>'" if keys_required else "",
        payment=json.dumps(example, indent=1),
        columns=f"| field | kind |\n| --- | --- |\n{rows}" if rows else "No model is loaded, so there are none.",
    )


def add(app: FastAPI) -> None:
    """Add `GET /docs` and the files that it loads."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=app.title), headers={"content-security-policy": POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    # Only the package's files are used: its class replaces a function of FastAPI and needs inline scripts.
    app.mount("/docs", StaticFiles(directory=str(files("fastapi_standalone_docs") / "static/swagger")))
