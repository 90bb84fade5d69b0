"""What is taken out of events before they are written."""

import json
import random
import re
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.live.journal import Journal
from ippo_trainer.live.redaction import PATTERNS, pseudonym, redaction

from tests.kit.chat import assistant, user
from tests.kit.live_events import BEGIN, Chat, of_customer

ALL = redaction(tuple(PATTERNS))


def text_of(text: str) -> str:
    return ALL(Chat("c").ask(text, "ok", BEGIN))["suggestion"]["message"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail ana@shop.example now", "mail [email] now"),
        ("Ana+tea@a.b.example, bob_1@c.example", "[email], [email]"),
        ("größe@bücher.example", "[email]"),
        ("call +49 30 1234567!", "call [phone]!"),
        ("call 0171-123 45 67 or (030) 123456-78", "call [phone] or [phone]"),
        ("00 44 20 7946 0958", "[phone]"),
        ("card 4111 1111 1111 1111 cvc 123", "card [card number] cvc 123"),
        ("4111111111111111", "[card number]"),
        ("4111-1111-1111-1111 123", "[card number] 123"),
        ("3782 822463 10005", "[card number]"),
        ("on 2026-11-27 at 10:30 for 4.50 or 1200", "on 2026-11-27 at 10:30 for 4.50 or 1200"),
        ("ten @ five, a@ b", "ten @ five, a@ b"),
        ("order 12345678", "order 12345678"),
    ],
)
def test_patterns(text, left):
    assert text_of(text) == left


def test_all_texts_of_an_event(tmp_path):
    """And nothing else: what is written down holds no address, whichever field it stood in."""
    secret = "ana@shop.example"
    tool = {"role": "tool", "content": {"mail": [secret, 491701234567], "n": 3}}
    chat = Chat(secret, customer=secret)
    chat.messages = [user(f"I am {secret}"), assistant(f"hi {secret}", suggestion=secret, reaction="edited"), tool]
    first = chat.ask(f"{secret}?", f"yes {secret}", BEGIN, context=f"mail: {secret}", group=secret, id="chat-1")
    events = [first, chat.react(first, "edited", BEGIN + 1, f"no {secret}")]
    events += [chat.outcome(BEGIN + 2), of_customer("crm/1", "outcome", secret, BEGIN + 3)]
    before = json.dumps(events)
    journal = Journal(tmp_path, redact=ALL)
    for event in events:
        journal.append(event | {"event_id": str(id(event))}).result(60)
    journal.close()
    written = next(tmp_path.glob("*.journal")).read_text()
    journal.release()
    assert secret not in written
    assert "491701234567" not in written
    assert json.dumps(events) == before
    lines = [json.loads(line[9:]) for line in written.splitlines()]
    assert {line["conversation_id"] for line in lines} == {pseudonym(secret), ""}
    record = lines[0]["suggestion"]
    assert {record["conversation_id"], record["customer_id"], lines[3]["customer_id"]} == {pseudonym(secret)}
    assert record["messages"][2] == {"role": "tool", "content": {"mail": ["[email]", "[phone]"], "n": 3}}


def test_a_suggestion_that_changed_has_no_tokens():
    """They would spell it."""
    for text, kept in (("yes", True), ("mail a@b.example", False), (None, True)):
        record = ALL(Chat("c").ask("hello", text, BEGIN))["suggestion"]
        assert (record["token_ids"] is not None, record["logprobs"] is not None) == (kept, kept)


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "shop_redaction.py").write_text(
        "def names(text):\n    return text.replace('Ana', '')\ndef broken(text):\n    return 1\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = redaction(["shop_redaction:names", "Email"])
    record = own(Chat("c").ask("Ana", "hi Ana a@b.example", BEGIN))["suggestion"]
    assert (record["message"], record["suggestion"]) == ("[redacted]", "hi  [email]")
    broken = Journal(tmp_path / "journal", redact=redaction(["shop_redaction:broken"]))
    with pytest.raises(BadDataError, match="cannot be written"):
        broken.append(Chat("c").ask("Ana", "hi", BEGIN)).result(60)
    broken.close()
    assert not list((tmp_path / "journal").glob("*.journal"))
    broken.release()
    for name in ("Emails", "nowhere:hook", "shop_redaction:nothing", "shop_redaction:number", "shop_redaction"):
        with pytest.raises(BadSpecError, match=re.escape(name)):
            redaction([name])


def test_without_hooks_an_event_is_as_it_was():
    event: dict[str, Any] = Chat("a@b.example").ask("a@b.example", "x", BEGIN)
    assert redaction([])(event) is event


def test_random_texts_keep_what_is_no_number_or_address():
    generator = random.Random(1)
    for _ in range(300):
        words = ["".join(generator.choices("abc ,.!", k=8)) for _ in range(4)]
        text = " ".join(words)
        assert text_of(text) in (text, "[redacted]")


def test_cards_are_those_of_luhns_check():
    """Against a slow one."""
    generator = random.Random(2)
    for _ in range(2000):
        digits = "".join(generator.choices("0123456789", k=generator.randint(11, 21)))
        total = sum(int(d) if n % 2 == 0 else sum(map(int, str(2 * int(d)))) for n, d in enumerate(reversed(digits)))
        card = 13 <= len(digits) <= 19 and total % 10 == 0
        assert PATTERNS["CardNumber"](digits) == ("[card number]" if card else digits)
