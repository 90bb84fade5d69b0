"""The exact solver against a brute-force oracle that unrolls whole histories with the customer's type explicit."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.environments.funnel import exact
from ippo_trainer.environments.funnel.environment import Funnel
from ippo_trainer.environments.funnel.tables import Tables
from ippo_trainer.environments.problem import evaluate, ladder, optimum, tabulate

ACTIONS = ["ASK", "FEAT", "DISC", "CLOSE", "CHAT", "ABSTAIN"]
SENT = ACTIONS[:5]

# Value, and success in per cent, of another implementation whose beliefs were rounded to five decimals: its last digit
# may be off by one.
ANCHOR_H6 = {
    "most-accepted": (0.0004, 0.04),
    "abstain": (0.0254, 2.9),
    "base": (0.0312, 3.7),
    "uniform": (0.0522, 6.1),
    "myopic": (0.1697, 19.6),
    "filtered-bc-1": (0.1234, 14.9),
    "filtered-bc-2": (0.1651, 20.0),
    "filtered-bc-3": (0.1928, 23.2),
    "filtered-bc-5": (0.2343, 28.0),
    "soft-0.1-1": (0.0919, 10.9),
    "soft-0.1-2": (0.1714, 20.3),
    "soft-0.1-3": (0.2429, 28.7),
    "soft-0.03-1": (0.1694, 19.8),
    "soft-0.03-2": (0.3119, 36.5),
    "soft-0.03-3": (0.3323, 39.0),
    "soft-0.01-1": (0.2237, 25.8),
    "soft-0.01-2": (0.3299, 38.6),
    "soft-0.01-3": (0.3356, 39.3),
    "greedy-1": (0.2510, 28.7),
    "greedy-2": (0.3385, 39.8),
    "greedy-3": (0.3386, 39.8),
    "optimum": (0.3386, 39.8),
}
ANCHOR_SHORT = {
    4: {"optimum": 0.2219, "greedy-1": 0.1811, "greedy-2": 0.2219, "myopic": 0.1142, "base": 0.0177},
    5: {"optimum": 0.2881, "greedy-1": 0.2199, "greedy-2": 0.2881, "myopic": 0.1445, "base": 0.0245},
}


@dataclass
class Node:
    """A visible history. `weight[z]` is P(type z, what was seen | what was sent): never normalised, never merged."""

    stage: int
    weight: list[Any]
    buys: dict[str, Any] = field(default_factory=dict)
    children: dict[str, list["Node"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mass: Any = sum(self.weight)


class Oracle:
    """All histories of a short game, and policies as lists by node."""

    def __init__(self, tables: dict[str, Any], horizon: int, number: Callable[[Any], Any]) -> None:
        self.t = _convert(tables, number)
        self.number = number
        self.sent = {(action, stage): self._sends(action, stage) for action in ACTIONS for stage in range(3)}
        prior = [Fraction(1, 3)] * 3 if number is Fraction else self.t["type_prior"]
        self.root = Node(0, prior)
        self.layers = [[self.root]]
        for turn in range(horizon):
            following: list[Node] = []
            for node in self.layers[turn]:
                for sent in SENT:
                    self._unroll(node, sent)
                    following += node.children[sent]
            if turn + 1 < horizon:
                self.layers.append(following)
        for node in self.layers[-1]:
            node.children = {sent: [] for sent in SENT}
        self.nodes = [node for layer in self.layers for node in layer]
        self.index = {id(node): i for i, node in enumerate(self.nodes)}

    def _unroll(self, node: Node, sent: str) -> None:
        t, s, m = self.t, node.stage, SENT.index(sent)
        stays = [w * (1 - t["leave"][z] - t["leave_extra"][m][s][z]) for z, w in enumerate(node.weight)]
        node.buys[sent] = 0
        if sent == "CLOSE":
            node.buys[sent] = sum(w * t["buy"][s][z] for z, w in enumerate(stays))
            stays = [w * (1 - t["buy"][s][z]) for z, w in enumerate(stays)]
        seen: list[Node] = []
        if sent == "ASK":
            wrong = (1 - t["signal_right"]) / 2
            informed = t["ask_moves"] if s == 0 else 1
            for signal in range(3):
                likely = [t["signal_right"] if z == signal else wrong for z in range(3)]
                seen.append(Node(max(s, 1), [w * informed * likely[z] for z, w in enumerate(stays)]))
            if s == 0:
                seen.append(Node(0, [w * (1 - informed) for w in stays]))
        elif sent in ("FEAT", "DISC") and s < 2:
            moves = [t["pitch_moves_cold"]] * 3 if s == 0 else t[f"{sent.lower()}_moves"]
            seen.append(Node(s + 1, [w * moves[z] for z, w in enumerate(stays)]))
            seen.append(Node(s, [w * (1 - moves[z]) for z, w in enumerate(stays)]))
        else:
            seen.append(Node(s, stays))
        node.children[sent] = [child for child in seen if child.mass > 0]

    def _sends(self, action: str, stage: int) -> dict[str, Any]:
        """P(sent intent | suggestion)."""
        result = dict.fromkeys(SENT, self.number(0))
        own = dict(zip(SENT, self.t["own"], strict=True))
        if action == "ABSTAIN":
            return own
        accept = self.t["accept"][ACTIONS.index(action)][stage]
        result[action] += accept
        result[self.t["edited_to"][ACTIONS.index(action)]] += (1 - accept) * self.t["edited_share"]
        for sent in SENT:
            result[sent] += (1 - accept) * (1 - self.t["edited_share"]) * own[sent]
        return result

    def values(self, policy: list[list[Any]] | None, discount: Any) -> tuple[list[list[Any]], Any]:
        """Q by node and the value of the start; of the optimal policy if `policy` is None."""
        q: list[list[Any]] = [[] for _ in self.nodes]
        v: list[Any] = [None for _ in self.nodes]
        for i in reversed(range(len(self.nodes))):
            node = self.nodes[i]
            after = {
                sent: node.buys[sent] / node.mass
                + discount * sum(child.mass / node.mass * v[self.index[id(child)]] for child in node.children[sent])
                for sent in SENT
            }
            for action in ACTIONS:
                sends = self.sent[action, node.stage]
                q[i].append(sum(sends[sent] * after[sent] for sent in SENT))
            chosen = _greedy(q[i]) if policy is None else policy[i]
            v[i] = sum(p * x for p, x in zip(chosen, q[i], strict=True))
        return q, v[0]

    def ladder(self, discount: Any) -> dict[str, tuple[float, float]]:
        """Every reference policy's value and success, named as in the package; KL-regularised ones in floats only."""
        n = self.number
        base = [list(self.t["base_policy"]) for _ in self.nodes]
        policies = {
            "optimum": [_greedy(q) for q in self.values(None, discount)[0]],
            "base": base,
            "uniform": [[n(1) / 6] * 6 for _ in self.nodes],
            "myopic": [_greedy(q) for q in self.values(base, n(0))[0]],
            "most-accepted": [_greedy([*(row[node.stage] for row in self.t["accept"]), n(0)]) for node in self.nodes],
            "abstain": [[n(0)] * 5 + [n(1)] for _ in self.nodes],
        }
        policy = base
        for k in (1, 2, 3):
            policy = policies[f"greedy-{k}"] = [_greedy(q) for q in self.values(policy, discount)[0]]
        policy = base
        for k in range(1, 6):
            success = self.values(policy, n(1))[0]
            policy = policies[f"filtered-bc-{k}"] = [_filter(p, q) for p, q in zip(policy, success, strict=True)]
        for beta in (0.1, 0.03, 0.01) if n is float else ():
            policy = base
            for k in (1, 2, 3):
                values = self.values(policy, discount)[0]
                policy = [_tilt(p, q, beta) for p, q in zip(policy, values, strict=True)]
                policies[f"soft-{beta}-{k}"] = policy
        return {
            name: (float(self.values(policy, discount)[1]), float(self.values(policy, n(1))[1]))
            for name, policy in policies.items()
        }


def _convert(value: Any, number: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _convert(item, number) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert(item, number) for item in value]
    return value if isinstance(value, str) else number(str(value))


def _greedy(q: list[Any]) -> list[Any]:
    best = next(i for i, x in enumerate(q) if x >= max(q) - 1e-12)
    return [int(i == best) for i in range(len(q))]


def _tilt(policy: list[float], q: list[float], beta: float) -> list[float]:
    weights = [p * math.exp((x - max(q)) / beta) for p, x in zip(policy, q, strict=True)]
    return [w / sum(weights) for w in weights]


def _filter(policy: list[Any], success: list[Any]) -> list[Any]:
    weights = [p * q for p, q in zip(policy, success, strict=True)]
    return [w / sum(weights) for w in weights] if sum(weights) > 0 else policy


def _assert_same(tables: Tables, horizon: int, discount: float, oracle: Oracle, oracle_discount: Any) -> None:
    rows = {row.name: row for row in ladder(exact.build(tables, horizon), discount)}
    for name, (value, success) in oracle.ladder(oracle_discount).items():
        assert rows[name].value == pytest.approx(value, abs=1e-9), name
        assert rows[name].success == pytest.approx(success, abs=1e-9), name


def test_the_ladder_is_the_designs() -> None:
    rows = {row.name: row for row in Funnel().ladder(0.95)}
    for name, (value, success) in ANCHOR_H6.items():
        assert rows[name].value == pytest.approx(value, abs=1.1e-4), name
        assert 100 * rows[name].success == pytest.approx(success, abs=0.06), name


@pytest.mark.parametrize("horizon", [4, 5])
def test_shorter_ladders_are_the_anchors(horizon: int) -> None:
    rows = {row.name: row.value for row in Funnel(horizon=horizon).ladder(0.95)}
    for name, value in ANCHOR_SHORT[horizon].items():
        assert rows[name] == pytest.approx(value, abs=1.1e-4), name


def test_there_are_as_many_information_states_as_the_prototype_counted() -> None:
    assert sum(len(level.stage) for level in Funnel().problem.levels) == 4539


@pytest.mark.parametrize(("horizon", "discount"), [(1, "0.95"), (2, "0"), (2, "1"), (3, "0.95")])
def test_equals_the_oracle_in_rational_arithmetic(horizon: int, discount: str) -> None:
    oracle = Oracle(Tables().to_json(), horizon, Fraction)
    _assert_same(Tables(), horizon, float(discount), oracle, Fraction(discount))


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.95, 1.0])
def test_equals_the_oracle_at_four_turns(discount: float) -> None:
    _assert_same(Tables(), 4, discount, Oracle(Tables().to_json(), 4, float), discount)


@st.composite
def other_tables(draw: st.DrawFn) -> Tables:
    """Tables nobody wrote down, some of their numbers 0 or 1."""
    share = st.sampled_from([0.0, 1.0]) | st.floats(0.01, 0.99)

    def grid(rows: int, top: float = 1.0) -> tuple[tuple[float, float, float], ...]:
        return tuple(tuple(top * draw(share) for _ in range(3)) for _ in range(rows))  # type: ignore[misc]

    def distribution(size: int) -> tuple[float, ...]:
        weights = [draw(st.floats(0.05, 1.0)) for _ in range(size)]
        return tuple(weight / sum(weights) for weight in weights)

    return Tables(
        type_prior=distribution(3),  # type: ignore[arg-type]
        accept=grid(5),  # type: ignore[arg-type]
        edited_share=draw(share),
        edited_to=tuple(draw(st.sampled_from(SENT)) for _ in range(5)),  # type: ignore[arg-type]
        own=distribution(5),  # type: ignore[arg-type]
        leave=grid(1, 0.5)[0],
        leave_extra=tuple(grid(3, 0.5) for _ in range(5)),  # type: ignore[arg-type]
        buy=grid(3),  # type: ignore[arg-type]
        ask_moves=draw(share),
        signal_right=draw(share),
        pitch_moves_cold=draw(share),
        feat_moves=grid(1)[0],
        disc_moves=grid(1)[0],
        base_policy=distribution(6),  # type: ignore[arg-type]
    )


@settings(max_examples=12)
@given(tables=other_tables(), horizon=st.integers(1, 3), discount=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_equals_the_oracle_on_tables_nobody_wrote_down(tables: Tables, horizon: int, discount: float) -> None:
    _assert_same(tables, horizon, discount, Oracle(tables.to_json(), horizon, float), discount)


def test_q_of_every_first_action_equals_the_oracle() -> None:
    oracle = Oracle(Tables().to_json(), 4, float)
    base = [list(Tables().base_policy) for _ in oracle.nodes]
    problem = exact.build(Tables(), 4)
    for policy, solution in (
        (None, optimum(problem, 0.95)),
        (base, evaluate(problem, problem.by_stage(problem.base), 0.95)),
    ):
        assert solution.q[0][0].tolist() == pytest.approx(oracle.values(policy, 0.95)[0][0], abs=1e-12)


def test_a_policy_may_be_any_function_of_turn_stage_and_belief() -> None:
    """Ask until the belief is firm; the oracle follows the same rule over unnormalised histories."""

    def rule(turn: int, stage: int, belief: list[float]) -> int:
        if stage == 0 or max(belief) < 0.5:
            return 0
        return 3 if stage == 2 or turn == 3 else (2, 1, 3)[belief.index(max(belief))]

    def policy(turn: int, stage: Any, belief: Any) -> Any:
        chosen = [rule(turn, int(s), b.tolist()) for s, b in zip(stage, belief, strict=True)]
        return [[float(action == i) for i in range(6)] for action in chosen]

    problem = exact.build(Tables(), 4)
    value = evaluate(problem, tabulate(problem, policy), 0.95).value
    oracle = Oracle(Tables().to_json(), 4, float)
    table = []
    for turn, layer in enumerate(oracle.layers):
        for node in layer:
            action = rule(turn, node.stage, [w / node.mass for w in node.weight])
            table.append([int(action == i) for i in range(6)])
    assert value == pytest.approx(oracle.values(table, 0.95)[1], abs=1e-12)
    assert value > 0.15


def test_beliefs_are_posteriors_whose_mean_is_the_prior() -> None:
    for level in exact.build(Tables(), 5).levels:
        assert level.features.sum(-1) == pytest.approx(1)
        assert (level.probability.sum(-1) + level.outcome <= 1 + 1e-12).all()


def test_ten_turns_are_feasible_and_endless_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    value = optimum(Funnel(horizon=10).problem, 0.95).value
    assert 0.42 < value < 0.45
    monkeypatch.setattr(exact, "MAX_STATES", 1000)
    with pytest.raises(BadSpecError, match="Use a horizon of at most 4"):
        exact.build(Tables(), 6)


def test_tables_come_from_a_file_in_whole_or_in_part(tmp_path: Any) -> None:
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(Tables().to_json()))
    assert Tables.from_file(whole) == Tables()
    part = tmp_path / "part.json"
    part.write_text(json.dumps({"ask_moves": 1.0, "own": [0, 0, 0, 1, 0]}))
    tables = Tables.from_file(part)
    assert (tables.ask_moves, tables.own, tables.leave) == (1.0, (0, 0, 0, 1, 0), Tables().leave)
    env = Funnel(horizon=3, tables=str(part))
    oracle = Oracle(tables.to_json(), 3, float)
    assert env.ladder(0.9)[0].value == pytest.approx(oracle.ladder(0.9)["optimum"][0], abs=1e-9)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold one JSON object"),
        ('{"acept": 1}', "unknown field 'acept'"),
        ('{"ask_moves": 1.2}', r"ask_moves has a number outside of \[0, 1\]"),
        ('{"ask_moves": "often"}', "ask_moves must be numbers"),
        ('{"leave": [0.1, 0.1]}', r"leave must be numbers of shape \[3\]"),
        ('{"own": [1, 0, 0, 0, 0.5]}', "own sums to 1.5"),
        ('{"leave": [0.1, 0.1, 0.95]}', "leave . leave_extra exceeds 1"),
        ('{"edited_to": ["ASK", "FEAT", "SING", "ASK", "CHAT"]}', "edited_to must name 5"),
        ('{"edited_to": 3}', "edited_to must name 5"),
        ('{"buy": [[0.1, NaN, 0.1], [0, 0, 0], [0, 0, 0]]}', "buy has a number outside"),
    ],
)
def test_bad_tables_are_named(tmp_path: Any, content: str, problem: str) -> None:
    path = tmp_path / "tables.json"
    path.write_text(content)
    with pytest.raises(BadSpecError, match=problem):
        Funnel(tables=str(path))


def test_a_missing_tables_file_is_named(tmp_path: Any) -> None:
    with pytest.raises(BadSpecError, match=r"cannot read .*none\.json"):
        Funnel(tables=str(tmp_path / "none.json"))
