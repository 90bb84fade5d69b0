"""The interface of improvement operators, and how one is found by the name in `improve.algorithm`.

An operator is one module in `ippo_trainer.ppo.algorithms`, named as the algorithm in lower case, with a function
`make(policy, q, settings, ranks)`. Sampling, Q's scores, the KL budget, guards, held-out states and checkpoints are the
trainer's business; the operator only turns scored responses into a better policy.
"""

import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.ppo import algorithms
from ippo_trainer.ppo.rollout import Rollout
from ippo_trainer.ppo.settings import Settings
from ippo_trainer.training.checkpoint import Resumable
from ippo_trainer.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Experience:
    """Scored responses of the current policy to a batch of states. Tables as in `Rollout`."""

    rollout: Rollout
    rewards: Tensor
    """(N,) normalised Q, truncated responses penalised."""
    old_logprobs: Tensor
    """(N, T) under the current policy, by the trainer's own forward."""
    ref_logprobs: Tensor
    """(N, T) under pi_i."""
    kl_coefficient: float
    """Weight of KL(policy || pi_i), in units of the rewards."""
    rate_share: float
    """Share of the policy's peak learning rate in this update."""


class ImprovementOperator(Resumable, Protocol):
    """Changes the policy that it was made for, in place. Its parts are what it trains besides the policy, and its
    optimisers."""

    def warm_up(self, experience: Experience) -> tuple[dict[str, float], bool]:
        """Learns what it needs from samples of pi_i without moving the policy.

        Called `critic_warmup_updates` times at most, before the first `improve`.

        Returns:
            Figures for the curves, and whether it is ready for `improve`.
        """
        ...

    def improve(self, experience: Experience) -> dict[str, float]:
        """One update of the policy. Returns figures for the curves; not finite ones end the step."""
        ...


class Factory(Protocol):
    """Makes an operator."""

    def __call__(self, policy: Any, q: Any, settings: Settings, ranks: Ranks = ...) -> ImprovementOperator:
        """For a policy, which it shards over the processes of `ranks` before it makes optimisers."""
        ...


def names() -> list[str]:
    """The algorithms there are."""
    return sorted(module.name.upper() for module in pkgutil.iter_modules(algorithms.__path__))


def find(name: str) -> Factory:
    """The factory of an algorithm. Raises BadSpecError for an unknown one."""
    if name not in names():
        raise BadSpecError(f"improve.algorithm {name!r} is unknown", f"Use one of {', '.join(names())}.")
    factory: Factory = import_module(f"{algorithms.__name__}.{name.lower()}").make
    return factory
