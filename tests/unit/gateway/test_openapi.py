"""The OpenAPI document says what the gateway does."""

import json
import re

import pytest
from ippo_trainer.gateway.openapi import document
from ippo_trainer.gateway.operations import OPERATIONS

from tests.kit.chat import run
from tests.kit.gateways import gateway

SPEC = document("1.2.3")


def references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_it_is_whole():
    names = {reference.rpartition("/")[2] for reference in references(SPEC)}
    assert names <= set(SPEC["components"]["schemas"])
    assert json.loads(json.dumps(SPEC)) == SPEC
    identifiers = [each["operationId"] for methods in SPEC["paths"].values() for each in methods.values()]
    assert sorted(identifiers) == sorted(operation.name for operation in OPERATIONS)
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_says_what_it_takes_and_gives(operation):
    said = SPEC["paths"][operation.path][operation.method.lower()]
    assert said["summary"]
    assert {"200", "400", "401", "403", "429", "503"} <= set(said["responses"])
    in_path = [each["name"] for each in said["parameters"] if each["in"] == "path"]
    assert in_path == re.findall(r"{(\w+)}", operation.path)
    assert ("requestBody" in said) == (operation.body is not None)


def test_every_field_has_a_meaning():
    for name, schema in SPEC["components"]["schemas"].items():
        for field, said in schema.get("properties", {}).items():
            assert said.get("description") or field == "error", f"{name}.{field}"


def test_the_gateway_has_these_routes_and_shows_the_document(tmp_path):
    async def check():
        async with gateway(tmp_path) as bench:
            said = await (await bench.client.get("/openapi.json")).json()
            assert said["paths"] == SPEC["paths"]
            router = bench.server.application().router
            routes = {(route.method, route.resource.canonical) for route in router.routes()}
            assert {(operation.method, operation.path) for operation in OPERATIONS} <= routes

    run(check())
