"""The numbers of SR-funnel: who accepts what, who leaves, who buys, what moves a customer on."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ippo_trainer.contract.errors import BadSpecError

Array = NDArray[np.float64]

TYPES = ("price", "feature", "impatient")
STAGES = ("cold", "needs-known", "quoted")
INTENTS = ("ASK", "FEAT", "DISC", "CLOSE", "CHAT", "ABSTAIN")
SENT = INTENTS[:5]
ASK, FEAT, DISC, CLOSE, CHAT, ABSTAIN = range(6)

Row3 = tuple[float, float, float]
Row5 = tuple[float, float, float, float, float]
Row6 = tuple[float, float, float, float, float, float]
Grid3 = tuple[Row3, Row3, Row3]
Grid5 = tuple[Row3, Row3, Row3, Row3, Row3]


@dataclass(frozen=True)
class Tables:
    """Every probability of the game. By the defaults what is accepted most, CHAT, hardly ever sells, and what
    sells at once is far from the best policy (`ippo exact --env sr-funnel`).

    Rows go by type (price, feature, impatient), by stage (cold, needs known, quoted) or by intent (ASK, FEAT, DISC,
    CLOSE, CHAT[, ABSTAIN]). A JSON file may set any subset of the fields.
    """

    type_prior: Row3 = (1 / 3, 1 / 3, 1 / 3)
    """P(type)."""
    accept: Grid5 = ((0.85,) * 3, (0.80,) * 3, (0.45,) * 3, (0.30, 0.60, 0.75), (0.95,) * 3)
    """[intent][stage]: the suggestion is sent as it is."""
    edited_share: float = 0.5
    """Share edited among the suggestions that are not accepted; the rest are rejected."""
    edited_to: tuple[str, str, str, str, str] = ("ASK", "FEAT", "FEAT", "ASK", "CHAT")
    """[intent]: what an edited suggestion becomes."""
    own: Row5 = (0.0, 0.25, 0.0, 0.15, 0.60)
    """[intent]: what the business sends by itself after a rejection or an abstention."""
    leave: Row3 = (0.06, 0.06, 0.15)
    """[type]: the customer leaves after any message,"""
    leave_extra: tuple[Grid3, Grid3, Grid3, Grid3, Grid3] = (
        ((0.0,) * 3,) * 3,
        ((0.0, 0.0, 0.05),) * 3,
        ((0.0,) * 3,) * 3,
        ((0.10,) * 3, (0.0,) * 3, (0.0,) * 3),
        ((0.0, 0.0, 0.08),) * 3,
    )
    """[intent][stage][type]: and so much likelier after this one."""
    buy: Grid3 = ((0.03,) * 3, (0.10, 0.10, 0.40), (0.45,) * 3)
    """[stage][type]: a customer who stayed buys after CLOSE."""
    ask_moves: float = 0.8
    """ASK moves a cold customer on."""
    signal_right: float = 0.7
    """The signal of the type that ASK brings is right; each wrong one has half of the rest."""
    pitch_moves_cold: float = 0.25
    """FEAT or DISC moves a cold customer on."""
    feat_moves: Row3 = (0.15, 0.70, 0.20)
    """[type]: FEAT takes a customer whose needs are known to quoted."""
    disc_moves: Row3 = (0.75, 0.20, 0.30)
    """[type]: DISC does."""
    base_policy: Row6 = (0.25, 0.25, 0.05, 0.10, 0.30, 0.05)
    """[intent with ABSTAIN]: the base policy pi_0."""

    def __post_init__(self) -> None:
        """Makes every number a float; BadSpecError names what is not a probability or does not sum to 1."""
        for field in dataclasses.fields(self):
            if field.name != "edited_to":
                shape = np.asarray(field.default, dtype=np.float64).shape
                numbers = _probabilities(field.name, getattr(self, field.name), shape)
                object.__setattr__(self, field.name, numbers)
        edited_to: object = self.edited_to
        if not isinstance(edited_to, tuple) or len(edited_to) != len(SENT) or not set(edited_to) <= set(SENT):
            raise BadSpecError(f"tables: edited_to must name {len(SENT)} of {', '.join(SENT)}, one per intent")
        for name in ("type_prior", "own", "base_policy"):
            if abs(sum(getattr(self, name)) - 1) > 1e-9:
                raise BadSpecError(f"tables: {name} sums to {sum(getattr(self, name)):.6g} instead of 1")
        if self.leave_probability().max() > 1 + 1e-12:
            raise BadSpecError("tables: leave + leave_extra exceeds 1")

    @classmethod
    def from_file(cls, path: Path) -> "Tables":
        """Reads a JSON object of fields; those not named keep their defaults. Raises BadSpecError."""
        try:
            value = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise BadSpecError(
                f"tables: cannot read {path}: {error.strerror}", "Give the path of a JSON file."
            ) from error
        except ValueError as error:
            raise BadSpecError(f"tables: {path} is not JSON: {error}") from error
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(value, dict):
            raise BadSpecError(f"tables: {path} must hold one JSON object", f"Its fields may be {', '.join(names)}.")
        for name in value:
            if name not in names:
                raise BadSpecError(f"tables: {path} has an unknown field {name!r}", f"Known are {', '.join(names)}.")
        return cls(**{name: _frozen(item) for name, item in value.items()})

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `from_file` reads them back."""
        return dataclasses.asdict(self)

    def response(self) -> Array:
        """P(sent intent | stage, suggested intent), (3, 6, 5). ABSTAIN's row is the business's own choice."""
        accept = np.asarray(self.accept).T[:, :, None]
        edited = np.eye(len(SENT))[[SENT.index(intent) for intent in self.edited_to]]
        other = self.edited_share * edited + (1 - self.edited_share) * np.asarray(self.own)
        response = np.broadcast_to(np.asarray(self.own), (len(STAGES), len(INTENTS), len(SENT))).copy()
        response[:, : len(SENT)] = accept * np.eye(len(SENT)) + (1 - accept) * other
        return response

    def leave_probability(self) -> Array:
        """P(leaves | sent intent, stage, type), (5, 3, 3)."""
        leave: Array = np.add(self.leave_extra, self.leave)
        return leave

    def moves(self) -> Array:
        """P(stage moves on by one | sent intent, stage, type) of a customer who stays and does not buy, (5, 3, 3)."""
        moves = np.zeros((len(SENT), len(STAGES), len(TYPES)))
        moves[ASK, 0] = self.ask_moves
        moves[[FEAT, DISC], 0] = self.pitch_moves_cold
        moves[FEAT, 1], moves[DISC, 1] = self.feat_moves, self.disc_moves
        return moves

    def signals(self) -> Array:
        """P(signal | type), (type, signal), (3, 3)."""
        wrong = (1 - self.signal_right) / (len(TYPES) - 1)
        return np.full((len(TYPES), len(TYPES)), wrong) + (self.signal_right - wrong) * np.eye(len(TYPES))


def _probabilities(name: str, value: object, shape: tuple[int, ...]) -> Any:
    """The value as nested tuples of floats; whole numbers in a file would otherwise make arrays of integers."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.full((0,), np.nan)
    if array.shape != shape:
        raise BadSpecError(f"tables: {name} must be numbers of shape {list(shape)}, not {value!r:.80}")
    if not bool(((array >= 0) & (array <= 1)).all()):
        raise BadSpecError(f"tables: {name} has a number outside of [0, 1]")
    return _frozen(array.tolist())


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
