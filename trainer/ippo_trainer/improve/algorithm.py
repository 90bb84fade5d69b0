"""What an improvement algorithm is given and asked for, and how it is found by the name in `improve.algorithm`.

An algorithm is a class of its name, in a module of `ippo_trainer.improve.algorithms` of that name in lower case. The
name also stands in `contract.algorithms`, with what the algorithm holds. Held-out measures, the KL budget, guards, the
choice of the policy that is kept, checkpoints and the report are not its business.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.improve import algorithms
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.settings import ImproveSettings
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.training.checkpoint import ResumableTraining
from ippo_trainer.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Task:
    """What there is to improve, and with what. Models are whole; `ranks.shard` divides those that are trained."""

    policy: Any
    """Trained in place; it is pi_i at first."""
    reference: Any
    """pi_i, frozen."""
    load_explorer: Callable[[], Any]
    """The warm-start policy, frozen and whole; `reference` where that still is pi_i. BadSpecError if it is not there.
    Who asks for it shards it."""
    sampler: Sampler
    """Draws suggestions from any policy and scores them by Q, which is frozen."""
    states: LoggedStates
    """Those of the training conversations."""
    settings: ImproveSettings
    """What holds for every algorithm."""
    section: params.Improve
    """The user's section, for what is the algorithm's own."""
    collect: params.Collect
    """How policies are deployed, and the explorer."""

    @property
    def q(self) -> Any:
        """The frozen Q model."""
        return self.sampler.q

    @property
    def ranks(self) -> Ranks:
        """The processes that work on it together."""
        return self.sampler.ranks


LAST, SAFE, BEST, START = "last", "safe", "best", "start"
"""Which policy is kept: the last one, the last one within the budget, the best one on held-out states, or pi_i."""
PROBES = 4
"""The most looks at held-out states during the updates, where an algorithm leaves them to `collapsed`."""


@dataclass(frozen=True, slots=True)
class Look:
    """A policy on held-out states that nobody trains on."""

    kl: float
    """KL(policy || pi_i), nats per suggestion."""
    lift: float
    """E[Q] less that of pi_i."""
    collapsed: bool
    """Whether more than half of the best lift is lost, beyond what chance does."""


class Guard(Protocol):
    """Watches over the updates of an algorithm. What it is told must be the same on every rank."""

    def goes_on(self) -> bool:
        """Whether there is another update."""
        ...

    def within_budget(self, kl: float) -> bool:
        """Whether the policy, as it is before an update, may be moved on; else the updates end.

        Args:
            kl: KL(policy || pi_i), nats per suggestion.
        """
        ...

    def finite(self, figures: dict[str, float]) -> bool:
        """Whether an update went well; else the updates end, and a policy of before is kept."""
        ...

    def look(self) -> Look | None:
        """Measures the policy on held-out states, if there are any, and remembers the best one within the budget."""
        ...

    def add_row(self, figures: dict[str, float]) -> None:
        """Adds a row to the curves."""
        ...

    def amend(self, figures: dict[str, float]) -> None:
        """Adds figures to the newest row."""
        ...

    def end(self, reason: str, result: str) -> None:
        """Ends the updates, in words, and says which policy is kept: LAST, SAFE, BEST or START."""
        ...

    def after_warm_up(self, row: dict[str, float] | None = None) -> None:
        """A step that left the policy alone is over, and the algorithm's state is complete. It may save, or raise.

        Args:
            row: of the warm-up's curves.
        """
        ...

    def after_update(self) -> None:
        """An update is over, and the algorithm's state is complete. It may save, or raise."""
        ...


class Algorithm(ResumableTraining, Protocol):
    """Changes the policy of its task, in place. Its parts are what it trains besides the policy, and optimisers."""

    def __init__(self, task: Task) -> None:
        """Copies what it needs of the models first, then shards the policy and what else it trains, then makes
        optimisers."""
        ...

    @property
    def warm_ups(self) -> int:
        """The most steps before the policy moves."""
        ...

    @property
    def updates(self) -> int:
        """The most updates of the policy."""
        ...

    def run(self, guard: Guard) -> None:
        """Goes on from where it is. `guard.goes_on` comes before every update, `guard.after_update` after it; where the
        guard says that the updates end, it returns. How it keeps to the budget is its own choice: by `within_budget`
        before every update, or by `look` now and then, with BEST as the result.
        """
        ...


def collapsed(guard: Guard, updates: int, most: int) -> bool:
    """Looks at held-out states now and then; ends the updates if E[Q] has clearly fallen below its best.

    Args:
        guard: of the improvement; its newest row gets what is seen.
        updates: that were made.
        most: that there can be.
    """
    look = guard.look() if updates and updates % -(-most // PROBES) == 0 else None
    if look is None:
        return False
    guard.amend({"probe_q_lift": look.lift, "probe_kl": look.kl})
    if look.collapsed:
        guard.end(f"E[Q] on held-out states collapsed after {updates} updates", BEST)
    return look.collapsed


def find(name: str) -> type[Algorithm]:
    """The class of an algorithm. Raises BadSpecError for an unknown one."""
    modules = {module.name for module in pkgutil.iter_modules(algorithms.__path__)}
    module = import_module(f"{algorithms.__name__}.{name.lower()}") if name.lower() in modules else None
    algorithm: type[Algorithm] | None = getattr(module, name, None)
    if algorithm is None:
        raise BadSpecError(f"improve.algorithm {name!r} is unknown", f"Use one of {', '.join(ALGORITHMS)}.")
    return algorithm
