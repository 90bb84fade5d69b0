"""A suggestion that the business never saw: no part of later prompts, nothing to imitate."""

from dataclasses import replace

import pytest
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

TEXTS = ["do you have tea", "which do you like", "green and black", "green please", "packed for you", "be kind"]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(build_tokenizer(TEXTS * 2), "be kind", 256)


@pytest.mark.parametrize("reaction", ["accepted", "edited", "rejected"])
def test_it_stands_in_later_prompts_as_an_abstention(renderer: Renderer, reaction: str) -> None:
    unseen = Turn("do you have tea", "which do you like", reaction, "green and black", displayed=False)  # type: ignore[arg-type]
    abstained = replace(unseen, suggestion=None, reaction="rejected", displayed=True)
    shown = replace(unseen, displayed=True)
    prompts = [renderer.prompt([turn], "green please").ids for turn in (unseen, abstained, shown)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert renderer.messages([unseen], "green please") == renderer.messages([abstained], "green please")
    assert "which do you like" not in str(renderer.messages([unseen], "green please"))


def test_it_is_not_imitated_and_the_others_are_as_before(renderer: Renderer) -> None:
    turns = [
        Turn("do you have tea", "which do you like", "rejected", "green and black", displayed=False),
        Turn("green please", "packed for you", "accepted", "packed for you"),
    ]
    (row,) = training_rows(renderer, Conversation("c", turns)).rows
    assert row.ids == renderer.prompt(turns[:1], "green please").ids + renderer.response("packed for you")
    assert sum(row.response_mask) == len(renderer.response("packed for you"))
    assert training_rows(renderer, Conversation("c", turns[:1])).rows == []
