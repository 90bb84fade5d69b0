"""The catalogue shop: its exact solution is what happens when it is played, and only the context tells what sells."""

from typing import Any

import numpy as np
import pytest
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments.catalogue import rules
from ippo_trainer.environments.catalogue.environment import BLIND, CatalogueShop
from ippo_trainer.environments.catalogue.exact import visits_by_turn
from ippo_trainer.environments.catalogue.rules import CATALOGUES, INTENTS, PRODUCTS, SENT, STAGES, Visit
from ippo_trainer.environments.catalogue.text import (
    SUGGESTIONS,
    catalogue_json,
    customer_text,
    parse_catalogue,
    parse_customer,
    parse_suggestion,
)
from ippo_trainer.environments.problem import Policy, evaluate, greedy, optimum

COUNT = 2000


@pytest.fixture(scope="module", params=[True, False], ids=["shown", "hidden"])
def shop(request: pytest.FixtureRequest) -> CatalogueShop:
    return CatalogueShop(catalogue=request.param)


def play(shop: CatalogueShop, policy: Policy, seeds: range) -> list[Conversation]:
    """Conversations of a policy over information states, which follow from what is seen alone."""
    openings = shop.reset(seeds)
    conversations = [Conversation(str(seed), context=o.context) for seed, o in zip(seeds, openings, strict=True)]
    waiting = [(each, o.customer_message) for each, o in zip(conversations, openings, strict=True)]
    catalogues = {each.id: shop._catalogues(each) for each in conversations}
    rng, turn = np.random.default_rng(0), 0
    while waiting:
        suggestions = []
        for conversation, message in waiting:
            before = parse_suggestion(conversation.turns[-1].sent_message) if conversation.turns else None
            record = Turn(message, None, "rejected", "")
            stage, catalogues[conversation.id] = shop._after_message(record, catalogues[conversation.id], before, "")
            state = shop._places[turn][Visit(stage, catalogues[conversation.id])]
            intent = INTENTS[rng.choice(len(INTENTS), p=policy[turn][state])]
            suggestions.append(None if intent == "ABSTAIN" else SUGGESTIONS[intent][rng.integers(3)])
        still = []
        for (conversation, message), text, step in zip(waiting, suggestions, shop.step(suggestions), strict=True):
            conversation.turns.append(Turn(message, text, step.reaction, step.sent_message))
            conversation.outcome = step.outcome
            if step.customer_message is not None:
                still.append((conversation, step.customer_message))
        waiting, turn = still, turn + 1
    return conversations


def test_a_visit_is_worth_what_the_solution_says(shop: CatalogueShop) -> None:
    best = greedy(optimum(shop.problem, 0.95))
    for policy in (best, shop.problem.by_stage(shop.problem.base)):
        exact = evaluate(shop.problem, policy, 0.95).value
        conversations = play(shop, policy, range(COUNT))
        returns = np.array([0.95 ** (len(each.turns) - 1) * each.outcome for each in conversations])
        assert abs(returns.mean() - exact) < 4 * returns.std() / COUNT**0.5
        score = shop.score(conversations, 0.95)
        assert abs(score.value - exact) < 4 * score.standard_error + 1e-3
        assert score.standard_error < returns.std() / COUNT**0.5


def test_who_does_not_see_the_catalogue_stays_behind() -> None:
    shown, hidden = ({row.name: row.value for row in CatalogueShop(catalogue=c).ladder(0.95)} for c in (True, False))
    assert shown[BLIND] == hidden["optimum"] < 0.5 * shown["optimum"]
    assert BLIND not in hidden
    assert hidden["base"] < shown["base"] < shown[BLIND]


def test_a_solution_by_hand() -> None:
    """The last turn: offer what is on offer, if that is known, or else what may be."""
    for shown in (True, False):
        shop = CatalogueShop(horizon=3, catalogue=shown)
        solution, last = optimum(shop.problem, 0.95), shop.problem.levels[-1]
        response = shop.problem.response
        for state, visit in enumerate(visits_by_turn(3, shown)[-1]):
            sold = [rules.buys(visit, sent) for sent in range(len(SENT))]
            assert solution.q[-1][state] == pytest.approx(response[last.stage[state]] @ np.array(sold))
            if len(visit.catalogues) == 1:
                best = visit.catalogues[0]
                assert int(np.argmax(sold)) == best
        assert len(last.stage) == len(visits_by_turn(3, shown)[-1])


def test_probabilities_are_some(shop: CatalogueShop) -> None:
    problem = shop.problem
    np.testing.assert_allclose(problem.response.sum(-1), 1)
    assert problem.start.sum() == pytest.approx(1)
    np.testing.assert_allclose(problem.base.sum(-1), 1)
    assert all(sum(row) == pytest.approx(1) for row in (*rules.BASE, rules.OWN))
    for visits in visits_by_turn(3, shop._shown):
        for visit in visits:
            for sent in range(len(SENT)):
                ways = [way.probability for way in rules.ways(visit, sent)]
                assert rules.buys(visit, sent) + sum(ways) == pytest.approx(1)


def test_every_text_means_one_thing() -> None:
    for name, texts in SUGGESTIONS.items():
        assert len(set(texts)) == 3
        assert {parse_suggestion(text.upper() + " !") for text in texts} == {SENT.index(name)}
    for stage in range(len(STAGES)):
        for status in (None, 0, 1):
            assert {parse_customer(customer_text(stage, status, wording)) for wording in range(2)} == {(stage, status)}
    assert parse_suggestion("how about wine") is parse_customer("wine?") is parse_catalogue("wine: 3") is None


def test_the_context_is_the_catalogue() -> None:
    shop = CatalogueShop()
    openings = shop.reset(range(400))
    numbers = [parse_catalogue(opening.context) for opening in openings]
    assert set(numbers) == set(range(len(CATALOGUES)))
    assert numbers == [visit.catalogues[0] for visit in shop._visits]
    assert {opening.context for opening in openings} == {f"on offer: {product}" for product in PRODUCTS}
    assert catalogue_json(0) == {"on offer": "cake"}
    assert [o.context for o in CatalogueShop(catalogue=False).reset(range(3))] == [""] * 3


def test_conversations_depend_on_their_seed_and_suggestions_only(shop: CatalogueShop) -> None:
    def visits(seeds: list[int]) -> dict[int, list[Any]]:
        texts: dict[int, list[Any]] = {seed: [o] for seed, o in zip(seeds, shop.reset(seeds), strict=True)}
        waiting = list(seeds)
        while waiting:
            steps = shop.step(shop.demonstrate())
            for seed, step in zip(waiting, steps, strict=True):
                texts[seed].append(step)
            waiting = [seed for seed, step in zip(waiting, steps, strict=True) if step.customer_message is not None]
        return texts

    together = visits([3, 14, 15, 92])
    assert {seed: visits([seed])[seed] for seed in together} == together


def test_the_same_customer_comes_whether_the_catalogue_is_shown_or_not() -> None:
    shown, hidden = CatalogueShop(), CatalogueShop(catalogue=False)
    assert [o.customer_message for o in shown.reset(range(9))] == [o.customer_message for o in hidden.reset(range(9))]
    assert shown.step(["how about tea"] * 9) == hidden.step(["how about tea"] * 9)


def test_the_catalogue_is_shown_or_not() -> None:
    shown: Any = 1
    with pytest.raises(BadSpecError, match=r"environment\.options\.catalogue is 1"):
        CatalogueShop(catalogue=shown)


def test_conversations_of_another_world_are_refused() -> None:
    shop = CatalogueShop()
    context = shop.reset([1])[0].context
    good = Turn("i am just looking", "how about tea", "accepted", "how about tea")
    for context_, turn, words in (
        ("", good, "is no catalogue"),
        ("on offer: wine", good, "is no catalogue"),
        (context, Turn("hi", None, "rejected", "try our tea"), "customer message 'hi'"),
        (context, Turn("that is on offer, i am just looking", None, "rejected", "try our tea"), "customer message"),
        (context, Turn("i am just looking", None, "rejected", "buy!"), "the sent message 'buy!'"),
    ):
        with pytest.raises(BadDataError, match=words):
            shop.trace([Conversation("c", [turn], context=context_)])
    assert len(shop.trace([Conversation("c", [good], context=context)]).turn) == 1
