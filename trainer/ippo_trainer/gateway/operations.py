"""What the gateway does, as one table: routes, scopes and the OpenAPI document follow from it."""

from dataclasses import dataclass

from pydantic import BaseModel

from ippo_trainer.gateway import schemas
from ippo_trainer.gateway.keys import Scope
from ippo_trainer.live import events

_CONVERSATION = "/v1/conversations/{id}"


@dataclass(frozen=True)
class Operation:
    """One of the things that clients ask for.

    Args:
        name: in metrics and in the OpenAPI document.
        method, path: of HTTP.
        scope: that an API key needs; None for what needs no key.
        summary: what it is for.
        body: of the request; None where it has none.
        answer: of status 200.
        kind: of the event that it reports; None for what reports none.
        statuses: others than 200 that its answer may have, besides those of every operation.
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    summary: str
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    kind: events.Kind | None = None
    statuses: tuple[int, ...] = ()


CHAT = Operation(
    "chat",
    "POST",
    "/v1/chat/completions",
    "chat",
    "A suggestion for the newest message, whole or as server-sent events",
    schemas.ChatAnswer,
    schemas.ChatBody,
    statuses=(404,),
)
MODELS = Operation("models", "GET", "/v1/models", "chat", "The run, as a model", schemas.ModelsAnswer)
_REPORTS: tuple[tuple[str, str, type[BaseModel], events.Kind, str], ...] = (
    (
        "reaction",
        f"{_CONVERSATION}/turns/{{turn}}/reaction",
        schemas.ReactionBody,
        events.REACTION,
        "What became of a suggestion",
    ),
    (
        "outcome",
        f"{_CONVERSATION}/outcome",
        schemas.OutcomeBody,
        events.OUTCOME,
        "Whether a conversation led to the outcome",
    ),
    (
        "complaint",
        f"{_CONVERSATION}/complaint",
        schemas.ComplaintBody,
        events.COMPLAINT,
        "A complaint about a conversation",
    ),
    ("close", f"{_CONVERSATION}/close", schemas.CloseBody, events.CLOSE, "The end of a conversation"),
    ("customer_outcome", "/v1/outcomes", schemas.CustomerOutcomeBody, events.OUTCOME, "An outcome, by customer"),
    (
        "customer_complaint",
        "/v1/complaints",
        schemas.CustomerComplaintBody,
        events.COMPLAINT,
        "A complaint, by customer",
    ),
)
REPORTS = tuple(
    Operation(name, "POST", path, "events", summary, schemas.EventAnswer, body, kind, statuses=(409,))
    for name, path, body, kind, summary in _REPORTS
)
ERASE = Operation(
    "erase",
    "DELETE",
    _CONVERSATION,
    "erase",
    "Nothing of a conversation counts any more, whatever is logged of it; ippo erase takes its texts out",
    schemas.EventAnswer,
    kind=events.ERASED,
)
OPERATIONS = (CHAT, MODELS, *REPORTS, ERASE)
