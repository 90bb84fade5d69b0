"""What a chat request may say. Whatever would change the answer and is not understood is refused, never ignored."""

import json
import secrets
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from ippo_trainer.contract import wrong
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.params import HOTTEST
from ippo_trainer.data.context import CONTEXT, KINDS, TOOLS, beside, context_of
from ippo_trainer.data.messages import BUSINESS_ROLES, read_state
from ippo_trainer.data.schema import State
from ippo_trainer.http.errors import RequestError
from ippo_trainer.http.json_bodies import TOO_DEEP, json_of
from ippo_trainer.serve.engine import ResponseSampling
from ippo_trainer.serve.fields import without_neutral

_SEEDS = 2**63
_MOST_STOPS = 4
_COLDEST = 1e-5
"""Lower temperatures are no numbers to fp32's softmax; they take the likeliest token, as 0 does."""
_SYSTEM, _TOOLS = ("system", "developer"), ("tool", "function")


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


def _texts(value: Any) -> Any:
    """Stop texts as a list. A union of types would give an error for each of its types."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError("stop", "it is a text or a list of texts")
    if len(texts) > _MOST_STOPS:
        counts = {"count": len(texts), "most": _MOST_STOPS}
        raise PydanticCustomError("stop", "it holds {count} texts, at most {most} are taken", counts)
    if "" in texts:
        raise PydanticCustomError("stop", "it holds an empty text")
    return texts


def _context(value: Any) -> str:
    try:
        return context_of("it", value)
    except BadDataError as error:
        raise PydanticCustomError("context", "{problem}", {"problem": str(error)}) from error


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions, as far as it is supported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    context: Annotated[str, BeforeValidator(_context)] = ""
    """What the agent is given besides the dialogue, as in a log: a text, a JSON object or list."""
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=HOTTEST)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """As in `models.decoding.Sampling`: before temperature."""
    stop: Annotated[list[str], BeforeValidator(_texts)] = []
    """Texts that end a response."""
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # A gateway's.
    return_record: bool = False
    """Whether the answer says what a log would, in `records`: a line for each choice."""
    persona_instructions: Annotated[str, Field(max_length=4096)] = ""
    """Put behind the system prompt, before the context; no part of the record."""
    # They change no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    request_id: str | None = None

    def sampling(self, max_new_tokens: int, max_samples: int) -> ResponseSampling:
        """How to sample, within the engine's bounds. Raises RequestError if the request asks for more samples."""
        tokens = min(self.max_completion_tokens or self.max_tokens or max_new_tokens, max_new_tokens)
        samples = self.n or 1
        if samples > max_samples:
            raise RequestError(400, f"n is {samples}, this server makes at most {max_samples} choices at once", "n")
        seed = secrets.randbelow(_SEEDS) if self.seed is None else self.seed % _SEEDS
        temperature = 1.0 if self.temperature is None else self.temperature
        temperature = temperature if temperature >= _COLDEST else 0.0
        top_p = 1.0 if self.top_p is None else self.top_p
        return ResponseSampling(samples, tokens, temperature, top_p, seed, self.min_p or 0.0)


def _json_of(body: bytes) -> Any:
    """What a log can keep: no NaN and no half of a surrogate pair, also in fields that nobody knows."""
    value = json_of(body)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError(400, "the body holds half a surrogate pair: write valid Unicode") from error
    except RecursionError as error:
        raise RequestError(400, TOO_DEEP) from error
    return value


def parse(body: bytes) -> ChatRequest:
    """The request in a body. Raises RequestError that names the field."""
    value = _json_of(body)
    if isinstance(value, dict):
        value = without_neutral(value)
        if isinstance(value.get("stream_options"), dict):
            value["stream_options"] = without_neutral(value["stream_options"], "stream_options.")
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        where, problem = wrong.problems(error)[0]
        problem = "is not supported by this server" if problem == wrong.UNKNOWN else problem
        raise RequestError(400, f"{where or 'the body'} {problem}", where.split(".")[0] or None) from error
    return request


def state_of(
    messages: list[dict[str, Any]], system_prompt: str, context: str = "", reads: Collection[str] = KINDS
) -> State:
    """The conversation so far and the newest customer message, read as the lines of a chat log are.

    Args:
        messages: of the request. An assistant message may also say, as in a log, what was suggested and what became
            of it (`suggestion`, `reaction`). One that says nothing, as clients keep an abstention, is left out: the
            customer speaks on. So is a call of a tool; what the tool returned counts.
        system_prompt: what the policy was trained with. It stands in every prompt by itself.
        context: of the request, as text. System messages at the beginning are one, too.
        reads: of `data.context.KINDS`, those that the policy has learnt to read; others are refused.

    Raises:
        RequestError: 400, which names the message and the remedy.
    """
    plain = [_plain(number, message) for number, message in enumerate(messages)]
    for number, message in enumerate(plain):
        _check_role(number, message, system_prompt, reads)
    if context and CONTEXT not in reads:
        raise RequestError(400, f"context: {_NEVER_READ}", "context")
    try:
        state = read_state({number: message for number, message in enumerate(plain) if not _is_unsent(message)})
    except BadDataError as error:
        raise RequestError(400, str(error), "messages") from error
    try:
        whole = context_of("context", "\n\n".join(text for text in (state.context, context) if text))
    except BadDataError as error:
        raise RequestError(400, str(error), "context") from error
    return state._replace(context=beside(whole, system_prompt))


_NEVER_READ = (
    "the policy has learnt from no conversation that had one, so an answer would be a guess. Leave it out; to teach "
    "it, train on a log or simulator with contexts"
)


def _check_role(number: int, message: dict[str, Any], system_prompt: str, reads: Collection[str]) -> None:
    """Raises RequestError for what the policy cannot read."""
    role, content = message.get("role"), message.get("content")
    if role in _SYSTEM and CONTEXT not in reads and content != system_prompt:
        raise RequestError(
            400,
            f"messages[{number}] is a system message that the policy was not trained with. Leave it out: the "
            "policy's own system prompt is added by the server",
            "messages",
        )
    if TOOLS not in reads and (role in _TOOLS or _calls(message)):
        what = " calls a tool" if _calls(message) else ".role is a tool's"
        raise RequestError(400, f"messages[{number}]{what}; this policy has learnt from none. Leave it out", "messages")


def _calls(message: dict[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _is_unsent(message: dict[str, Any]) -> bool:
    """Whether it is what the business did not send: an abstention, or the call of a tool."""
    content = message.get("content")
    empty = content is None or (isinstance(content, str) and not content.strip())
    return message.get("role") in BUSINESS_ROLES and empty and not message.keys() & {"suggestion", "reaction"}


def _plain(number: int, message: dict[str, Any]) -> dict[str, Any]:
    """A message with its text as one string."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise RequestError(400, f"messages[{number}].content holds a part that is no text", "messages")
    return {**message, "content": "".join(map(str, parts))}
