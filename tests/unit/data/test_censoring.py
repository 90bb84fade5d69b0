"""Weights and bounds for conversations whose end nobody saw, on SR-funnel's customers cut off in known ways."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.censoring import UNCENSORED, Censoring, outcome_bounds
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.environments import problem as exact
from ippo_trainer.environments.checked import checked
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.evaluation.measure import lift, measure
from ippo_trainer.qfit.targets import ReturnWeights, lambda_targets, monte_carlo_targets

DISCOUNT = 0.95
SCRIPT = ("ASK", "FEAT", "CLOSE", "CLOSE", "CLOSE", "CLOSE")
"""What is suggested, by turn: success comes late, so those who are seen to the end are not like the others."""


def talk(turns: int, outcome: bool = False, censored: bool = False) -> Conversation:
    """A conversation of so many turns."""
    return Conversation("c", [Turn("hello", "hi", "accepted", "hi")] * turns, outcome, censored)


def cut(conversations: list[Conversation], hazard: Callable[[int], float], seed: int = 0) -> list[Conversation]:
    """Cuts each conversation off after its turn t with probability hazard(t): that turn's end is not seen any more."""
    rng = np.random.default_rng(seed)
    made = []
    for found in conversations:
        stop = next((t for t in range(len(found.turns)) if rng.random() < hazard(t)), None)
        whole = stop is None
        made.append(found if whole else replace(found, turns=found.turns[: stop + 1], outcome=False, censored=True))
    return made


@pytest.fixture(scope="module")
def funnel() -> Funnel:
    return Funnel()


def play(funnel: Funnel, count: int) -> list[Conversation]:
    """Conversations by SCRIPT."""
    conversations = [Conversation(str(seed)) for seed in range(count)]
    waiting = list(zip(conversations, funnel.reset(range(count)), strict=True))
    for intent in SCRIPT:
        text = funnel.wordings[intent][0]
        steps, still = funnel.step([text] * len(waiting)), []
        for (found, message), step in zip(waiting, steps, strict=True):
            found.turns.append(Turn(message, text, step.reaction, step.sent_message))
            found.outcome = step.outcome
            if step.customer_message is not None:
                still.append((found, step.customer_message))
        waiting = still
    return conversations


def solve(funnel: Funnel, discount: float) -> exact.Solution:
    """SCRIPT's exact values."""
    chosen = [np.eye(len(funnel.intents))[funnel.intents.index(intent)] for intent in SCRIPT]
    policy = [np.tile(row, (len(level.stage), 1)) for row, level in zip(chosen, funnel.problem.levels, strict=True)]
    return exact.evaluate(funnel.problem, policy, discount)


@pytest.fixture(scope="module")
def whole(funnel: Funnel) -> list[Conversation]:
    return play(funnel, 20_000)


@pytest.mark.parametrize("hazard", [lambda t: 0.5 * (t == 2), lambda t: 0.4 * (t >= 2)])
def test_weighted_success_is_near_the_truth_where_dropping_is_not(
    funnel: Funnel, whole: list[Conversation], hazard: Callable[[int], float]
) -> None:
    truth = solve(funnel, 1.0).value
    logged = cut(whole, hazard)
    known = [found for found in logged if not found.censored]
    dropped = np.mean([found.outcome for found in known])
    got = measure(logged, DISCOUNT, 0.99)
    assert got.success.low <= truth <= got.success.high
    assert got.value.low <= solve(funnel, DISCOUNT).value <= got.value.high
    assert abs(dropped - truth) > 3 * abs(got.success.estimate - truth)
    assert not got.success.low <= dropped <= got.success.high
    assert got.success_bounds.low <= truth <= got.success_bounds.high
    assert (got.conversations, got.censored) == (len(known), len(logged) - len(known))


def test_weighted_targets_have_the_exact_q_as_their_mean(funnel: Funnel, whole: list[Conversation]) -> None:
    """By turn: the mean of Monte Carlo targets, weighted, is the mean exact Q of the same turns."""
    logged = cut(whole, lambda t: 0.25)
    weights = ReturnWeights.of(logged, DISCOUNT)
    solution = solve(funnel, DISCOUNT)
    full = funnel.trace(whole)
    starts = np.searchsorted(full.conversation, np.arange(len(whole)))
    sums: dict[str, np.ndarray] = {name: np.zeros((6, 2)) for name in ("weighted", "dropped", "exact")}
    for number, found in enumerate(logged):
        targets = [] if found.censored else monte_carlo_targets(found, weights)
        for turn in range(len(found.turns)):
            at = starts[number] + turn
            sums["exact"][turn] += (solution.q[turn][full.state[at], full.action[at]], 1.0)
            if targets:
                sums["weighted"][turn] += (targets[turn].value * targets[turn].weight, targets[turn].weight)
                sums["dropped"][turn] += (targets[turn].value, 1.0)
    means = {name: table[:, 0] / table[:, 1] for name, table in sums.items()}
    assert np.abs(means["weighted"] - means["exact"])[:4] == pytest.approx(0.0, abs=0.015)
    assert np.abs(means["dropped"] - means["exact"])[:3].max() > 0.01


def test_lambda_targets_are_weighted_too() -> None:
    logged = [talk(3, True), talk(2, censored=True), talk(2), talk(1)]
    censoring = Censoring.of(logged)
    assert censoring.uncensored_share == pytest.approx([1.0, 2 / 3, 1.0])
    weights = [target.weight for target in lambda_targets(logged[0], 0.9, 0.5, [0.1] * 3, censoring)]
    assert weights == pytest.approx([1.5, 1.5, 1.0])


def test_weights_by_hand() -> None:
    logged = [talk(1, True), talk(1, censored=True), talk(2), talk(2, censored=True), talk(3, True)]
    censoring = Censoring.of(logged)
    assert censoring.uncensored_share == pytest.approx([4 / 5, 2 / 3, 1.0])
    assert censoring.weights(logged) == pytest.approx([5 / 4, 0.0, 15 / 8, 0.0, 15 / 8])
    assert censoring.unseen == 0.0
    assert UNCENSORED.weight(7, 2) == 1.0


ENDS = (0.25, 0.25, 1.0)
"""Share that ends with each turn, of those that have it."""


@pytest.mark.parametrize("cut_off", [0.0, 0.25])
@pytest.mark.parametrize("handed", [0.0, 0.25])
def test_weights_are_exact_whether_logs_end_or_others_go_on(cut_off: float, handed: float) -> None:
    """A log that has everything that can happen as often as it is likely. Who went on is at risk of either."""
    log, left, whole = [], 4.0**7, dict[int, float]()
    reached = 1.0
    for turns, ends in enumerate(ENDS, 1):
        whole[turns], reached = reached * ends, reached * (1 - ends)
        seen, on = left * ends * (1 - cut_off), left * (1 - ends) * (1 - cut_off)
        log += [talk(turns, turns > 1)] * int(seen) + [talk(turns, censored=True)] * int(left * cut_off)
        log += [replace(talk(turns, censored=True), went_on=True)] * int(on * handed)
        left = on * (1 - handed)
    censoring, count = Censoring.of(log), len(log)
    weights = censoring.weights(log)
    lengths = np.array([len(each.turns) for each in log])
    assert {turns: weights[lengths == turns].sum() / count for turns in whole} == pytest.approx(whole)
    assert censoring.unseen == 0.0
    for first in range(len(ENDS)):  # and of what follows a turn
        tails = sum(
            censoring.weight(len(each.turns), first) for each in log if not each.censored and len(each.turns) > first
        )
        assert tails == pytest.approx((lengths > first).sum())


class Impatient:
    """Ends six conversations in ten with each turn, the last one always; all but those of one turn have the outcome. Of
    those that would go on it cuts off half, and says so, or not."""

    max_turns = 3

    def __init__(self, says: bool) -> None:
        self._says = says

    def reset(self, seeds: Sequence[int]) -> list[str]:
        self._turn, self._open = 0, [np.random.default_rng(seed) for seed in seeds]
        return ["hello"] * len(seeds)

    def demonstrate(self) -> list[str | None]:
        return ["hi"] * len(self._open)

    def step(self, suggestions: Sequence[str | None]) -> list[dict[str, object]]:
        self._turn += 1
        steps: list[dict[str, object]] = []
        for rng in self._open:
            ends, cut_off = self._turn == self.max_turns or rng.random() < 0.6, rng.random() < 0.5
            message = None if ends or (cut_off and not self._says) else "more"
            steps.append(
                {"reaction": "accepted", "sent_message": "hi", "customer_message": message}
                | {"outcome": ends and self._turn > 1, "censored": cut_off and not ends}
            )
        over = [step["customer_message"] is None or step["censored"] for step in steps]
        self._open = [rng for rng, done in zip(self._open, over, strict=True) if not done]
        return steps


def test_a_simulator_that_cuts_off_those_who_go_on_is_weighted_rightly_if_it_says_so() -> None:
    """Of all customers, 4 in 10 have the outcome."""
    shares = {}
    for says in (True, False):
        conversations = demonstrate(checked(Impatient(says), "Impatient"), range(8000), "impatient")
        weights = Censoring.of(conversations).weights(conversations)
        shares[says] = np.average([each.outcome for each in conversations], weights=weights)
    assert shares[True] == pytest.approx(0.4, abs=0.02)
    assert abs(shares[False] - 0.4) > 0.05


def test_nobody_saw_the_ends_of_those_who_all_change_hands() -> None:
    """All that go on after two turns are given to somebody else."""
    given = replace(talk(2, censored=True), went_on=True)
    censoring = Censoring.of([talk(1)] * 30 + [talk(2, True)] * 18 + [given] * 52)
    assert censoring.unseen == pytest.approx(0.52)
    assert (censoring.weight(1), censoring.weight(2)) == (1.0, 1.0)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=30).filter(
        lambda rows: not all(row[2] for row in rows)
    )
)
def test_weights_and_what_is_unseen_make_up_everything(rows: list[tuple[int, bool, bool]]) -> None:
    logged = [talk(turns, outcome and not censored, censored) for turns, outcome, censored in rows]
    censoring = Censoring.of(logged)
    weights = censoring.weights(logged)
    assert weights.sum() / len(logged) + censoring.unseen == pytest.approx(1.0)
    assert np.isfinite(weights).all()
    bounds = outcome_bounds(logged)
    assert 0.0 <= bounds.low <= bounds.high <= 1.0
    assert outcome_bounds(logged, 0.5).high <= bounds.high


def test_ends_that_nobody_could_see_are_counted_and_not_made_up() -> None:
    """All that go beyond two turns are cut off there: no weight can tell of them, the bounds can."""
    logged = [talk(1)] * 60 + [talk(2, True)] * 10 + [talk(3, censored=True)] * 30
    got = measure(logged, DISCOUNT, 0.95)
    assert got.unseen == pytest.approx(0.3)
    assert got.success.estimate == pytest.approx(10 / 70)
    assert (got.success_bounds.low, got.success_bounds.high) == pytest.approx((0.1, 0.4))
    assert got.value_bounds.high == pytest.approx(0.1 * 0.95 + 0.3 * 0.95**2)


def test_a_lift_with_censored_conversations_covers_and_stays_paired(whole: list[Conversation]) -> None:
    """Candidate and current are the same business, cut off in different ways: the difference is 0."""
    hits = 0
    for start in range(0, len(whole), 400):
        part = whole[start : start + 400]
        got = lift(cut(part, lambda t: 0.02, start), cut(part, lambda t: 0.3, start + 1), "Success", DISCOUNT, 0.95)
        hits += got.low <= 0.0 <= got.high
    assert 44 <= hits <= 50
    alike = [cut(whole, hazard, 5) for hazard in (lambda t: 0.3, lambda t: 0.3)]
    got = lift(*alike, "Success", DISCOUNT, 0.95)
    # What they share cancels; the doubt that is left is that of the pseudo-pairs, for as many values as there are.
    assert got.high - got.low < 0.1 * 2 * 1.96 * np.sqrt(2 * 0.2 / len(whole))
