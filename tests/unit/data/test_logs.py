"""A stranger's chat log: what is understood, what is left out, and what is refused where."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.logs import read_log
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.turns import write_turns


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    """One line: messages as (role, content) or whole."""
    whole = [m if isinstance(m, dict) else {"role": m[0], "content": m[1]} for m in messages]
    return {"conversation_id": "c", "messages": whole, "outcome": False, **fields}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def pairs(conversation: Conversation) -> list[tuple[str, str | None, str, str]]:
    return [(t.customer_message, t.suggestion, t.reaction, t.sent_message) for t in conversation.turns]


@pytest.mark.parametrize(
    ("customer", "business"), [("user", "assistant"), ("customer", "agent"), ("customer", "business")]
)
def test_roles_by_either_name(customer: str, business: str, tmp_path: Path) -> None:
    line = chat((customer, "hi"), (business, "hello"), (customer, "buy"), (business, "done"), outcome=True)
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    assert pairs(conversation) == [("hi", "hello", "accepted", "hello"), ("buy", "done", "accepted", "done")]
    assert (conversation.id, conversation.outcome, conversation.censored) == ("c", True, False)
    assert {turn.behaviour for turn in conversation.turns} == {"log"}


def test_gzip_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    line = json.dumps(chat(("user", "grüezi 👋"), ("agent", "hoi"), conversation_id=17))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(f"\ufeff{line}\n\n\r\n".encode()))
    [conversation] = read_log(tmp_path / "a.jsonl.gz")
    assert (conversation.id, conversation.turns[0].customer_message) == ("17", "grüezi 👋")


def test_consecutive_messages_of_one_side_are_one(tmp_path: Path) -> None:
    line = chat(("user", "hi"), ("user", "anyone?"), ("agent", "yes"), ("agent", "how can I help?"))
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    assert pairs(conversation) == [("hi\nanyone?", "yes\nhow can I help?", "accepted", "yes\nhow can I help?")]


def test_what_nobody_could_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    warnings: list[str] = []
    greeting = chat(
        ("agent", "welcome"),
        ("user", "hi"),
        ("system", "be kind"),
        ("agent", "yes?"),
        ("tool", "3"),
        ("user", "bye"),
        ("tool", "4"),
    )
    greeting["messages"].append({"role": "system", "content": "be kinder"})
    log = write(tmp_path / "a.jsonl", greeting, chat(("user", "hello?"), conversation_id="d"))
    [conversation] = read_log(log, warnings.append)
    assert pairs(conversation) == [("hi", "yes?", "accepted", "yes?")]
    assert sorted(warnings) == [
        "a.jsonl: left out 1 conversations without a reply (first: line 2)",
        "a.jsonl: left out 1 greetings before the first customer message (first: line 1)",
        "a.jsonl: left out 2 customer messages that nobody answered (first: line 1)",
        "a.jsonl: left out 2 system messages in the midst of a conversation (first: line 1)",
    ]


def test_suggestions_and_reactions(tmp_path: Path) -> None:
    def reply(content: str, **fields: Any) -> dict[str, Any]:
        return {"role": "agent", "content": content, **fields}

    line = chat(
        ("user", "1"),
        reply("a", suggestion="b", reaction="edited"),
        ("user", "2"),
        reply("c", suggestion=None),
        ("user", "3"),
        reply("d", suggestion="e", reaction="rejected"),
        reply("f", suggestion="f"),
        ("user", "4"),
        reply("g", suggestion=None),
        reply("h", suggestion=None, reaction=None),
        ("user", "5"),
        reply("i", suggestion="i", reaction=None),
    )
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    assert pairs(conversation) == [
        ("1", "b", "edited", "a"),
        ("2", None, "rejected", "c"),
        ("3", "e\nf", "edited", "d\nf"),
        ("4", None, "rejected", "g\nh"),
        ("5", "i", "accepted", "i"),
    ]


@pytest.mark.parametrize("fields", [{"outcome": None}, {"outcome": ...}])
def test_without_an_outcome_a_conversation_is_open(fields: dict[str, Any], tmp_path: Path) -> None:
    line = (
        chat(("user", "hi"), ("agent", "yes"), **fields)
        if fields["outcome"] is None
        else chat(("user", "hi"), ("agent", "y"))
    )
    if fields["outcome"] is ...:
        del line["outcome"]
    [conversation] = read_log(write(tmp_path / "a.jsonl", line))
    assert (conversation.censored, conversation.outcome) == (True, False)


GOOD = chat(("user", "hi"), ("agent", "yes"), conversation_id="good")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not JSON"),
        ("[1]", r"line 2 is no JSON object"),
        ('{"conversation_id": "c", "messages": [], "outcome": NaN}', r"line 2 holds NaN.*null"),
        (
            chat(("user", "x"), conversation_id="good"),
            r"lines 1 and 2: conversation_id 'good' comes a second time with other messages.* an id of its own",
        ),
        (
            GOOD | {"outcome": True},
            r"lines 1 and 2: conversation_id 'good' comes a second time, word for word, but with outcome false, then",
        ),
        (
            chat(("user", "x"), conversation_id="good", outcome=None),
            r"lines 1 and 2: .* with other messages and outcome false, then null. Give",
        ),
        (GOOD, r"lines 1 and 2: conversation_id 'good' comes a second time, word for word. Leave one of them out"),
        (chat(("user", "x"), conversation_id=[]), r"line 2: conversation_id is \[\].*or leave the field out"),
        (chat(("user", "x"), outcome=1), r"line 2: outcome is 1.*true, false, or null"),
        (chat(messages="hi"), r"line 2: messages is a text, and no list. Write them"),
        (chat(messages=["hi"]), r"line 2: messages\[0\] is a text and no message"),
        (chat(("robot", "x")), r'line 2: messages\[0\].role is "robot".*user, customer, assistant, agent, business'),
        (chat(("user", "x"), ("agent", "")), r"line 2: messages\[1\].content is empty"),
        (chat(("user", " \t")), r"line 2: messages\[0\].content is empty"),
        (chat(("user", None)), r"line 2: messages\[0\].content is missing.*text"),
        (chat(("user", 5)), r"line 2: messages\[0\].content is 5"),
        (chat(("user", "\ud800")), r"line 2: messages\[0\].content holds half a surrogate"),
        (chat(messages=3), r"line 2: messages is 3, and no list"),
        (chat({"role": "agent", "content": "a", "suggestion": "b"}), r"line 2: messages\[0\].reaction is missing"),
        (chat({"role": "agent", "content": "a", "reaction": "liked"}), r'line 2: messages\[0\].reaction is "liked"'),
        (chat({"role": "agent", "content": "a", "suggestion": 1}), r"line 2: messages\[0\].suggestion is 1"),
        (
            chat({"role": "agent", "content": "a", "suggestion": None, "reaction": "edited"}),
            r"line 2: messages\[0\].reaction .* without a suggestion",
        ),
    ],
)
def test_errors_name_file_line_and_remedy(line: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", GOOD, line)
    with pytest.raises(BadDataError, match=message) as caught:
        read_log(path)
    assert "bad.jsonl" in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_files_that_are_no_logs(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"no log .*absent.jsonl.*warmStart.conversations"):
        read_log(tmp_path / "absent.jsonl")
    (tmp_path / "log.csv").write_text("a,b\n")
    with pytest.raises(BadDataError, match=r"log.csv is no log.*\.jsonl"):
        read_log(tmp_path / "log.csv")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadDataError, match=r"no conversations.*empty.jsonl"):
        read_log(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"conversation_id": "\xe9"}\n')
    with pytest.raises(BadDataError, match=r"latin.jsonl, line 1 is not UTF-8"):
        read_log(tmp_path / "latin.jsonl")
    body = gzip.compress("\n".join(json.dumps(chat(("user", f"{i}"), conversation_id=i)) for i in range(999)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(body[: len(body) // 2])
    with pytest.raises(BadDataError, match=r"cut.jsonl.gz, line .* the file is damaged"):
        read_log(tmp_path / "cut.jsonl.gz")
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    with pytest.raises(BadDataError, match=r"plain.jsonl.gz is no gzip archive"):
        read_log(tmp_path / "plain.jsonl.gz")


def test_turn_parquet_is_a_log_too(tmp_path: Path) -> None:
    conversations = [Conversation("a", [Turn("hi", "yes", "accepted", "yes", behaviour="log")], True)]
    write_turns(tmp_path / "log.parquet", conversations)
    assert read_log(tmp_path / "log.parquet") == conversations
    write_turns(tmp_path / "none.parquet", [])
    with pytest.raises(BadDataError, match=r"no conversations .* none.parquet"):
        read_log(tmp_path / "none.parquet")


def test_all_problems_come_in_one_bounded_answer_with_counts_and_first_lines(tmp_path: Path) -> None:
    robots = [chat(("robot", "x"), ("user", ""), conversation_id=f"r{n}") for n in range(50)]
    others = [chat(("user", n), outcome=f"o{n}", conversation_id=f"o{n}") for n in range(2000)]
    with pytest.raises(BadDataError) as caught:
        read_log(write(tmp_path / "bad.jsonl", GOOD, *robots, "{", *others))
    text = caught.value.message
    assert "bad.jsonl has 4101 problems" in text
    assert 'line 2: messages[0].role is "robot" (50 times; also line 3, 4, 5). Use one of' in text
    assert "line 2: messages[1].content is empty (50 times" in text
    assert "line 53: messages[0].content is 0 (2000 times; also line 54" in text
    assert len(text) < 2000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            {"role": "agent", "content": "a", "sugestion": "b"},
            r"unknown field messages\[1\].sugestion\. Rename .*suggestion",
        ),
        ({"role": "agent", "content": "a", "Suggestion": None}, r"messages\[1\].Suggestion.*suggestion"),
        ({"role": "agent", "content": "a", "reactions": "edited"}, r"messages\[1\].reactions.*reaction"),
    ],
)
def test_a_field_with_a_slip_of_the_pen_is_not_passed_over(line: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=words):
        read_log(write(tmp_path / "bad.jsonl", GOOD, chat(("user", "x"), line)))
    near = {**chat(("user", "x"), ("agent", "y")), "conversationId": 1, "outcom": True}
    del near["conversation_id"], near["outcome"]
    with pytest.raises(BadDataError, match=r"(?s)2 problems.*unknown field"):
        read_log(write(tmp_path / "bad.jsonl", GOOD, near))


def test_fields_of_other_tools_are_none_of_our_business(tmp_path: Path) -> None:
    line = {**chat({"role": "user", "content": "x", "name": "Ann", "time": 3}, ("agent", "y")), "metadata": {"id": 1}}
    assert len(read_log(write(tmp_path / "a.jsonl", line))) == 1


GOOD_LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps(GOOD).encode("utf-16"), "line 1 is not UTF-8 but looks like UTF-16"),
        (json.dumps(GOOD).encode("utf-16-le"), "looks like UTF-16"),
        (json.dumps(GOOD).encode("utf-32"), "looks like UTF-16 or UTF-32"),
        (GOOD_LINE + b"\n\xff\n{\n", r"2 problems.*line 2 is not UTF-8.*line 3 is not JSON"),
        (GOOD_LINE[:-1] + b', "outcome": false}', r'line 1 has the field "outcome" twice'),
        (b'{"conversation_id": "a", "messages": [{"role": "user", "role": "agent"}]}', r'the field "role" twice'),
        (b'{"conversation_id": ' + b"9" * 5000 + b"}", "line 1 holds a whole number of thousands of digits"),
        (b'{"conversation_id": "a", "outcome": 1e999, "messages": []}', "outcome is Infinity"),
        (b'{"conversation_id": "a", "outcome": Infinity, "messages": []}', "line 1 holds Infinity"),
        (b'{"conversation_id": "a", "outcome": -Infinity}', "line 1 holds -Infinity"),
        (b'{"a": ' + b"[" * 100_000, "line 1 is nested too deeply"),
        (b'{"conversation_id": "a", "messages": ' + b"[" * 900 + b"]" * 900 + b"}", r"messages\[0\] is"),
        (b'{"conversation_id": "\\ud800", "messages": []}', r'conversation_id is "\\ud800"'),
        (b'{"conversation_id": "a", "messages": [], "\\ud800utcome": true}', r"unknown field .*outcome"),
        (b'{"conversation_id": true, "messages": []}', "conversation_id is true"),
        (b'{"conversation_id": 1.5, "messages": []}', "conversation_id is 1.5"),
        (
            GOOD_LINE + b"\n" + GOOD_LINE + b"\n" + GOOD_LINE,
            r"2 problems.*conversation_id 'good' comes a second time, word for word \(2 times; also lines 1 and 3",
        ),
        (b'{"conversation_id": "a", "x": "' + b"x" * (17 << 20) + b'"}\n{', r"2 problems.*line 1 is longer.*line 2"),
    ],
)
def test_strange_json_lines(body: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(body)
    with pytest.raises(BadDataError, match=words) as caught:
        read_log(tmp_path / "bad.jsonl")
    assert len(str(caught.value)) < 2000
    str(caught.value).encode()


def test_a_byte_order_mark_and_line_ends_of_windows_are_fine(tmp_path: Path) -> None:
    other = chat(("user", "x"), ("agent", "y"), conversation_id=7)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD_LINE + b"\r\n\r\n" + json.dumps(other).encode() + b"\r\n")
    assert [found.id for found in read_log(tmp_path / "a.jsonl")] == ["good", "7"]


@pytest.mark.parametrize("logprob", [0.5, 1.0, -math.inf, -1e300, 1e-2])
def test_log_probabilities_that_are_none(logprob: float, tmp_path: Path) -> None:
    """Probabilities in their place, say; and what 32 bits do not hold would be a fault of a later stage."""
    reply = {"role": "agent", "content": "a", "token_ids": [1], "sampler_logprobs": [logprob]}
    line = json.dumps(chat(("user", "x"), reply)).replace("-Infinity", "-1e999")
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(BadDataError, match=r"sampler_logprobs is .*logarithms of probabilities"):
        read_log(tmp_path / "bad.jsonl")


def test_an_id_counts_where_conversation_id_is_null(tmp_path: Path) -> None:
    line = chat(("user", "x"), ("agent", "y")) | {"conversation_id": None, "id": "a"}
    with pytest.raises(BadDataError, match="'a' comes a second time"):
        read_log(write(tmp_path / "a.jsonl", line, line))
