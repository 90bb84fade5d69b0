"""`ippo check-log`: as text and for programs, with exit codes that scripts can use."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.models.load import build_tiny, save_policy
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer

from tests.kit.ippo_command import Ippo


def line(number: int, outcome: bool | None = False, role: str = "assistant") -> dict[str, Any]:
    messages = [{"role": "user", "content": "do you have tea"}, {"role": role, "content": "yes we have tea"}]
    return {"conversation_id": number, "messages": messages * (1 + number % 3), "outcome": outcome}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line(number, number % 5 == 0)) + "\n" for number in range(50)))
    return path


def test_a_good_log(ippo: Ippo, log: Path) -> None:
    answer = ippo("check-log", str(log))
    assert answer.code == 0
    for words in (
        "what is wrong:\n  nothing",
        "with the outcome              10, 20.0% of the finished",
        "people (99 turns)",
        "this log has 50 (10 outcomes)",
        "1          50           4          13           0",
    ):
        assert words in answer.out
    figures = json.loads(ippo("check-log", f"file://{log}", "--json").out)
    assert (figures["conversations"], figures["outcomes"]["won"]) == (50, 10)


def test_a_bad_log_ends_with_65_and_says_all_at_once(ippo: Ippo, log: Path) -> None:
    with log.open("a") as file:
        file.write("{\n" + json.dumps(line(99, role="bot")) + "\n" + json.dumps(line(96, role="bot")) + "\n")
    answer = ippo("check-log", str(log))
    assert answer.code == 65
    assert "is not JSON" in answer.out
    assert '2  messages[1].role is "bot". Use one of' in answer.out
    assert "(line 52, 53)" in answer.out
    assert "conversations                 50" in answer.out


def test_outcomes_of_a_second_file(ippo: Ippo, log: Path, tmp_path: Path) -> None:
    log.write_text("".join(json.dumps(line(number, None)) + "\n" for number in range(50)))
    orders = tmp_path / "orders.csv"
    orders.write_text("conversation_id\n7\n8\nx\n")
    answer = ippo("check-log", str(log), "--outcomes", str(orders))
    assert answer.code == 0
    assert "with the outcome              2, 4.0%" in answer.out
    assert "1  1 of 3 ids in orders.csv are of no conversation in the log" in answer.out
    orders.write_text("conversation_id\nx\n")
    assert "Write the same ids into both" in ippo("check-log", str(log), "--outcomes", str(orders)).out


def test_lengths_by_the_tokenizer_of_a_base(ippo: Ippo, log: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["do you have tea", "yes we have tea"] * 3)
    base = tmp_path / "base"
    save_policy(base, build_tiny("tiny:d16-l1-h2", tokenizer, 1), tokenizer, Renderer(tokenizer, "", 64))
    figures = json.loads(ippo("check-log", str(log), "--base", str(base), "--json").out)
    renderer = Renderer(tokenizer, "", 4096)
    assert figures["lengths"]["suggestion"]["100"] == len(renderer.response("yes we have tea"))
    assert figures["limits"]["policy.maxPromptTokens"] >= figures["lengths"]["longestPrompt"]["90"]
    assert "policy.maxNewTokens           16 would do" in ippo("check-log", str(log), "--base", str(base)).out


def test_a_policy_beside_the_writers_and_a_page_of_it_all(ippo: Ippo, log: Path, tmp_path: Path) -> None:
    with log.open("a") as file:
        file.write(json.dumps(line(50) | {"writer": "<b>night</b>", "shop": 3}) + "\n")
    tokenizer = build_tokenizer(["do you have tea", "yes we have tea"] * 3)
    policy, page = tmp_path / "policy", tmp_path / "log.html"
    save_policy(policy, build_tiny("tiny:d16-l1-h2", tokenizer, 1), tokenizer, Renderer(tokenizer, "", 64))
    answer = ippo("check-log", str(log), "--policy", str(policy), "--html", str(page))
    assert answer.code == 0
    for words in (
        "what is worth a look:\n          1  all 102 suggestions are the same. Q compares",
        "perplexity of the writers     ",
        "different suggestions of 8 on average; in 0 of",
        "fields that nobody reads      shop (1)",
        "policy.maxNewTokens           16 would do",
    ):
        assert words in answer.out
    html = page.read_text()
    for section in ("What is wrong", "What is worth a look", "How far the policy is from the writers"):
        assert f"<h2>{section}</h2>" in html
    assert "&lt;b&gt;night&lt;/b&gt; (3 turns)" in html
    assert "<script" not in html
    figures = json.loads(ippo("check-log", str(log), "--policy", str(policy), "--json").out)
    assert figures["policy"]["perplexity"] > 1
    assert page.read_text() == html


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.jsonl"], 65, "LOG: there is no file"),
        (["{log}", "--window", "7d"], 64, "give --outcomes, too"),
        (["{log}", "--outcomes", "{log}", "--window", "soon"], 64, 'such as "14d"'),
        (["{log}", "--base", "nowhere"], 64, "--base: there is no folder nowhere"),
        (["{log}", "--policy", "nowhere"], 64, "--policy: nowhere is no folder of a policy"),
        (["{log}", "--policy", "p", "--base", "b"], 64, "leave --base and those out"),
        (["{log}", "--html", "nowhere/a.html"], 64, "--html: there is no folder nowhere"),
        (["hf://a/b"], 64, "LOG 'hf://a/b' is no file:// or s3://"),
    ],
)
def test_what_it_refuses(ippo: Ippo, log: Path, arguments: list[str], code: int, words: str) -> None:
    answer = ippo("check-log", *(text.format(log=log) for text in arguments))
    assert (answer.code, words in answer.err) == (code, True), answer
