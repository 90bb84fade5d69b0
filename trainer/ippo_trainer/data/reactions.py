"""What a business does with a suggestion. No other import: environments read it too."""

from typing import Literal, get_args

Reaction = Literal["accepted", "edited", "rejected"]
REACTIONS: tuple[Reaction, ...] = get_args(Reaction)
