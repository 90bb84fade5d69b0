"""The last layer of Q by least squares: against slow float64 oracles, and its properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.last_layer import EDGE, LINEAR, LastLayer
from ippo_trainer.qfit import least_squares
from ippo_trainer.qfit.least_squares import LeastSquaresSettings, LoggedTurns, fit
from ippo_trainer.qfit.ridge import Regressions

DISCOUNT = 0.9
STATES, ACTIONS = 4, 3


def one_hot(numbers: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(numbers, count).double()


class Chain:
    """Random conversations in a small decision problem, and its exact values by enumeration."""

    def __init__(self, seed: int, length: int = 4) -> None:
        rng = np.random.default_rng(seed)
        self.length = length
        self.wins = rng.uniform(0.05, 0.6, (STATES, ACTIONS))  # P(outcome, which ends it)
        self.moves = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
        self.policy = rng.dirichlet(np.ones(ACTIONS), STATES)

    def turns(self, conversations: int, explored: float, seed: int, folds: int = 1) -> LoggedTurns:
        """Conversations that end with the outcome only, so that their states alone decide their values."""
        rng = np.random.default_rng(seed)
        rows = []
        for number in range(conversations):
            state = int(rng.integers(STATES))
            while True:
                explores = rng.uniform() < explored
                action = int(rng.integers(ACTIONS)) if explores else int(rng.choice(ACTIONS, p=self.policy[state]))
                won = rng.uniform() < self.wins[state, action]
                rows.append((state, action, won, float(won), not explores, number % folds))
                if won:
                    break
                state = int(rng.choice(STATES, p=self.moves[state, action]))
        states, actions, last, outcome, own, fold = map(torch.tensor, zip(*rows, strict=True))
        return LoggedTurns(
            one_hot(states, STATES),
            one_hot(actions, ACTIONS + 1),
            last,
            outcome,
            torch.ones(len(rows)),
            own.double(),
            fold,
        )


def table(turns: LoggedTurns) -> tuple[np.ndarray, np.ndarray]:
    """V (S,) and Q (S, A) of the empirical problem, by counting and iterating in plain loops."""
    states, actions = turns.states.argmax(1).tolist(), turns.actions.argmax(1).tolist()
    v = np.zeros(STATES)
    for _ in range(400):
        total, weight = np.zeros(STATES), np.zeros(STATES)
        for row, state in enumerate(states):
            target = float(turns.outcome[row]) if turns.last[row] else DISCOUNT * v[states[row + 1]]
            total[state] += float(turns.value_weight[row]) * target
            weight[state] += float(turns.value_weight[row])
        v = total / weight
    total, weight = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        target = float(turns.outcome[row]) if turns.last[row] else DISCOUNT * v[states[row + 1]]
        total[state, action] += float(turns.weight[row]) * target
        weight[state, action] += float(turns.weight[row])
    return v, total / weight


def all_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS))
    return one_hot(pairs[:, 0], STATES), one_hot(pairs[:, 1], ACTIONS + 1)


def settings(ranks: tuple[int, ...] = (4,), ridge: float = 1e-7, discount: float = DISCOUNT) -> LeastSquaresSettings:
    return LeastSquaresSettings(ranks, ridge, discount)


@pytest.mark.parametrize("seed", range(3))
def test_on_full_features_it_is_the_fixed_point_of_the_table(seed: int) -> None:
    turns = Chain(seed).turns(300, 0.4, seed)
    layer = fit(turns, settings())
    v, q = table(turns)
    fitted_v = (layer.v_features(torch.eye(STATES)) @ layer.v[0]).numpy()
    fitted_q = (layer.q_features(*all_pairs()) @ layer.q[0]).numpy().reshape(STATES, ACTIONS)
    np.testing.assert_allclose(fitted_v, v, atol=2e-5)
    np.testing.assert_allclose(fitted_q, q, atol=2e-5)


def test_v_is_of_the_policy_however_much_is_explored() -> None:
    chain = Chain(5)
    win = (chain.policy * chain.wins).sum(1)
    move = np.einsum("sa,sat->st", chain.policy * (1 - chain.wins), chain.moves)
    exact = np.linalg.solve(np.eye(STATES) - DISCOUNT * move, win)
    layer = fit(chain.turns(20_000, 0.5, 1), settings())
    fitted = (layer.v_features(torch.eye(STATES)) @ layer.v[0]).numpy()
    np.testing.assert_allclose(fitted, exact, atol=0.02)


def random_turns(seed: int, count: int = 400, width: int = 6, folds: int = 3) -> LoggedTurns:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, width, generator=generator, dtype=torch.double)
    actions = torch.randn(count, width, generator=generator, dtype=torch.double) + 0.3 * states
    last = torch.rand(count, generator=generator) < 0.3
    last[-1] = True
    outcome = (torch.rand(count, generator=generator) < 0.5).double() * last
    weight = torch.rand(count, generator=generator) + 0.5
    own = (torch.rand(count, generator=generator) < 0.7).double() * weight
    conversation = torch.cat([torch.zeros(1), last[:-1].cumsum(0)]).long()
    return LoggedTurns(states, actions, last, outcome, weight, own, conversation % folds)


def slow_fit(turns: LoggedTurns, rank: int, ridge: float, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, Q) of every row by one member, in numpy loops over rows and products."""

    def components(features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        x = features.numpy() - features.numpy().mean(0)
        variances, vectors = np.linalg.eigh(x.T @ x / len(x))
        return x / (x.std(0) + 1e-3), x @ vectors[:, ::-1][:, :rank] / np.sqrt(variances.mean())

    (s, z), (a, y) = components(turns.states), components(turns.actions)
    rows = range(len(s))
    pairs = [(i, j) for i in range(rank) for j in range(rank)]
    q_rows = np.array([[1, *s[n], *a[n], *(z[n, i] * y[n, j] for i, j in pairs)] for n in rows])
    v_rows = np.array([[1, *s[n], *(z[n, i] * z[n, j] for i, j in pairs if i <= j)] for n in rows])
    kept = turns.fold.numpy() != fold
    last, outcome = turns.last.numpy(), turns.outcome.numpy()

    def regress(x: np.ndarray, weight: np.ndarray, y: np.ndarray) -> np.ndarray:
        penalties = np.diag([0.0] + [ridge] * (x.shape[1] - 1))
        w = weight * kept
        return x @ np.linalg.solve(x.T @ (w[:, None] * x) + penalties, x.T @ (w * y))

    def targets(v: np.ndarray) -> np.ndarray:
        return np.where(last, outcome, DISCOUNT * np.append(v[1:], 0.0))

    v = np.full(len(s), outcome.sum() / last.sum())
    for _ in range(300):
        v = regress(v_rows, turns.value_weight.double().numpy(), targets(v)).clip(0, 1)
    return v, regress(q_rows, turns.weight.double().numpy(), targets(v))


@pytest.mark.parametrize(("rank", "ridge"), [(1, 3.0), (3, 10.0), (6, 0.5)])
def test_every_member_is_the_slow_fit_without_its_fold(rank: int, ridge: float) -> None:
    turns = random_turns(rank)
    layer = fit(turns, settings((rank,), ridge))
    for fold in range(3):
        v, q = slow_fit(turns, rank, ridge, fold)
        np.testing.assert_allclose((layer.v_features(turns.states) @ layer.v[fold]).clamp(0, 1), v, atol=1e-5)
        np.testing.assert_allclose(layer.q_features(turns.states, turns.actions) @ layer.q[fold], q, atol=1e-5)


def test_a_smaller_rank_beside_a_larger_one_is_as_if_it_were_alone() -> None:
    turns = random_turns(7)
    both, alone = fit(turns, settings((2, 5), 4.0)), fit(turns, settings((2,), 4.0))
    together = both.q_features(turns.states, turns.actions) @ both.q[:3].T
    torch.testing.assert_close(together, alone.q_features(turns.states, turns.actions) @ alone.q.T, atol=1e-5, rtol=0)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = random_turns(8)
    whole = fit(turns, settings((3,), 4.0))
    monkeypatch.setattr("ippo_trainer.qfit.ridge.BLOCK_ROWS", 37)
    torch.testing.assert_close(fit(turns, settings((3,), 4.0)).q, whole.q, atol=1e-9, rtol=0)


def test_a_member_never_sees_its_fold() -> None:
    turns = random_turns(9)
    hidden = turns.fold == 1
    other = replace(turns, outcome=torch.where(hidden & turns.last, 1 - turns.outcome, turns.outcome))
    one, two = fit(turns, settings((3,), 4.0)), fit(other, settings((3,), 4.0))
    # A fold begins and ends with conversations, so nothing of it is in another fold's targets, but for the start value.
    torch.testing.assert_close(one.q[1], two.q[1], atol=1e-5, rtol=0)
    assert not torch.allclose(one.q[0], two.q[0], atol=1e-3)


def test_the_head_is_the_mean_of_the_members_as_logits() -> None:
    turns = random_turns(10)
    layer = fit(turns, settings((2, 4), 4.0))
    q, v = layer(turns.states, turns.states, turns.actions)
    assert q.dtype == v.dtype == torch.float32
    members = layer.q_features(turns.states, turns.actions) @ layer.q.T
    expected = members.mean(1).clamp(EDGE, 1 - EDGE)
    torch.testing.assert_close(q.double().sigmoid(), expected, atol=1e-6, rtol=1e-5)


def test_a_layer_that_was_saved_reads_alike() -> None:
    turns = random_turns(11)
    layer = fit(turns, settings((2, 4), 4.0))
    again = LastLayer((6, 6), 4, len(layer.q))
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(
        again(turns.states, turns.states, turns.actions), layer(turns.states, turns.states, turns.actions)
    )
    torch.testing.assert_close(
        again.standard_error(turns.states, turns.actions), layer.standard_error(turns.states, turns.actions)
    )


def test_the_standard_error_is_that_of_repeated_data() -> None:
    chain = Chain(3)
    fits = [fit(chain.turns(400, 0.4, seed, folds=8), settings((4,), 1.0)) for seed in range(40)]
    pairs = all_pairs()
    means = torch.stack([layer.q_features(*pairs) @ layer.q.mean(0) for layer in fits])
    estimated = torch.stack([layer.standard_error(*pairs) for layer in fits]).square().mean(0).sqrt()
    ratio = estimated / means.std(0)
    assert 0.75 < float(ratio.mean()) < 1.35
    assert float(ratio.min()) > 0.5


def test_more_data_is_a_smaller_error() -> None:
    chain, pairs = Chain(4), all_pairs()
    few, many = (fit(chain.turns(count, 0.4, 1, folds=4), settings((4,), 1.0)) for count in (200, 5000))
    assert float(many.standard_error(*pairs).mean()) < 0.5 * float(few.standard_error(*pairs).mean())


def test_ranks_that_disagree_are_part_of_the_error() -> None:
    turns = random_turns(12, folds=1)
    assert float(fit(turns, settings((3,), 4.0)).standard_error(turns.states, turns.actions).max()) == 0.0
    assert float(fit(turns, settings((1, 5), 4.0)).standard_error(turns.states, turns.actions).min()) > 0.0


def test_a_fixed_point_that_does_not_settle_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns = Chain(1).turns(50, 0.2, 1)
    fit(turns, LeastSquaresSettings((4,), 1e-6, DISCOUNT))
    assert caplog.messages == []
    monkeypatch.setattr(least_squares, "_SWEEPS", 2)
    fit(turns, LeastSquaresSettings((4,), 1e-6, DISCOUNT))
    assert "still moved after 2 sweeps" in caplog.text


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_values_of_conversations_that_go_round_stay_within_bounds(discount: float) -> None:
    turns = random_turns(13, count=60)
    layer = fit(turns, settings((6,), 0.01, discount))
    q, v = layer(turns.states, turns.states, turns.actions)
    assert bool(torch.isfinite(q).all() and torch.isfinite(v).all())


def with_constant(turns: LoggedTurns, name: str) -> LoggedTurns:
    return replace(turns, **{name: torch.ones_like(getattr(turns, name))})


@pytest.mark.parametrize(
    ("break_it", "chosen", "message"),
    [
        (lambda turns: with_constant(turns, "states"), settings((2,), 4.0), "all states the same features"),
        (lambda turns: with_constant(turns, "actions"), settings((2,), 4.0), "all suggestions the same features"),
        (lambda turns: replace(turns, states=turns.states / 0), settings((2,), 4.0), "not finite"),
        (lambda turns: replace(turns, outcome=turns.outcome * 0), settings((2,), 4.0), "has the outcome"),
        (lambda turns: replace(turns, value_weight=turns.weight * 0), settings((2,), 4.0), "the policy's own"),
        (lambda turns: replace(turns, weight=turns.weight * 0), settings((2,), 4.0), "the policy's own"),
        (lambda turns: turns, settings((7,), 4.0), "more than the 6 features"),
        (lambda turns: replace(turns, states=turns.states[:, [0] * 6]), settings((6,), 0.0), "singular"),
    ],
)
def test_bad_input_is_one_clear_error(break_it, chosen: LeastSquaresSettings, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadDataError, match=message):
        fit(break_it(random_turns(14)), chosen)


def test_wide_features_are_read_through_their_leading_components() -> None:
    """As many columns as a log can tell apart, whatever the trunk; what is linear in few directions is still fitted."""
    torch.manual_seed(0)
    width, count = LINEAR + 40, 3000
    directions = torch.linalg.qr(torch.randn(width, 6)).Q
    hidden = 3.0 * torch.randn(count, 6)
    states = hidden @ directions.T + 0.01 * torch.randn(count, width)
    chance = (0.5 + 0.1 * hidden[:, 0]).clamp(0, 1)
    turns = LoggedTurns(
        states=states,
        actions=torch.cat([states, states], 1),
        last=torch.ones(count, dtype=torch.bool),
        outcome=chance,
        weight=torch.ones(count, dtype=torch.double),
        value_weight=torch.ones(count, dtype=torch.double),
        fold=torch.arange(count) % 2,
    )
    layer = fit(turns, settings((2, 4), 1.0))
    assert layer.q.shape[1] == 1 + 2 * LINEAR + 4 * 4
    q, v = (logits.double().sigmoid() for logits in layer(states, states, turns.actions))
    assert float((q - chance).square().mean().sqrt()) < 0.03
    assert float((v - chance).square().mean().sqrt()) < 0.03


@pytest.mark.parametrize(("length", "discount", "most"), [(6, 0.95, 30), (100, 0.95, 45), (100, 0.99, 70)])
def test_long_conversations_do_not_take_a_sweep_for_every_turn_that_matters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, length: int, discount: float, most: int
) -> None:
    """A walk of 24 places with the outcome at its end; plain sweeps are 32, 125 and 379."""
    turns = walks(60, length)
    sweeps = []
    plain = Regressions.solve
    monkeypatch.setattr(Regressions, "solve", lambda self, targets: sweeps.append(1) or plain(self, targets))
    layer = fit(turns, settings((4,), 10.0, discount))
    assert len(sweeps) <= most
    assert not caplog.records
    # It is the fixed point: one sweep from it leads to it.
    features = layer.v_features(turns.states)
    values = (features @ layer.v.T).clamp(0, 1)
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    targets = torch.where(turns.last.unsqueeze(1), turns.outcome.unsqueeze(1), discount * following)
    for member in range(len(layer.v)):
        kept = turns.fold != member
        gram = features[kept].T @ features[kept] + 10.0 * torch.diag(
            torch.tensor([0.0, *[1.0] * (len(layer.v[0]) - 1)])
        )
        swept = torch.linalg.solve(gram, features[kept].T @ targets[kept, member])
        np.testing.assert_allclose(features @ swept, features @ layer.v[member], atol=3e-6)


def walks(conversations: int, length: int, width: int = 32) -> LoggedTurns:
    """Walks on a line, seen with noise; who comes to place 0 has the outcome."""
    rng = np.random.default_rng(0)
    places, rows = rng.normal(size=(24, width)), []
    for number in range(conversations):
        place = int(rng.integers(24))
        for turn in range(length):
            rows.append((place, place == 0 or turn + 1 == length, float(place == 0), number % 3))
            if place == 0:
                break
            place = min(23, max(0, place + int(rng.choice([-1, -1, 1, 1, 0]))))
    at, last, outcome, fold = map(torch.tensor, zip(*rows, strict=True))
    noise = torch.from_numpy(rng.normal(size=(len(rows), 3 * width)))
    states = torch.from_numpy(places)[at] + 0.3 * noise[:, :width]
    return LoggedTurns(states, noise[:, width:], last, outcome, torch.ones(len(rows)), torch.ones(len(rows)), fold)
