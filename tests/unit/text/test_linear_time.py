"""Whatever a stranger writes, reading it takes time in proportion to its length.

Every public function that reads others' text has a row in `READERS` or, where a tokenizer does most of the work, in
`TOKENIZERS`: add one for a new function. Each is given the texts of `NASTY` in two sizes. The work is CPU time of this
process, so that a busy machine changes little, and the bound lies far from both: eight times the length may cost 28
times as much, what is quadratic costs 64 times as much.
"""

import io
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ippo_operator.api.load import load_run
from ippo_operator.api.problems import ManifestError
from ippo_operator.cluster.remedies import with_remedy
from ippo_operator.local.watch import joined
from ippo_trainer.contract.errors import StageError
from ippo_trainer.contract.lines import cut, one_line, printable
from ippo_trainer.data.arrays import array_items
from ippo_trainer.data.logs import read_log
from ippo_trainer.data.messages import read_state
from ippo_trainer.data.problems import ProblemError, Problems
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.data.spelling import misspelt
from ippo_trainer.environments.checked import is_unicode, short
from ippo_trainer.environments.funnel.text import parse_customer, parse_intent
from ippo_trainer.http.errors import RequestError
from ippo_trainer.live.conversations import fold, without_texts
from ippo_trainer.live.redaction import PATTERNS
from ippo_trainer.live.standing import Rules
from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.report import words
from ippo_trainer.report.svg import shorten
from ippo_trainer.serve.requests import parse, state_of
from ippo_trainer.serve.text_stream import TextStream
from ippo_trainer.stages.output import error_message
from ippo_trainer.text.markers import escape, unescape
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

from tests.kit.live_events import BEGIN, Chat

from . import kinds_of_tokenizers as kinds
from . import tokenizers_for_tests as older

TIMES, RATIO = 8, 28
LONGEST, LONGEST_TOKENIZED = 1 << 18, 1 << 14
LEAST, ENOUGH = 1e-3, 4e-3
"""Seconds below which a measurement says nothing, and above which a shorter text says as much."""

NASTY = {
    "backslashes": "\\",
    "escaped markers": "\\\\[accepted]",
    "open brackets": "[",
    "half markers": "[accepted",
    "white space": " \t",
    "line breaks": "\n",
    "special tokens": "<|im_end|></s>",
    "half a special token": "<|im_",
    "a word without an end": "ab",
    "urls": "://a",
    "user names": "://a:b@",
    "quotes": "serviceaccount \"a' ",
    "progress": "INFO a: ",
    "accents": "\u0301",
    "emoji": "👋🏽",
    "digits": "1",
    "groups of digits": "1 ",
    "phone numbers": "+1.(2",
    "card numbers": "4111 1111 1111 1111 ",
    "half an address": "a.b@",
}

MANIFEST = (
    "apiVersion: ippo.dev/v1alpha1\nkind: IterativePPORun\nmetadata: {{name: a}}\n"
    "spec: {{policy: {{base: {0}}}, {0}: {0}}}\n"
)


@cache
def renderer(kind: str) -> Renderer:
    tokenizer = older.tiny() if kind == "tiny" else kinds.tokenizer(kind, "chatml")
    return Renderer(tokenizer, "", 10**7)


def prompt(kind: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        render = renderer(kind)
        render._codec._stretches.known.clear()
        turns = [Turn(f"a{text}", f"b{text}", "edited", f"c{text}")]
        training_rows(render, Conversation("c", turns))
        return render.prompt(turns, f"d{text}")

    return read


def too_long(text: str) -> Any:
    """What fits into no prompt is refused, or left out of one, without being read to its end."""
    render = Renderer(older.chatml(), "", 64)
    return render.prompt([Turn(text, text, "edited", text)], "hello")


def answer(text: str) -> Any:
    render = renderer("tiny")
    render._codec._stretches.known.clear()
    return render.decode(render.response(text))


def streamed(text: str) -> Any:
    """As a policy says it: as many tokens as policy.maxNewTokens may be, with a stop text that nearly comes."""
    render = renderer("tiny")
    ids = render.response(text)[:4096]
    stream = TextStream(render, [text[:-1] + "!", "x"])
    return [stream.push([token], index + 1 == len(ids)) for index, token in enumerate(ids)]


def request(text: str) -> Any:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": f"a{text}"}]}], "stop": ["x", text]}
    return state_of(parse(json.dumps(body).encode()).messages, "")


def logged(folder: Path) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        path = folder / "log.jsonl"
        messages = [{"role": "user", "content": f"a{text}"}, {"role": "agent", "content": f"b{text}", text: 1}]
        path.write_text(json.dumps({"conversation_id": f"c{text}", "messages": messages}) + "\n")
        return read_log(path)

    return read


def array(text: str) -> Any:
    """One item with the text, and many small ones."""
    items = [{"a": text}, *({"b": 1} for _ in text[::16])]
    return list(array_items(io.BytesIO(json.dumps(items).encode()), 1 << 30))


def problems(text: str) -> Any:
    found = Problems("log.jsonl")
    for line in range(3):
        found.add(ProblemError("log.jsonl", f"line {line}", f": conversation_id {text!r} {text}", text))
    found.check()


def folded(text: str) -> Any:
    chat = Chat("c")
    first = chat.ask(f"a{text}", f"b{text}", BEGIN)
    reaction = chat.react(first, "edited", BEGIN + 1, f"c{text}")
    suggestions = [without_texts(first), chat.ask(f"d{text}", f"e{text}", BEGIN + 2)]
    return fold("c", [reaction], suggestions, Rules(60.0, 60.0), Counter())


READERS: dict[str, Callable[[str], Any]] = {
    "markers.escape": escape,
    "markers.unescape": unescape,
    "requests.parse and state_of": request,
    "arrays.array_items": array,
    "messages.read_state": lambda text: read_state({0: {"role": "user", "content": f"a{text}"}}),
    "lines.printable": printable,
    "lines.one_line": one_line,
    "lines.cut": lambda text: cut(text, 200),
    "checked.is_unicode": is_unicode,
    "checked.short": lambda text: short(ValueError(text)),
    "output.Redactor": Redactor({"A_TOKEN": "ababababab"}),
    "output.error_message": lambda text: error_message("InvalidData", text),
    "funnel.parse_intent": parse_intent,
    "funnel.parse_customer": parse_customer,
    "spelling.misspelt": lambda text: misspelt([text, "outcom"], ["outcome", "messages"]),
    "problems.Problems": problems,
    "words.clip": words.clip,
    "svg.shorten": lambda text: shorten(text, 200),
    "remedies.with_remedy": with_remedy,
    "watch.joined": lambda text: joined([[text]]),
    "live.conversations.fold": folded,
    **{f"redaction, {name}": hook for name, hook in PATTERNS.items()},
    "load.load_run": lambda text: load_run(MANIFEST.format(json.dumps(text))),
}


TOKENIZERS: dict[str, Callable[[str], Any]] = {
    "Renderer.prompt, tiny": prompt("tiny"),
    "Renderer.prompt, byte level": prompt("byte level"),
    "Renderer.prompt, tiktoken": prompt("tiktoken"),
    "Renderer.prompt, legacy": prompt("legacy"),
    "Renderer.prompt, unigram": prompt("unigram"),
    "Renderer.prompt, too long": too_long,
    "Renderer.response and decode": answer,
    "TextStream": streamed,
    "tokenizer.build_tokenizer": lambda text: build_tokenizer([f"a {text}"]),
}


def seconds(read: Callable[[str], Any], text: str) -> float:
    started = time.process_time()
    with suppress(StageError, RequestError, ManifestError):  # a refusal takes time, too
        read(text)
    return time.process_time() - started


@pytest.mark.parametrize("what", [*READERS, *TOKENIZERS, "logs.read_log"])
def test_the_time_grows_with_the_length(what: str, tmp_path: Path) -> None:
    read = (READERS | TOKENIZERS).get(what) or logged(tmp_path)
    longest = LONGEST_TOKENIZED if what in TOKENIZERS else LONGEST
    slow = {}
    for name, piece in NASTY.items():
        large = piece * (longest // len(piece))
        small = large[: len(large) // TIMES]
        while (base := seconds(read, small)) > ENOUGH and len(large) > LONGEST_TOKENIZED:
            large, small = large[: len(large) // 2], small[: len(small) // 2]
        base = max(LEAST, min(base, seconds(read, small)))
        took = seconds(read, large)
        if took > RATIO * base:
            took = min(seconds(read, large) for _ in range(2))
        if took > RATIO * base:
            slow[name] = f"{base:.4f} s, then {took:.4f} s"
    assert not slow


def test_what_is_quadratic_is_noticed() -> None:
    def quadratic(text: str) -> int:
        return sum(text.count("x", start) for start in range(0, len(text), 4))

    text = "\\" * 4096
    assert seconds(quadratic, text * TIMES) > RATIO * max(LEAST, seconds(quadratic, text))
