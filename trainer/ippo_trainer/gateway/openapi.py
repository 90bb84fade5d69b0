"""The OpenAPI document, of the table of operations and the models of their bodies."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ippo_trainer.gateway import schemas
from ippo_trainer.gateway.operations import CHAT, OPERATIONS, Operation
from ippo_trainer.gateway.reports import IDEMPOTENCY
from ippo_trainer.http.names import HEADER, LONGEST

_TITLE = "ippo-gateway"
_TEMPLATE = "#/components/schemas/{model}"
_STATUSES = {
    400: "The request is wrong; `param` names the field",
    401: "No API key, or one that is not known",
    403: "The API key lacks the scope, or may not name this id",
    404: "Another model",
    408: "The body did not come in time",
    409: "The Idempotency-Key came with another request before",
    413: "The body is too large",
    415: "The body is not application/json",
    429: "Too many requests are under way; see Retry-After",
    503: "No policy answers, or there is no room in the log; see Retry-After",
}
_ALWAYS = (400, 401, 403, 429, 503)
_WITH_BODY = (408, 413, 415)
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST}


def document(version: str) -> dict[str, Any]:
    """The document, OpenAPI 3.1.

    Args:
        version: of this release.
    """
    models: list[type[BaseModel]] = [schemas.FailureAnswer]
    for operation in OPERATIONS:
        models += [model for model in (operation.body, operation.answer) if model is not None and model not in models]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_TEMPLATE)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    statuses = sorted({*_ALWAYS, *operation.statuses, *(_WITH_BODY if operation.body is not None else ())})
    answers = {"200": {"description": "It is done", "content": _content(operation)}}
    answers |= {str(status): _failure(status) for status in statuses}
    said: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs an API key with the scope `{operation.scope}`, where the gateway asks for keys.",
        "parameters": _parameters(operation),
        "responses": answers,
        "security": [{"key": []}, {}],
    }
    if operation.body is not None:
        said["requestBody"] = {"required": True, "content": _json(operation.body)}
    return said


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if "{id}" in operation.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": _NAME})
    if "{turn}" in operation.path:
        turn = {"type": "integer", "minimum": 0, "description": "Replies of the business before the suggestion"}
        parameters.append({"name": "turn", "in": "path", "required": True, "schema": turn})
    if operation.kind is not None and operation.body is not None:
        parameters.append({"name": IDEMPOTENCY, "in": "header", "schema": _NAME})
    if operation is CHAT:
        parameters.append({"name": HEADER, "in": "header", "schema": _NAME})
    return parameters


def _content(operation: Operation) -> dict[str, Any]:
    content = _json(operation.answer)
    if operation is CHAT:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _TEMPLATE.format(model=model.__name__)}}}


def _failure(status: int) -> dict[str, Any]:
    return {"description": _STATUSES[status], "content": _json(schemas.FailureAnswer)}
