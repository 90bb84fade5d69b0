"""What servers logged, made a chat log of: retries, regenerations, reactions and outcomes."""

import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.outcomes import Outcomes, joined
from ippo_trainer.data.reaction_file import Reactions
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.server_log import segments_in, write_served

from tests.kit.chat import assistant, user
from tests.kit.live_events import DIGESTS


def record(identifier: str, messages: list[dict[str, Any]], suggestion: str | None, **more: Any) -> dict[str, Any]:
    """As a server writes it."""
    turn = sum(message["role"] == "assistant" and bool(message["content"]) for message in messages)
    fields = {
        "version": 1,
        "id": identifier,
        "choice": 0,
        "conversation_id": "c",
        "named": True,
        "customer_id": "",
        "group": "",
        "turn": turn,
        "message": messages[-1]["content"],
        "messages": messages,
        "suggestion": suggestion,
        "token_ids": [1, 2],
        "logprobs": [-0.5, -0.25],
        "finish_reason": "stop",
        "temperature": 1.0,
        "top_p": 1.0,
        "policy_digest": DIGESTS[0],
        "started_at": 100.0 * (1 + turn),
        "time": 100.0 * (1 + turn) + 1,
    }
    return fields | more


def write(folder: Path, *segments: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, lines in enumerate(segments, 1):
        path = folder / f"20261127T080000Z-abcdef-{number:06d}.jsonl.gz"
        path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return folder


def read(folder: Path, rows: list[dict[str, Any]] | None = None) -> tuple[list[Conversation], Counter[str]]:
    """The conversations, with what a file of reactions and outcomes says of them."""
    target, reactions, outcomes = folder / "log.jsonl", None, None
    if rows is not None:
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reactions = Reactions(path) if any("reaction" in row for row in rows) else None
        outcomes = Outcomes(path) if any("outcome" in row for row in rows) else None
    left_out = write_served(segments_in(folder), target, folder / "parts", reactions)
    reader = LogReader(target)
    conversations = list(joined(reader, outcomes))
    reader.problems.check()
    return conversations, left_out


def test_a_conversation_tells_what_became_of_its_suggestions(tmp_path: Path) -> None:
    one, two, three = user("tea?"), user("how much?"), user("thanks")
    folder = write(
        tmp_path / "log",
        [record("r1", [one], "we have tea"), record("r2", [one, assistant("we have tea"), two], "ten")],
        [
            record(
                "r3",
                [one, assistant("we have tea"), two, assistant("twelve", suggestion="ten", reaction="rejected"), three],
                "bye",
            )
        ],
    )
    [conversation], left_out = read(folder)
    assert not left_out
    assert conversation.censored
    turns = [(t.customer_message, t.suggestion, t.reaction, t.sent_message) for t in conversation.turns]
    assert turns == [
        ("tea?", "we have tea", "accepted", "we have tea"),
        ("how much?", "ten", "rejected", "twelve"),
        ("thanks", "bye", "accepted", "bye"),
    ]
    for turn in conversation.turns:
        assert (turn.behaviour, turn.policy_digest, turn.writer) == ("policy", DIGESTS[0], "")
        assert (turn.token_ids, turn.sampler_logprobs) == ([1, 2], [-0.5, -0.25])
    assert [turn.started_at for turn in conversation.turns] == [100.0, 200.0, 300.0]


def test_reactions_and_outcomes_of_one_file(tmp_path: Path) -> None:
    one, two = user("tea?"), user("how much?")
    lines = [record("r1", [one], "we have tea"), record("r2", [one, assistant("no"), two], "ten")]
    rows: list[dict[str, Any]] = [
        {"id": "r1", "reaction": "rejected", "sent": "no"},
        {"conversation_id": "c", "turn": 1, "reaction": "edited", "sent": "eleven", "time": 999},
        {"conversation_id": "c", "outcome": True},
    ]
    [conversation], _ = read(write(tmp_path / "log", lines), rows)
    assert [(t.reaction, t.sent_message) for t in conversation.turns] == [("rejected", "no"), ("edited", "eleven")]
    assert (conversation.outcome, conversation.censored, conversation.turns[1].ended_at) == (True, False, 999.0)


def test_a_suggestion_that_was_never_displayed_or_sent(tmp_path: Path) -> None:
    rows = [{"id": "r1", "reaction": "rejected", "displayed": False}]
    [conversation], _ = read(write(tmp_path / "log", [record("r1", [user("tea?")], "we have tea")]), rows)
    [turn] = conversation.turns
    assert (turn.displayed, turn.sent_message, turn.suggestion) == (False, "", "we have tea")


def test_abstentions(tmp_path: Path) -> None:
    """One after which the business wrote, one after which the customer spoke on, and one at the end."""
    one, two, three = user("tea?"), user("hm"), user("well?")
    lines = [
        record("r1", [one], None),
        record("r2", [one, assistant("we have"), two], None),
        record("r3", [one, assistant("we have"), two, assistant(""), three], None, turn=1, message="hm\nwell?"),
    ]
    [conversation], left_out = read(write(tmp_path / "log", lines))
    assert [(t.customer_message, t.suggestion, t.reaction, t.sent_message) for t in conversation.turns] == [
        ("tea?", None, "rejected", "we have"),
        ("hm\nwell?", None, "rejected", ""),
    ]
    assert {turn.behaviour for turn in conversation.turns} == {"policy"}
    assert left_out == {"suggestions that were made again": 1}


def test_the_suggestion_that_was_sent_counts_among_several(tmp_path: Path) -> None:
    one, two = user("tea?"), user("how much?")
    lines = [record(f"r{n}", [one], text, choice=n % 2, time=101.0 + n) for n, text in enumerate(("a", "b", "c"))]
    conversation = [*lines, record("r9", [one, assistant("b"), two], "ten")]
    [found], left_out = read(write(tmp_path / "log", conversation))
    assert [turn.suggestion for turn in found.turns] == ["b", "ten"]
    assert left_out == {"suggestions that were made again": 2}
    [found], _ = read(
        write(tmp_path / "rows", conversation), [{"id": "r0", "choice": 0, "reaction": "edited", "sent": "b"}]
    )
    assert [(turn.suggestion, turn.reaction) for turn in found.turns] == [("a", "edited"), ("ten", "accepted")]
    [found], _ = read(write(tmp_path / "open", lines))
    assert [turn.suggestion for turn in found.turns] == ["c"]  # the latest


def test_turns_of_others_are_theirs(tmp_path: Path) -> None:
    """A suggestion that no server logged was somebody else's, and another policy's has that one's digest."""
    one, two, three = user("tea?"), user("how much?"), user("and now?")
    lines = [
        record("r2", [one, assistant("hello"), two], "ten", policy_digest=DIGESTS[1]),
        record("r3", [one, assistant("hello"), two, assistant("ten"), three], "eleven"),
    ]
    [conversation], _ = read(write(tmp_path / "log", lines))
    assert [turn.behaviour for turn in conversation.turns] == ["log", "policy", "policy"]
    assert [turn.policy_digest for turn in conversation.turns] == ["", DIGESTS[1], DIGESTS[0]]
    assert conversation.turns[0].writer == "people"


def test_requests_without_a_name_are_not_counted_twice(tmp_path: Path) -> None:
    one = user("tea?")
    lines = [
        record("r1", [one], "a", named=False, conversation_id="made-1"),
        record("r2", [one, assistant("a"), one], "b", named=False, conversation_id="made-2"),
    ]
    found, left_out = read(write(tmp_path / "log", lines))
    assert [conversation.id for conversation in found] == ["made-1"]
    assert sum(left_out.values()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_log_depends_on_lines_alone(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on how segments divide them, how often they come, in which order, or how many parts they are grouped in."""
    lines = []
    for number in range(20):
        messages: list[dict[str, Any]] = []
        for turn in range(1 + number % 4):
            messages = [*messages, user(f"message {turn}")]
            named = {"conversation_id": f"c{number}", "customer_id": f"u{number % 3}"}
            lines.append(record(f"r{number}-{turn}", messages, f"text {turn}", **named))
            messages = [*messages, assistant(f"text {turn}")]
    read(write(tmp_path / "once", lines))
    generator = random.Random(seed)
    again = [*lines, *generator.sample(lines, 15)]
    generator.shuffle(again)
    monkeypatch.setattr("ippo_trainer.data.server_log._PART_BYTES", 200)
    found, left_out = read(write(tmp_path / "again", again[:20], again[20:30], again[30:]))
    assert (tmp_path / "again/log.jsonl").read_text().count("\n") == 20
    assert left_out == {"suggestions that were logged twice": 15}
    once = sorted((tmp_path / "once/log.jsonl").read_text().splitlines())
    assert sorted((tmp_path / "again/log.jsonl").read_text().splitlines()) == once
    assert sum(len(conversation.turns) for conversation in found) == len(lines)


@pytest.mark.parametrize("suggestion", [None, "", " "])
def test_a_conversation_may_end_with_nothing(tmp_path: Path, suggestion: str | None) -> None:
    """An untrained policy suggests empty texts."""
    [conversation], _ = read(write(tmp_path / "log", [record("r1", [user("tea?")], suggestion)]))
    [turn] = conversation.turns
    assert (turn.suggestion, turn.sent_message.strip()) == (suggestion, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no gzip", "its beginning is not what a server"),
        (gzip.compress(b'{"version": 1}\n', mtime=0), "line 1 is not what a server"),
        (gzip.compress(json.dumps(record("r", [user("a")], "b") | {"version": 2}).encode(), mtime=0), "version 2"),
        (gzip.compress(json.dumps(record("r", [user("a")], "b")).encode(), mtime=0)[:-9], "is not what a server"),
    ],
)
def test_a_damaged_segment_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    folder = write(tmp_path / "log", [record("r1", [user("tea?")], "a")])
    (folder / "20261127T080000Z-abcdef-000002.jsonl.gz").write_bytes(content)
    with pytest.raises(BadDataError, match=words) as caught:
        read(folder)
    assert "000002.jsonl.gz" in str(caught.value)


def test_a_folder_without_segments(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl.gz").write_bytes(b"")
    with pytest.raises(BadDataError, match="no segments"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "r1", "reaction": "liked"}], "reaction is"),
        ([{"id": "r1", "reactoin": "edited"}], "Rename it to reaction"),
        ([{"reaction": "edited"}], "names no suggestion"),
        ([{"id": "r1", "reaction": "edited", "sent": 3}], "sent is 3"),
        (
            [{"id": "r1", "reaction": "edited"}, {"id": "r1", "reaction": "rejected"}],
            "lines 1 and 2: suggestion 'r1' is edited, then rejected",
        ),
        ([{"id": "nobody", "reaction": "edited"}], "no suggestion of the log is in rows.jsonl"),
        ([{"conversation_id": "c", "turn": 0}], "neither a reaction nor an outcome"),
        ([{"conversation_id": "c", "turn": -1, "reaction": "edited"}], "names no suggestion"),
        ([{"id": "r1", "reaction": "edited", "time": "yesterday"}], 'time is "yesterday".*ISO 8601'),
        (
            [{"id": "r1", "reaction": "edited", "displayed": False}, {"id": "r1", "reaction": "edited"}],
            "lines 1 and 2.* edited twice",
        ),
    ],
)
def test_reactions_that_are_wrong(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    folder = write(tmp_path / "log", [record("r1", [user("tea?")], "a")])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def join() -> None:
        reactions = Reactions(folder / "rows.jsonl")
        write_served(segments_in(folder), folder / "log.jsonl", folder / "parts", reactions)
        reactions.check()

    with pytest.raises(BadDataError, match=words):
        join()


def test_contexts_and_messages_of_tools_come_back(tmp_path: Path) -> None:
    tool, call = {"role": "tool", "content": {"stock": 3}}, {**assistant(""), "tool_calls": [{"id": "1"}]}
    given: dict[str, Any] = {"context": "name: Ana"}
    first = [{"role": "system", "content": "name: Ana"}, tool, user("tea?")]
    second = [*first, assistant("yes"), user("how much?"), call, tool, {"role": "tool", "content": "4.50"}]
    lines = [record("a", first, "yes", **given), record("b", second, "it costs 4.50", message="how much?", **given)]
    [conversation], _ = read(write(tmp_path / "log", lines))
    assert conversation.context == "name: Ana"
    assert [turn.tool_messages for turn in conversation.turns] == [("stock: 3",), ("stock: 3", "4.50")]
    assert [turn.suggestion for turn in conversation.turns] == ["yes", "it costs 4.50"]
    assert all(turn.policy_digest == DIGESTS[0] for turn in conversation.turns)
    [without], _ = read(write(tmp_path / "old", [record("a", [user("tea?")], "yes")]))
    assert (without.context, without.turns[0].tool_messages) == ("", ())


STRANGE = [None, [], {"a": 1}, "x", "", "\ud800", -1, 1.5, True, math.nan, 10**400]


@pytest.mark.parametrize("field", [*record("r", [user("a")], "b"), "context"])
def test_whatever_a_line_holds_it_is_read_or_its_segment_is_named(tmp_path: Path, field: str) -> None:
    lines = [record("r1", [user("tea?")], "a") | {field: value} for value in STRANGE]
    lines.append({name: value for name, value in record("r1", [user("tea?")], "a").items() if name != field})
    for number, line in enumerate(lines):
        folder = write(tmp_path / str(number), [record("r0", [user("tea?")], "a"), line])
        refusal = BadDataError("000001.jsonl.gz can be read", "Read it.")
        try:
            read(folder)
        except BadDataError as error:
            refusal = error
        places = ("000001.jsonl.gz", "log.jsonl, line", "of conversation 'c'")
        assert refusal.remedy
        assert any(place in refusal.message for place in places)


@pytest.mark.parametrize("messages", [["hi"], [{"role": "bot"}], [assistant("a")], [{"role": "user", "content": [3]}]])
def test_messages_that_no_server_answers_name_the_conversation_or_the_segment(
    tmp_path: Path, messages: list[Any]
) -> None:
    with pytest.raises(BadDataError, match=r"conversation 'c'|000001.jsonl.gz"):
        read(write(tmp_path / "log", [record("r1", [user("tea?")], "a") | {"messages": messages}]))


@pytest.mark.parametrize("nothing", ["", [], [{"type": "text", "text": " "}]])
def test_an_abstention_in_the_history_however_a_client_writes_nothing(tmp_path: Path, nothing: Any) -> None:
    history = [user("tea?"), {"role": "assistant", "content": nothing}, user("hello?")]
    lines = [record("r1", [user("tea?")], None), record("r2", history, "yes", turn=0, message="tea?\nhello?")]
    [conversation], _ = read(write(tmp_path / "log", lines))
    assert [(turn.customer_message, turn.suggestion) for turn in conversation.turns] == [("tea?\nhello?", "yes")]


def test_reactions_to_nothing_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", [record("r1", [user("tea?")], "a")])
    rows = [{"id": "r1", "reaction": "accepted"}, {"conversation_id": "c", "turn": 0, "reaction": "accepted"}]
    for others in (0, 3):
        extra = [{"id": f"other{number}", "reaction": "edited"} for number in range(others)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + extra))
        reactions = Reactions(folder / "rows.jsonl")
        write_served(segments_in(folder), folder / "log.jsonl", folder / "parts", reactions)
        assert reactions.check() == others
