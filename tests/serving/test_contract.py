"""The OpenAPI document: what it states is what the server does."""

import json
import re
from typing import Any

import pytest
from servers import Serving

from fraud_serving.openapi import FULL_EXAMPLE, SHORT_EXAMPLE


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


@pytest.mark.parametrize("example", [SHORT_EXAMPLE, FULL_EXAMPLE], ids=["short", "full"])
def test_the_documents_examples_are_answered_with_the_fields_it_promises(
    serving: Serving, document: dict[str, Any], example: dict[str, object]
) -> None:
    answer = serving.predict(**example)
    promised = document["components"]["schemas"]["Answer"]
    assert set(answer) == set(promised["properties"]) - {"reasons"}
    for name, value in answer.items():
        kinds = promised["properties"][name]
        allowed = {kinds.get("type")} | {kind.get("type") for kind in kinds.get("anyOf", [])} | (
            {"string"} if "enum" in kinds else set()
        )  # fmt: skip
        names = {
            bool: {"boolean"},
            str: {"string"},
            float: {"number"},
            int: {"number", "integer"},
            type(None): {"null"},
        }
        assert allowed & names[type(value)], name


def test_the_bounds_it_states_are_the_bounds_that_hold(serving: Serving, document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["Transaction"]["properties"]
    for name, schema in properties.items():
        bounded = next((s for s in [schema, *schema.get("anyOf", [])] if "maximum" in s), None)
        if bounded is None:
            continue
        over = serving.client.post("/predict", json=SHORT_EXAMPLE | {name: bounded["maximum"] + 1})
        assert (over.status_code, over.json()["field"]) == (422, name)
        assert serving.client.post("/predict", json=SHORT_EXAMPLE | {name: bounded["maximum"]}).status_code == 200


def test_the_documentation_page_needs_nothing_from_elsewhere_and_names_every_field(
    serving: Serving, document: dict[str, Any]
) -> None:
    answer = serving.client.get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    for name in ("Transaction", "Answer", "Problem"):
        for field in document["components"]["schemas"][name]["properties"]:
            assert f"<code>{field}</code>" in page
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    assert "this machine no key is asked for" in page
