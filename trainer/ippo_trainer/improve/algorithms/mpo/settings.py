"""What shapes one improvement by MPO: the user's settings as numbers, and the constants behind them."""

from dataclasses import dataclass
from typing import Self

from ippo_trainer.contract import params


@dataclass(frozen=True, slots=True)
class MPOSettings:
    """See `params.Mpo` for the fields of that name."""

    conversations: int
    own_candidates: int
    explored_candidates: int
    explorer_share: float
    epochs: int
    batch_size: int
    learning_rate: float
    least_temperature: float

    proposal_batch: int = 64
    """Conversations whose candidates are drawn and scored in one step."""
    state_factor: float = 2.0
    """No state's tilt spends more than klTarget times this, also where the mean has less to spend."""
    least_weight: float = 0.02
    """Candidates below are not trained on: their gradients cost as much as the others' and move nothing."""

    @classmethod
    def of(cls, improve: params.Improve) -> Self:
        """Reads the decimals of a spec."""
        mpo = improve.mpo or params.Mpo()
        return cls(
            conversations=mpo.value("conversations"),
            own_candidates=mpo.value("own_candidates"),
            explored_candidates=mpo.value("explored_candidates"),
            explorer_share=float(mpo.value("explorer_share")),
            epochs=mpo.value("epochs"),
            batch_size=mpo.value("batch_size"),
            learning_rate=float(mpo.value("learning_rate")),
            least_temperature=float(mpo.value("least_temperature")),
        )
