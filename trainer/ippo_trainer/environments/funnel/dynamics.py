"""One turn of SR-funnel over numbers: reaction and sent intent, then leaving, then buying or moving on."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.environments.funnel.tables import ABSTAIN, ASK, CLOSE, SENT, Tables
from ippo_trainer.environments.streams import Seeds, categorical, uniforms

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
ACCEPTED, EDITED, REJECTED = range(3)
NO_SIGNAL = -1


class Draw(IntEnum):
    """What a turn's random numbers are for; each has a stream of its own."""

    TYPE = 0
    REACTION = 1
    OWN = 2
    LEAVE = 3
    BUY = 4
    MOVE = 5
    SIGNAL = 6
    SENT_WORDING = 7
    CUSTOMER_WORDING = 8
    INTENT = 9
    INTENT_WORDING = 10
    GREETING = 11


@dataclass(frozen=True)
class Turns:
    """What happened in one turn to N conversations; all arrays are (N,)."""

    reaction: Ints
    sent: Ints
    leaves: Bools
    buys: Bools
    stage: Ints
    """After the turn."""
    signal: Ints
    """0 … 2, or NO_SIGNAL."""


class Dynamics:
    """Draws turns of conversations given their hidden types."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._accept = np.vstack([np.asarray(tables.accept), np.zeros((1, 3))])
        self._edited_to = np.array([SENT.index(intent) for intent in tables.edited_to] + [ABSTAIN])
        self._own = np.asarray(tables.own)
        self._leave = tables.leave_probability()
        self._buy = np.asarray(tables.buy)
        self._moves = tables.moves()
        self._signals = tables.signals()

    def types(self, seeds: Seeds) -> Ints:
        """The hidden type of each conversation."""
        return categorical(np.asarray(self.tables.type_prior), uniforms(seeds, 0, Draw.TYPE))

    def turn(self, seeds: Seeds, turn: int, types: Ints, stage: Ints, suggested: Ints) -> Turns:
        """One turn. `suggested` holds indices into INTENTS; ABSTAIN also stands for what did not parse."""
        accept = self._accept[suggested, stage]
        edit = np.where(suggested == ABSTAIN, 0.0, (1 - accept) * self.tables.edited_share)
        u = uniforms(seeds, turn, Draw.REACTION)
        reaction = np.where(u < accept, ACCEPTED, np.where(u < accept + edit, EDITED, REJECTED))
        own = categorical(self._own, uniforms(seeds, turn, Draw.OWN))
        sent = np.choose(reaction, [suggested, self._edited_to[suggested], own])

        leaves = uniforms(seeds, turn, Draw.LEAVE) < self._leave[sent, stage, types]
        buys = ~leaves & (sent == CLOSE) & (uniforms(seeds, turn, Draw.BUY) < self._buy[stage, types])
        stays = ~leaves & ~buys
        moves = stays & (uniforms(seeds, turn, Draw.MOVE) < self._moves[sent, stage, types])
        # At the first stage ASK brings its signal only when it moves the customer on.
        gives = stays & (sent == ASK) & (moves | (stage > 0))
        signal = np.where(gives, categorical(self._signals[types], uniforms(seeds, turn, Draw.SIGNAL)), NO_SIGNAL)
        return Turns(reaction, sent, leaves, buys, stage + moves, signal)
