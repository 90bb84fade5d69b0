"""The garden as a `DecisionProblem`: a state is a plant and a week. Of every week there are the plants that can be."""

from itertools import product

import numpy as np

from ippo_trainer.environments.garden import rules
from ippo_trainer.environments.garden.rules import INTENTS, MOISTURES, SENT, Plant
from ippo_trainer.environments.problem import DecisionProblem, Level, continuations


def plants_by_week(weeks: int) -> list[list[Plant]]:
    """The plants that are possible in every week, sorted."""
    weekly = [sorted(Plant(moisture, 0, 0, 0) for moisture, share in enumerate(rules.START) if share > 0)]
    while len(weekly) < weeks:
        ways = product(weekly[-1], range(len(SENT)))
        weekly.append(sorted({after for plant, sent in ways for after in rules.next_plants(plant, sent)}))
    return weekly


def build(weeks: int) -> DecisionProblem:
    """Features of a state are the plant's; stages are how moist the soil is."""
    weekly = plants_by_week(weeks)
    groups = {plant: number for number, plant in enumerate(sorted({plant for plants in weekly for plant in plants}))}
    levels = [_level(plants, following, groups) for plants, following in zip(weekly, [*weekly[1:], []], strict=True)]
    start = np.array([rules.START[plant.moisture] for plant in weekly[0]])
    accepted = np.array([[*row, 0.0] for row in rules.ACCEPTS])
    uniform = np.full((len(MOISTURES), len(INTENTS)), 1 / len(INTENTS))
    return DecisionProblem(INTENTS, MOISTURES, response(), accepted, start, levels, np.array(rules.BASE), uniform)


def response() -> np.ndarray:
    """(S, A, M) what is sent, by soil and suggestion."""
    table = np.zeros((len(MOISTURES), len(INTENTS), len(SENT)))
    for moisture in range(len(MOISTURES)):
        table[moisture, rules.ABSTAIN] = rules.OWN[moisture]
        for intent in range(len(SENT)):
            accepts = rules.ACCEPTS[moisture][intent]
            table[moisture, intent] = (1 - accepts) * (1 - rules.EDITS) * np.array(rules.OWN[moisture])
            table[moisture, intent, intent] += accepts + (1 - accepts) * rules.EDITS
    return table


def _level(plants: list[Plant], following: list[Plant], groups: dict[Plant, int]) -> Level:
    """`following` are the plants of the next week; none after the last."""
    place = {plant: number for number, plant in enumerate(following)}
    outcome = np.array([[rules.flowers(plant, sent) for sent in range(len(SENT))] for plant in plants])
    ways = [
        [
            [
                (place[after], (1 - rules.flowers(plant, sent)) * (1 - rules.leaves(plant, sent)) * probability)
                for after, probability in (rules.next_plants(plant, sent).items() if following else ())
            ]
            for sent in range(len(SENT))
        ]
        for plant in plants
    ]
    probability, child = continuations(ways)
    return Level(
        stage=np.array([plant.moisture for plant in plants]),
        features=np.array(plants, dtype=np.float64),
        group=np.array([groups[plant] for plant in plants]),
        outcome=outcome,
        probability=probability,
        child=child,
    )
