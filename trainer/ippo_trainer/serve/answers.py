"""The JSON of answers, in OpenAI's shapes."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ippo_trainer.serve.text_stream import TextStream

DONE = b"data: [DONE]\n\n"
_LONE = re.compile("[\ud800-\udfff]")


def models(digest: str, name: str, created: int) -> list[dict[str, Any]]:
    """The entries of /v1/models: the policy by its digest, and the run's name for whatever it serves at present."""
    common = {"object": "model", "created": created, "owned_by": "ippo"}
    return [{"id": digest, **common}, {"id": name, **common, "root": digest, "parent": digest}]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts; end tokens count."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


class Head:
    """What all parts of one answer share.

    Args:
        identifier: of the answer.
        created: seconds since 1970 UTC.
        model: as the request names it.
        dropped_turns: oldest turns that did not fit into the prompt.
        place: its conversation and turn, where they are known.
    """

    def __init__(
        self, identifier: str, created: int, model: str, dropped_turns: int, place: Mapping[str, Any] | None = None
    ) -> None:
        self._id, self._created, self._model, self._dropped = identifier, created, model, dropped_turns
        self._place = dict(place or {})

    def whole(self, streams: list[TextStream], finishes: list[str], counts: dict[str, int]) -> dict[str, Any]:
        """A complete answer."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": stream.text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish,
                "abstained": stream.abstains,
            }
            for index, (stream, finish) in enumerate(zip(streams, finishes, strict=True))
        ]
        return self._object("chat.completion", choices) | {"usage": counts}

    def opening(self, index: int) -> bytes:
        """The first event of a choice."""
        return self._event(index, {"role": "assistant", "content": ""})

    def part(self, index: int, text: str) -> bytes:
        """More text of a choice."""
        return self._event(index, {"content": text})

    def end(self, index: int, finish: str, abstained: bool) -> bytes:
        """The last event of a choice."""
        return self._event(index, {}, {"finish_reason": finish, "abstained": abstained})

    def counts(self, counts: dict[str, int]) -> bytes:
        """The event with the token counts, which belongs to no choice."""
        return event(self._object("chat.completion.chunk", []) | {"usage": counts})

    def records(self, records: list[dict[str, Any]]) -> bytes:
        """The event with what a log would say, which belongs to no choice."""
        return event(self._object("chat.completion.chunk", []) | {"records": records})

    def _event(self, index: int, delta: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | (more or {})
        return event(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        common = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        rest = {"system_fingerprint": None, "choices": choices, "dropped_turns": self._dropped}
        return common | rest | self._place


def dumps(value: Any) -> str:
    """JSON that has UTF-8, short where it may be: half a surrogate pair, which clients may send, is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _LONE.search(text) is None else json.dumps(value)


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(value).encode() + b"\n\n"
