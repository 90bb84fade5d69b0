"""The critic: a value for the state before each response token."""

from typing import Any

from torch import Tensor, nn

from ippo_trainer.models.adapters import copied, trainable
from ippo_trainer.models.packing import PackedBatch, hidden_states
from ippo_trainer.models.parts import decoder


class Critic(nn.Module):
    """The value of the state before each response token, in units of the normalised reward.

    Its trunk starts from Q's, which already tells good states from bad ones; its head starts from zero, because Q's own
    saw ends of responses only.
    """

    def __init__(self, q: Any) -> None:
        super().__init__()
        self.trunk = trainable(copied(decoder(q)))
        self.head = nn.Linear(q.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(next(q.parameters()).device)

    def forward(self, packed: PackedBatch) -> Tensor:
        """(T,) values, flat over the response tokens of a packed batch."""
        states = hidden_states(self.trunk, packed)[packed.predict_index]
        values: Tensor = self.head(states.to(self.head.weight.dtype)).squeeze(-1).float()
        return values.clone()  # sharded modules return no views
