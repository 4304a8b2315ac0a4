"""The OpenAPI document describes what the server does."""

import json
import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from servers import Serving

from fraud_serving import schema
from fraud_serving.http import docs_page
from fraud_serving.http.openapi import SHORT_EXAMPLE


@pytest.fixture(scope="module")
def document(serving: Serving) -> dict[str, Any]:
    found: dict[str, Any] = serving.client.get("/openapi.json").json()
    return found


def test_the_document_has_every_endpoint_and_status(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {"/predict", "/predict/batch", "/health", "/ready", "/model", "/metrics"}
    for path in ("/predict", "/predict/batch"):
        assert set(document["paths"][path]["post"]["responses"]) == {
            "200", "400", "401", "408", "413", "414", "415", "422", "429", "431",
        }  # fmt: skip
    for path in ("/health", "/ready"):
        assert set(document["paths"][path]) == {"get", "head"}
        assert document["paths"][path]["head"]["responses"].keys() == document["paths"][path]["get"]["responses"].keys()
    assert set(document["paths"]["/model"]["get"]["responses"]) == {"200", "401"}


def test_every_reference_leads_to_a_schema(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(document["components"]["schemas"])
    assert {"Transaction", "Answer", "Batch", "Answers", "Problem"} <= named


def examples(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The payments of the document by name."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    return {name: example["value"] for name, example in content.items()}


@pytest.mark.parametrize("name", ["short", "full"])
def test_the_documents_examples_are_answered_with_the_fields_it_promises(
    serving: Serving, document: dict[str, Any], name: str
) -> None:
    example = examples(document)[name]
    answer = serving.predict(**example)
    promised = document["components"]["schemas"]["Answer"]
    assert set(answer) == set(promised["properties"]) - {"reasons"}
    for field, value in answer.items():
        kinds = promised["properties"][field]
        allowed = {kinds.get("type")} | {kind.get("type") for kind in kinds.get("anyOf", [])} | (
            {"string"} if "enum" in kinds else set()
        )  # fmt: skip
        names = {
            bool: {"boolean"},
            str: {"string"},
            float: {"number"},
            int: {"number", "integer"},
            type(None): {"null"},
            dict: {"object"},
        }
        assert allowed & names[type(value)], field


def test_the_documents_example_answers_have_the_types_of_their_schemas(document: dict[str, Any]) -> None:
    checked = set()
    for path in ("/predict", "/predict/batch"):
        for status in ("200", "422"):
            content = document["paths"][path]["post"]["responses"][status]["content"]["application/json"]
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert msgspec.to_builtins(msgspec.convert(content["example"], vars(schema)[name])) == content["example"]
            checked.add(name)
    assert checked == {"Answer", "Answers", "Problem"}


def test_the_bounds_it_states_are_the_bounds_that_hold(serving: Serving, document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["Transaction"]["properties"]
    for name, of in properties.items():
        bounded = next((s for s in [of, *of.get("anyOf", [])] if "maximum" in s), None)
        if bounded is None:
            continue
        over = serving.client.post("/predict", json=SHORT_EXAMPLE | {name: bounded["maximum"] + 1})
        assert (over.status_code, over.json()["field"]) == (422, name)
        assert serving.client.post("/predict", json=SHORT_EXAMPLE | {name: bounded["maximum"]}).status_code == 200


def test_the_documentation_page_loads_only_files_that_this_service_serves(serving: Serving) -> None:
    answer = serving.client.get("/docs")
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert not re.findall(r"<script[^>]*>[^<]", answer.text), "the policy blocks inline scripts"
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", answer.text)
    assert addresses == ["data:,", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"]
    kinds = [serving.client.get(f"/{address}").headers["content-type"].split(";")[0] for address in addresses[1:]]
    assert kinds == ["text/css", "text/javascript", "text/javascript"]
    # Swagger UI sends the document's address to a validator on the Internet by default.
    assert "validatorUrl: null" in serving.client.get("/docs/start.js").text
    assert serving.client.get("/docs/nothing").status_code == 404


def test_the_guide_says_whether_a_key_is_required(document: dict[str, Any]) -> None:
    example, columns = examples(document)["full"], {"distance_from_home": "number in miles"}
    columns["merchant_category"] = "category of 17 values"
    open_guide, guide = (docs_page.guide(example, columns, keys_required=needed) for needed in (False, True))
    assert document["info"]["description"] == open_guide
    assert "This service runs open and requires no key." in open_guide
    assert "runs open" not in guide
    assert "-H 'X-API-Key: checkout.<secret>' \\\n" in guide
    assert "-H 'X-API-Key" not in open_guide


def test_the_guides_examples_are_answered(serving: Serving, document: dict[str, Any]) -> None:
    blocks = dict(re.findall(r"```(sh|python)\n(.*?)```", document["info"]["description"], re.DOTALL))
    shell, client = (blocks[of].replace("127.0.0.1:8000", f"127.0.0.1:{serving.port}") for of in ("sh", "python"))
    decision = json.loads(run("bash", "-c", shell))
    call = f"print(*looks_like_fraud({examples(document)['full']!r}))"
    printed = run(sys.executable, "-c", client.replace("timeout=0.2", "timeout=30") + call)
    assert printed.split() == [str(decision["is_fraud"]), decision["prediction_id"]]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
