"""The documentation page, rendered from the OpenAPI document: one file, no script or style from anywhere else.

Swagger's page loads its scripts from a content delivery network: in a closed network it is blank. This one needs
nothing but itself, and its policy forbids it anything else.
"""

import json
import re
from html import escape
from typing import Any, Final

from fraud_serving.openapi import ANSWER_EXAMPLE, FULL_EXAMPLE, PROBLEM_EXAMPLE, SHORT_EXAMPLE

_FIRST: Final = ("Transaction", "Answer", "Reason", "Batch", "Answers", "Problem")
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1.5rem;color:#1c2530;background:#fff}
h1{margin:0}h2{margin-top:2.5rem;border-bottom:1px solid #d5dce4}h3{margin-top:1.6rem}
code,pre,textarea{font:14px/1.45 ui-monospace,monospace;background:#f3f6f9;border-radius:4px}
code{padding:.1em .3em}pre{padding:.8rem;overflow:auto}pre code{padding:0}
table{border-collapse:collapse;width:100%}th,td{border:1px solid #d5dce4;padding:.35rem .6rem;text-align:left;
vertical-align:top}th{background:#f3f6f9}textarea{width:100%;height:13rem;box-sizing:border-box;
border:1px solid #9aa7b5;padding:.6rem}
button{font:inherit;padding:.4rem 1.2rem;cursor:pointer}input{font:inherit;width:22rem}
.post,.get,.head{font-weight:600;color:#fff;border-radius:4px;padding:.1em .5em}
.post{background:#1b6e3c}.get,.head{background:#1f5fa8}
"""
_TRY: Final = """
document.getElementById("send").addEventListener("click", async () => {
  const headers = {"content-type": "application/json"}, key = document.getElementById("key").value;
  if (key) headers["X-API-Key"] = key;
  const explain = document.getElementById("explain").checked ? "?explain=true" : "";
  const body = document.getElementById("body").value, out = document.getElementById("answer");
  const began = performance.now();
  try {
    const answer = await fetch("predict" + explain, {method: "POST", headers, body});
    const text = JSON.stringify(await answer.json(), null, 2);
    out.textContent = answer.status + " in " + (performance.now() - began).toFixed(1) + " ms\\n" + text;
  } catch (error) { out.textContent = String(error); }
});
"""
_INTRODUCTION: Final = """
<p>Send a payment to <code>POST /predict</code> while the customer waits. The answer says whether it looks like fraud,
with which probability, and which version of the model decided. It comes within milliseconds; where something behind the
service is down it still comes, with <code>"degraded": true</code>. Nothing behind the service makes it answer 5xx.</p>
<h2 id="integrate">Integrate</h2>
<ol>
<li><b>Key.</b> Every request carries <code>X-API-Key: &lt;client&gt;.&lt;secret&gt;</code>. Ask the platform's team for
yours; it is shown once. {keys}</li>
<li><b>Send.</b> With <code>user_id</code> (then also <code>transaction_id</code>, <code>merchant_id</code>,
<code>event_timestamp</code>) the user's stored history decides, and this payment joins it. Without it, only what you
send counts. Keep connections open (HTTP/1.1 keep-alive) and reuse them. An offer to upgrade to HTTP/2, which Java's
<code>HttpClient</code> makes by default, is ignored; nothing needs to be set.</li>
<li><b>Wait</b> at most what your checkout allows: 100 ms is ample. <b>Retry</b> a timeout or a lost connection with the
same <code>transaction_id</code>: it is counted once, and within an hour the first answer comes back with
<code>"repeated": true</code>. Retry a 429 after <code>Retry-After</code> seconds. Never retry another 4xx
unchanged.</li>
<li><b>Decide.</b> Act on <code>is_fraud</code>: its threshold is chosen with each model version, by cost. Do not
compare <code>fraud_probability</code> with a number of your own. Store <code>prediction_id</code> with the order:
everything behind the answer can be found by it.</li>
<li><b>When no answer comes</b>, let your own fallback decide, for instance by amount; it is your business's
choice.</li>
</ol>
"""
_CLIENT: Final = '''import httpx

client = httpx.Client(
    base_url="{base}", headers={{"X-API-Key": "checkout.<secret>"}},
    timeout=0.2,
)

def looks_like_fraud(payment: dict) -> tuple[bool, str]:
    """Whether to stop the payment, and the id of the answer. Raises httpx.HTTPError when none comes."""
    for attempt in range(2):
        try:
            answer = client.post("/predict", json=payment)
            break
        except httpx.TransportError:  # safe to send again: the transaction_id makes it one payment
            if attempt:
                raise
    answer.raise_for_status()
    decided = answer.json()
    return decided["is_fraud"], decided["prediction_id"]
'''


def render(document: dict[str, Any], base: str, *, keys_on: bool) -> str:
    """The page for an OpenAPI document served at `base` (scheme and host)."""
    keys = "" if keys_on else "<b>This service runs open: on this machine no key is asked for.</b>"
    schemas = document["components"]["schemas"]
    secret = " -H 'X-API-Key: checkout.&lt;secret&gt;'" if keys_on else ""
    curl = f"curl -s {base}/predict -H 'content-type: application/json'{secret} \\\n  -d '"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(document['info']['title'])}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])}</h1><p>{escape(document['info']['summary'])} ",
        "The same as data: <a href=openapi.json>openapi.json</a>.</p>",
        _INTRODUCTION.format(keys=keys),
        f"<h3>From a shell</h3><pre>{curl}{escape(json.dumps(FULL_EXAMPLE, indent=1))}'</pre>",
        f"<p>The answer, with status 200:<pre>{escape(json.dumps(ANSWER_EXAMPLE, indent=1))}</pre>",
        f"<p>A body that breaks the contract, with status 422:<pre>{escape(json.dumps(PROBLEM_EXAMPLE))}</pre>",
        f"<h3>From Python</h3><pre>{escape(_CLIENT.format(base=base))}</pre>",
        _try(keys_on=keys_on),
        "<h2 id=endpoints>Endpoints</h2>",
        *(_operation(path, method, of) for path, ways in document["paths"].items() for method, of in ways.items()),
        "<h2 id=types>Types</h2>",
        *(_schema(name, schemas[name]) for name in [*_FIRST, *sorted(schemas.keys() - set(_FIRST))]),
        f"<script>{_TRY}</script>",
    ]
    return "".join(parts)


def _try(*, keys_on: bool) -> str:
    key = "<p><label>X-API-Key <input id=key autocomplete=off></label></p>" if keys_on else "<input id=key hidden>"
    return (
        f"<h2 id=try>Try it</h2>{key}<textarea id=body spellcheck=false>"
        f"{escape(json.dumps(SHORT_EXAMPLE, indent=2))}</textarea><p><button id=send>POST /predict</button> "
        "<label><input id=explain type=checkbox style='width:auto'> with reasons</label></p><pre id=answer>&nbsp;</pre>"
    )


def _operation(path: str, method: str, of: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{code}<td>{_text(said.get('description', ''))}<td>{_content(said)}"
        for code, said in sorted(of["responses"].items())
    )
    asked = "".join(
        f"<p>Query <code>{escape(p['name'])}</code>: {_text(p.get('description', ''))}</p>"
        for p in of.get("parameters", ())
        if p["in"] == "query"
    )
    sent = of.get("requestBody")
    body = f"<p>Body: {_content(sent)}. {_text(sent['description'])}</p>" if sent else ""
    return (
        f"<h3><span class={method}>{method.upper()}</span> <code>{escape(path)}</code> {escape(of['summary'])}</h3>"
        f"<p>{_text(of.get('description', ''))}</p>{body}{asked}"
        f"<table><tr><th>Status<th>When<th>Body{rows}</table>"
    )


def _text(plain: str) -> str:
    """Escaped, with `code` set as such."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(plain))


def _content(said: dict[str, Any]) -> str:
    named = [_kind(kind["schema"]) for kind in said.get("content", {}).values() if "schema" in kind]
    return ", ".join(named)


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code><td>{_kind(of)}<td>{'yes' if field in needed else ''}"
        f"<td>{_text(_described(of))}"
        for field, of in schema["properties"].items()
    )
    more = "".join(
        f"<p>Where <code>{escape(field)}</code> is given: {', '.join(f'<code>{escape(o)}</code>' for o in others)} too."
        for field, others in schema.get("dependentRequired", {}).items()
    )
    if "anyOf" in schema:
        ways = (" and ".join(f"<code>{escape(n)}</code>" for n in way["required"]) for way in schema["anyOf"])
        more += f"<p>Needed as well: {', or '.join(ways)}.</p>"
    return (
        f"<h3 id={name}>{name}</h3><p>{_text(schema.get('description', ''))}</p>"
        f"<table><tr><th>Field<th>Type<th>Needed<th>Meaning{rows}</table>{more}"
    )


def _described(of: dict[str, Any]) -> str:
    return str(of.get("description") or next((k["description"] for k in of.get("anyOf", ()) if "description" in k), ""))


def _kind(of: dict[str, Any]) -> str:
    """A schema as one phrase, its bounds included."""
    if "$ref" in of:
        name = of["$ref"].rpartition("/")[2]
        return f"<a href=#{name}>{name}</a>"
    if "anyOf" in of:
        return " or ".join(_kind(kind) for kind in of["anyOf"])
    if "enum" in of:
        return " | ".join(f"<code>{escape(str(one))}</code>" for one in of["enum"])
    if of.get("type") == "array":
        return f"list of {_kind(of['items'])}" + _bounds(of, ("minItems", "maxItems"))
    return escape(f"{of.get('format') or of.get('type', 'any')}") + _bounds(
        of, ("exclusiveMinimum", "minimum", "maximum", "minLength", "maxLength")
    )


def _bounds(of: dict[str, Any], names: tuple[str, ...]) -> str:
    words = {
        "exclusiveMinimum": "above", "minimum": "from", "maximum": "to", "minLength": "length from", "maxLength": "to",
        "minItems": "from", "maxItems": "to",
    }  # fmt: skip
    said = [f"{words[name]} {of[name]:,}" for name in names if name in of]
    return f" ({' '.join(said)})" if said else ""
