"""The shop as a `DecisionProblem`: a state is the customer's stage and the catalogues that are possible.

With the catalogue in the context one is possible from the beginning. Without, an offer tells what it was like, and the
optimum is the best that anybody can do who does not see the context.
"""

import numpy as np

from ippo_trainer.environments.catalogue import rules
from ippo_trainer.environments.catalogue.rules import CATALOGUES, INTENTS, PRODUCTS, SENT, STAGES, Visit
from ippo_trainer.environments.problem import DecisionProblem, Level, continuations

_STAGES: list[tuple[int, int | None]] = [
    (stage, catalogue) for stage in range(len(STAGES)) for catalogue in (*CATALOGUES, None)
]
"""The customer's stage, and the catalogue if it is known."""


def visits_by_turn(turns: int, shown: bool) -> list[list[Visit]]:
    """The states that are possible at every turn, sorted."""
    first = [(catalogue,) for catalogue in CATALOGUES] if shown else [tuple(CATALOGUES)]
    by_turn = [[Visit(stage, catalogues) for stage in range(len(STAGES)) for catalogues in first]]
    while len(by_turn) < turns:
        following = {
            way.after
            for visit in by_turn[-1]
            for sent in range(len(SENT))
            for way in rules.ways(visit, sent)
            if way.after is not None
        }
        by_turn.append(sorted(following))
    return by_turn


def build(turns: int, shown: bool) -> DecisionProblem:
    """Features of a state are the catalogues that are possible, as flags; stages are the customer's, by catalogue."""
    by_turn = visits_by_turn(turns, shown)
    groups = {visit: number for number, visit in enumerate(sorted({visit for each in by_turn for visit in each}))}
    levels = [_level(visits, following, groups) for visits, following in zip(by_turn, [*by_turn[1:], []], strict=True)]
    start = np.array([rules.START[visit.stage] for visit in by_turn[0]]) * len(STAGES) / len(by_turn[0])
    accepted = np.tile([*rules.ACCEPTS, 0.0], (len(_STAGES), 1))
    uniform = np.full((len(_STAGES), len(INTENTS)), 1 / len(INTENTS))
    base = np.array([rules.base(stage, catalogue) for stage, catalogue in _STAGES])
    names = tuple(
        f"{STAGES[stage]}, {'catalogue unknown' if catalogue is None else f'{PRODUCTS[catalogue]} on offer'}"
        for stage, catalogue in _STAGES
    )
    return DecisionProblem(INTENTS, names, response(), accepted, start, levels, base, uniform)


def stage_of(visit: Visit) -> int:
    """Index into the problem's stages."""
    return _STAGES.index((visit.stage, visit.catalogues[0] if len(visit.catalogues) == 1 else None))


def response() -> np.ndarray:
    """(S, A, M) what is sent, by stage and suggestion; the same in all stages."""
    table = np.zeros((len(INTENTS), len(SENT)))
    table[rules.ABSTAIN] = rules.OWN
    for intent, accepts in enumerate(rules.ACCEPTS):
        table[intent] = (1 - accepts) * (1 - rules.EDITS) * np.array(rules.OWN)
        table[intent, intent] += accepts + (1 - accepts) * rules.EDITS
    return np.stack([table] * len(_STAGES))


def _level(visits: list[Visit], following: list[Visit], groups: dict[Visit, int]) -> Level:
    """`following` are the states of the next turn; none after the last."""
    place = {visit: number for number, visit in enumerate(following)}
    ways = [
        [
            [(place[way.after], way.probability) for way in rules.ways(visit, sent) if way.after in place]
            for sent in range(len(SENT))
        ]
        for visit in visits
    ]
    probability, child = continuations(ways)
    features = np.array([[catalogue in visit.catalogues for catalogue in CATALOGUES] for visit in visits])
    return Level(
        stage=np.array([stage_of(visit) for visit in visits]),
        features=features.astype(np.float64),
        group=np.array([groups[visit] for visit in visits]),
        outcome=np.array([[rules.buys(visit, sent) for sent in range(len(SENT))] for visit in visits]),
        probability=probability,
        child=child,
    )
