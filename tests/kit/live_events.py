"""Live conversations of a small shop, as events that gateways log: in order, or as the world hands them on."""

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ippo_trainer.live.events import ACTIVE, CLOSE, COMPLAINT, OUTCOME, REACTION, SUGGESTION, UNANSWERED, VERSION, Event
from ippo_trainer.store.base import READ_LIMIT, ObjectExistsError, ObjectInfo, ObjectNotFoundError, Store
from ippo_trainer.store.segments import segment_key, segment_name

from tests.kit.chat import assistant, user

DIGESTS = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
BEGIN = 1_764_230_400.0
"""2025-11-27, 08:00 UTC."""
DAY = 86400.0


@dataclass
class Chat:
    """A conversation as an application holds it; makes its events."""

    name: str
    digest: str = DIGESTS[0]
    customer: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    suggestions: int = 0
    turn: int = 0

    def event(self, kind: str, time: float, **more: Any) -> Event:
        """An event of the conversation."""
        self.suggestions += 1
        head = {"version": VERSION, "kind": kind, "event_id": f"{self.name}/{self.suggestions}", "time": time}
        return {**head, "conversation_id": self.name, **more}

    def ask(self, text: str, suggestion: str | None, time: float, seconds: float = 0.5, **more: Any) -> Event:
        """The customer writes and gets a suggestion; `more` goes into the record, `persona` into the event."""
        self.messages = [*self.messages, user(text)]
        return self.again(suggestion, time, seconds, **more)

    def again(self, suggestion: str | None, time: float, seconds: float = 0.5, **more: Any) -> Event:
        """Another suggestion for the same message."""
        persona = more.pop("persona", "")
        record = {
            "version": 1,
            "id": f"chat-{self.name}-{self.suggestions}",
            "choice": 0,
            "conversation_id": self.name,
            "named": True,
            "customer_id": self.customer,
            "group": "",
            "turn": self.turn,
            "message": self.messages[-1]["content"],
            "messages": self.messages,
            "context": "",
            "suggestion": suggestion,
            "token_ids": [1, 2],
            "logprobs": [-0.5, -0.25],
            "finish_reason": "stop",
            "temperature": 1.0,
            "top_p": 1.0,
            "policy_digest": self.digest,
            "started_at": time - seconds,
            "time": time,
        } | more
        asked_for = {"arm": ACTIVE, "persona": persona, "suggestion": record, "seconds": seconds, "fallback": False}
        return self.event(SUGGESTION, time, **asked_for)

    def send(self, suggestion: Event, sent: str | None = None) -> None:
        """The business sends the suggestion, or another text; nobody reports it."""
        text = suggestion["suggestion"]["suggestion"] if sent is None else sent
        self.messages = [*self.messages, assistant(text or "")]
        self.turn += bool(text)

    def react(
        self, suggestion: Event, reaction: str, time: float, sent: str | None = None, by_turn: bool = False, **more: Any
    ) -> Event:
        """The business reports what it did with a suggestion, and sent if that was another text."""
        self.send(suggestion, sent)
        name = "" if by_turn else suggestion["suggestion"]["id"]
        turn = suggestion["suggestion"]["turn"]
        return self.event(
            REACTION,
            time,
            **{"turn": turn, "suggestion_id": name, "reaction": reaction, "sent": sent, "at": time} | more,
        )

    def close(self, time: float, outcome: bool | None = None, **more: Any) -> Event:
        """The conversation is closed."""
        return self.event(CLOSE, time, **{"outcome": outcome, "at": time} | more)

    def outcome(self, time: float, outcome: bool = True, **more: Any) -> Event:
        """The outcome came, or did not."""
        return self.event(OUTCOME, time, **{"customer_id": "", "outcome": outcome, "at": time} | more)

    def complain(self, time: float, **more: Any) -> Event:
        """The customer complained."""
        return self.event(COMPLAINT, time, **{"customer_id": "", "at": time} | more)

    def unanswered(self, time: float) -> Event:
        """A request that got no suggestion."""
        return self.event(UNANSWERED, time, arm=ACTIVE, status=503)


def of_customer(name: str, kind: str, customer: str, time: float, **more: Any) -> Event:
    """An outcome or complaint of a customer."""
    head = {"version": VERSION, "kind": kind, "event_id": name, "time": time, "conversation_id": ""}
    outcome = {"outcome": True} if kind == OUTCOME else {}
    return {**head, "customer_id": customer, "at": time, **outcome, **more}


def conversation(name: str, generator: random.Random, begin: float = BEGIN) -> list[Event]:
    """The events of one random conversation: of either policy, with everything that happens in one."""
    chat = Chat(name, generator.choice(DIGESTS), generator.choice(["", "u1", "u2", f"u-{name}"]))
    persona = generator.choice(["", "", "bold"])
    time, events = begin + generator.random() * 5 * DAY, []
    for turn in range(generator.randint(1, 4)):
        time += generator.choice([1, 60, 600, 3000]) * generator.random()
        if generator.random() < 0.1:
            events.append(chat.unanswered(time))
        if generator.random() < 0.05:
            chat.digest = generator.choice(DIGESTS)
        text = generator.choice(["yes", "no", "two", None])
        suggestion = chat.ask(f"message {turn}", text, time, round(generator.random(), 2), persona=persona)
        events.append(suggestion)
        if generator.random() < 0.2:
            suggestion = chat.again(generator.choice(["maybe", None]), time + 1)
            events.append(suggestion)
        if generator.random() < 0.3:
            chat.send(suggestion, generator.choice([None, "another"]))
        else:
            reaction = generator.choice(["accepted", "edited", "rejected"])
            sent = None if reaction == "accepted" else generator.choice(["another", "three"])
            late = generator.choice([2, 5, 50, 5000, 3 * DAY])
            wrong = generator.choice([0, 0, 0, -4000, 4000])
            more = {"by_turn": generator.random() < 0.3, "at": time + late + wrong}
            events.append(chat.react(suggestion, reaction, time + late, sent, **more))
    if generator.random() < 0.5:
        events.append(chat.close(time + generator.choice([-3, 1, 100]), generator.choice([None, None, True, False])))
    for _ in range(generator.choice([0, 0, 1, 2])):
        after = generator.choice([-1, 10, 3000, 2 * DAY, 8 * DAY])
        events.append(chat.outcome(time + after, generator.random() < 0.6, at=time + after - generator.choice([0, 50])))
    if generator.random() < 0.1:
        events.append(chat.complain(time + DAY))
    return events


def shop(seed: int, conversations: int, begin: float = BEGIN) -> list[Event]:
    """The events of random conversations and of their customers, in no order, some of them several times."""
    generator = random.Random(seed)
    events = [event for number in range(conversations) for event in conversation(f"c{number}", generator, begin)]
    for number in range(conversations // 4):
        time, kind = begin + generator.random() * 9 * DAY, generator.choice([OUTCOME, OUTCOME, COMPLAINT])
        events.append(of_customer(f"crm/{number}", kind, generator.choice(["u1", "u2", "nobody"]), time))
    events += generator.sample(events, len(events) // 5)
    generator.shuffle(events)
    return events


def put_segment(store: Store, events: Iterable[Event], number: int = 1, time: float = BEGIN) -> str:
    """Puts events into a store as one segment of the folder of live logs; its key."""
    key = segment_key(segment_name("abcdef", number, datetime.fromtimestamp(time, UTC)))
    body = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode()
    store.put(key, gzip.compress(body, mtime=0), if_absent=True)
    return key


def put_all(store: Store, events: Sequence[Event], size: int = 20) -> None:
    """Puts events into segments of so many each."""
    for number, start in enumerate(range(0, len(events), size), 1):
        put_segment(store, events[start : start + size], number)


class MemoryStore:
    """A store in memory, for tests that put much."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, source: Path | bytes, *, if_absent: bool = False) -> None:
        if if_absent and key in self.objects:
            raise ObjectExistsError(f"{key} exists already")
        self.objects[key] = source if isinstance(source, bytes) else source.read_bytes()

    def read(self, key: str, limit: int = READ_LIMIT) -> bytes:
        if key not in self.objects:
            raise ObjectNotFoundError(f"{key} does not exist")
        return self.objects[key]

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.read(key))

    def info(self, key: str) -> ObjectInfo | None:
        return ObjectInfo(key, len(self.objects[key])) if key in self.objects else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = f"{prefix}/" if prefix else ""
        return iter([ObjectInfo(key, len(body)) for key, body in self.objects.items() if key.startswith(folder)])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def describe(self, key: str) -> str:
        return f"memory:{key}"
