"""The funnel as a simulator: its frequencies are the tables', and each conversation has its own luck."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.funnel.dynamics import ACCEPTED, EDITED, REJECTED, Dynamics
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.funnel.tables import ABSTAIN, ASK, CLOSE, INTENTS, SENT, TYPES, Tables
from ippo_trainer.environments.funnel.text import SUGGESTIONS, parse_intent
from ippo_trainer.environments.streams import as_seeds, categorical, choose, uniforms

Play = Callable[..., list[Conversation]]


def say(intent: str, index: int = 0) -> str:
    return SUGGESTIONS[intent][index]


def demonstrated(env: Funnel, seeds: Sequence[int], play: Play) -> list[Conversation]:
    return play(env, seeds, lambda histories: env.demonstrate())


def test_a_conversation_does_not_depend_on_its_batch(play: Play) -> None:
    together = demonstrated(Funnel(), range(300), play)
    apart = demonstrated(Funnel(), [7], play) + demonstrated(Funnel(), [299, 12], play)
    assert apart == [together[7], together[299], together[12]]
    assert demonstrated(Funnel(), range(300), play) == together


def test_two_policies_meet_the_same_customer_with_the_same_luck(play: Play) -> None:
    """Outcomes of two policies on equal seeds correlate: the difference has less noise than independent ones."""

    def closer(first: int) -> list[bool]:
        turn = iter(range(100))

        def agent(histories: list) -> list[str]:
            close = next(turn) >= first
            return [say("CLOSE" if close else "ASK") for _ in histories]

        return [conversation.outcome for conversation in play(Funnel(), range(4000), agent)]

    one, two = np.array(closer(1), dtype=float), np.array(closer(2), dtype=float)
    assert np.var(one - two) < 0.75 * (np.var(one) + np.var(two))


def test_the_base_policy_earns_its_exact_value(play: Play) -> None:
    conversations = demonstrated(Funnel(), range(20_000), play)
    row = next(row for row in Funnel().ladder(0.95) if row.name == "base")
    returns = np.array([0.95 ** (len(c.turns) - 1) if c.outcome else 0.0 for c in conversations])
    assert abs(returns.mean() - row.value) < 4 * returns.std() / np.sqrt(len(returns))
    suggested = Counter(turn.suggestion is None for c in conversations for turn in c.turns)
    assert suggested[True] / suggested.total() == pytest.approx(0.05, abs=0.005)
    assert max(len(c.turns) for c in conversations) == 6
    assert {c.turns[-1].sent_message is not None for c in conversations} == {True}


@pytest.mark.parametrize("suggestion", [None, "gibberish never parses", ""])
def test_silence_and_gibberish_leave_the_business_to_itself(suggestion: str | None) -> None:
    env = Funnel()
    env.reset(range(6000))
    steps = env.step([suggestion] * 6000)
    assert {step.reaction for step in steps} == {"rejected"}
    sent = Counter(SENT[parse_intent(step.sent_message) or 0] for step in steps)
    assert {intent: count / 6000 for intent, count in sent.items()} == pytest.approx(
        {"CHAT": 0.60, "FEAT": 0.25, "CLOSE": 0.15}, abs=0.025
    )


def test_accepted_is_sent_as_it_is_and_edited_is_another_text(play: Play) -> None:
    conversations = demonstrated(Funnel(), range(2000), play)
    seen = Counter()
    for turn in (turn for conversation in conversations for turn in conversation.turns if turn.suggestion):
        before, sent = (SENT[parse_intent(text) or 0] for text in (turn.suggestion, turn.sent_message))
        seen[turn.reaction] += 1
        if turn.reaction == "accepted":
            assert turn.sent_message == turn.suggestion
        elif turn.reaction == "edited":
            assert sent == {"DISC": "FEAT", "CLOSE": "ASK"}.get(before, before)
            assert turn.sent_message != turn.suggestion
        else:
            assert sent in ("CHAT", "FEAT", "CLOSE")
    assert set(seen) == {"accepted", "edited", "rejected"}


def test_the_last_turn_is_the_horizon(play: Play) -> None:
    conversations = demonstrated(Funnel(horizon=2), range(500), play)
    assert max(len(conversation.turns) for conversation in conversations) == 2


def test_a_wrong_number_of_suggestions_is_an_error() -> None:
    env = Funnel()
    env.reset([1, 2])
    with pytest.raises(ValueError, match="1 suggestions for 2"):
        env.step([None])


@pytest.mark.parametrize("intent", range(len(INTENTS)))
@pytest.mark.parametrize("stage", range(3))
def test_every_frequency_of_a_turn_is_the_tables(intent: int, stage: int) -> None:
    """Reactions, leaving, buying, moves and signals against probabilities computed here, by type."""
    count, tables = 30_000, Tables()
    for customer in range(3):
        seeds = as_seeds(range(count))
        types, stages = np.full(count, customer), np.full(count, stage)
        turns = Dynamics(tables).turn(seeds, 3, types, stages, np.full(count, intent))

        accept = 0.0 if intent == ABSTAIN else tables.accept[intent][stage]
        edit = 0.0 if intent == ABSTAIN else (1 - accept) / 2
        shares = np.bincount(turns.reaction, minlength=3) / count
        assert shares[[ACCEPTED, EDITED, REJECTED]] == pytest.approx([accept, edit, 1 - accept - edit], abs=0.015)

        for sent in np.unique(turns.sent):
            these = turns.sent == sent
            tolerance = 5 * 0.5 / np.sqrt(these.sum())
            leave = tables.leave[customer] + tables.leave_extra[sent][stage][customer]
            assert turns.leaves[these].mean() == pytest.approx(leave, abs=tolerance)
            stays = these & ~turns.leaves
            buy = tables.buy[stage][customer] if sent == CLOSE else 0.0
            assert turns.buys[stays].mean() == pytest.approx(buy, abs=tolerance)
            goes_on = stays & ~turns.buys
            move = {"ASK": (0.8, 0, 0), "CHAT": (0, 0, 0), "CLOSE": (0, 0, 0)}.get(
                SENT[sent],
                (0.25, tables.feat_moves[customer] if SENT[sent] == "FEAT" else tables.disc_moves[customer], 0),
            )
            assert (turns.stage - stage)[goes_on].mean() == pytest.approx(move[stage], abs=tolerance)
            informed = goes_on & (turns.signal >= 0)
            if sent == ASK:
                assert (informed == (goes_on & ((stage > 0) | (turns.stage > stage)))).all()
                assert (turns.signal[informed] == customer).mean() == pytest.approx(0.7, abs=2 * tolerance)
            else:
                assert not informed.any()


def test_types_follow_the_prior() -> None:
    types = Dynamics(Tables(type_prior=(0.5, 0.5, 0.0))).types(as_seeds(range(20_000)))
    assert np.bincount(types, minlength=len(TYPES)) / 20_000 == pytest.approx([0.5, 0.5, 0.0], abs=0.015)


def test_random_streams_are_uniform_and_unrelated() -> None:
    seeds = as_seeds(range(50_000))
    streams = np.array([uniforms(seeds, turn, purpose) for turn in (0, 1, 5) for purpose in (0, 1, 9)])
    assert ((streams >= 0) & (streams < 1)).all()
    assert streams.mean(-1) == pytest.approx(0.5, abs=0.006)
    assert streams.var(-1) == pytest.approx(1 / 12, abs=0.002)
    correlations = np.corrcoef(streams)
    assert np.abs(correlations - np.eye(len(streams))).max() < 0.02
    neighbours = np.corrcoef(streams[0][:-1], streams[0][1:])[0, 1]
    assert abs(neighbours) < 0.02


def test_draws_never_take_what_has_probability_zero() -> None:
    u = np.array([0.0, 0.5, np.nextafter(1, 0)])
    assert categorical(np.array([0.0, 0.3, 0.7 - 1e-9, 0.0]), u).tolist() == [1, 2, 2]
    assert choose(3, u).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seeds", [[-1], [2**64]])
def test_seeds_out_of_range_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="seeds must be integers"):
        as_seeds(seeds)
