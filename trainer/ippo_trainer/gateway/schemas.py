"""What requests and answers hold. The OpenAPI document is made of these models."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from ippo_trainer.contract import wrong
from ippo_trainer.contract.moments import seconds_of
from ippo_trainer.data.reactions import Reaction
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.names import LONGEST, name_of

_LONGEST_TEXT = 32_768
_MOST_MESSAGES = 10_000
_T = TypeVar("_T", bound=BaseModel)


def name(value: Any) -> str:
    """An id. Raises PydanticCustomError for what is none."""
    text = name_of(value)
    if text is None or text in (".", ".."):
        raise PydanticCustomError(
            "name", "it has to be a text or whole number of 1 to {longest} printable characters", {"longest": LONGEST}
        )
    return text


def _time(value: Any) -> float | None:
    seconds = seconds_of(value)
    if value is not None and seconds is None:
        raise PydanticCustomError("time", "it has to be ISO 8601, or seconds or milliseconds since 1970")
    return seconds


Name = Annotated[str, BeforeValidator(name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST})]
Time = Annotated[
    float | None,
    BeforeValidator(_time),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}, {"type": "null"}]}),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class _OpenBody(_Body):
    model_config = ConfigDict(extra="allow")


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestMetadata(_OpenBody):
    """Whose a request is. Other fields say nothing here."""

    conversation_id: Name | None = None
    """The conversation. Without it an id is made, and the request is a conversation of its own."""
    customer_id: Name | None = None
    """The customer."""
    group: Name | None = None
    """A group, by which results may be told apart."""


class ChatBody(_OpenBody):
    """A chat request, as OpenAI's API has it. Fields that are not here go to the policy server as they are."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MOST_MESSAGES)]
    """The conversation so far; the last message is the customer's or a tool's."""
    model: str | None = None
    """The run's name, or nothing."""
    stream: bool | None = None
    """Server-sent events in place of a whole answer."""
    n: Annotated[int, Field(ge=1)] | None = None
    """Choices, at most 4."""
    metadata: RequestMetadata | None = None
    """Whose it is."""
    user: Name | None = None
    """The customer, where metadata does not name one."""
    safety_identifier: Name | None = None
    """As user."""


class ReactionBody(_Body):
    """What the business did with a suggestion."""

    reaction: Reaction
    """Sent as it was, sent otherwise, or not used."""
    sent: Annotated[str, Field(max_length=_LONGEST_TEXT)] | None = None
    """What the customer got instead. Edited needs it; rejected may have it; accepted has none."""
    suggestion_id: Name | None = None
    """The answer's id; the conversation's last suggestion for this turn if left out."""
    time: Time = None
    """When it happened; now if left out."""


class OutcomeBody(_Body):
    """Whether a conversation led to the outcome."""

    outcome: bool
    """True, or false if it is known that it did not."""
    time: Time = None
    """When it happened; now if left out."""


class ComplaintBody(_Body):
    """A complaint about a conversation."""

    time: Time = None
    """When it happened; now if left out."""


class CloseBody(_Body):
    """The end of a conversation."""

    outcome: bool | None = None
    """Null while it is not known."""
    time: Time = None
    """When it happened; now if left out."""


class CustomerOutcomeBody(OutcomeBody):
    """An outcome of a customer's conversations, from a system that knows nothing of conversations."""

    customer_id: Name
    """The customer."""


class CustomerComplaintBody(ComplaintBody):
    """A complaint of a customer, from a system that knows nothing of conversations."""

    customer_id: Name
    """The customer."""


class EventAnswer(_Answer):
    """A report that the journal has: it is on the disk."""

    event_id: str
    """The same for the same Idempotency-Key."""
    conversation_id: str = ""
    """Empty in a report about a customer."""
    customer_id: str = ""
    """Empty in a report about a conversation."""
    suggestion_known: bool = True
    """False for a reaction to a suggestion that this gateway does not know of. It counts only if the log has one: of
    another gateway, or from before a restart. Missing where the suggestion is known."""


class ChoiceAnswer(_Answer):
    """One suggestion."""

    index: int
    """From 0."""
    message: dict[str, Any]
    """Of role assistant."""
    finish_reason: str
    """stop or length."""
    abstained: bool
    """Whether it suggests nothing."""


class ChatAnswer(_Answer):
    """A whole answer, as OpenAI's API has it, and more."""

    id: str
    """Names the suggestion in reactions."""
    conversation_id: str
    """As it was given, or made."""
    turn: int
    """Replies of the business before it."""
    model: str
    """The digest of the policy that answered."""
    choices: list[ChoiceAnswer]
    """Suggestions."""
    logged: bool = True
    """False where there was no room to log it: then nothing learns from it. Missing where it is logged."""


class ModelEntry(_Answer):
    """A model."""

    id: str
    """The run's name."""
    object: Literal["model"] = "model"
    """What it is."""
    created: int
    """When the gateway began, in seconds since 1970 UTC."""
    owned_by: str = "ippo"
    """Whose it is."""
    root: str
    """The digest of the active policy."""


class ModelsAnswer(_Answer):
    """What may be asked."""

    object: Literal["list"] = "list"
    """What it is."""
    data: list[ModelEntry]
    """One."""


class Failure(_Answer):
    """Why a request was not carried out."""

    message: str
    """What is wrong and what to do."""
    type: str
    """As OpenAI's API has it."""
    param: str | None
    """The field at fault."""
    code: str | None
    """For programs."""


class FailureAnswer(BaseModel):
    """A request that was not carried out."""

    error: Failure


def read(model: type[_T], value: dict[str, Any]) -> _T:
    """A body as a model. Raises RequestError, 400, that names the field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        where, problem = wrong.problems(error)[0]
    raise RequestError(400, f"{where or 'the body'} {problem}", where.split(".")[0] or None)
