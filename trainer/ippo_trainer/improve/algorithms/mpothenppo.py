"""MPO, then PPO from where MPO has come, within one KL budget to the same pi_i.

MPO finds what the policy no longer says, in one tilt. PPO then samples from the policy that came of it, so that its
likelihoods, and not only those of the candidates, follow Q.
"""

from typing import Any

from ippo_trainer.improve.algorithm import Guard, Look, Task
from ippo_trainer.improve.algorithms.mpo import MPO
from ippo_trainer.improve.algorithms.ppo import PPO
from ippo_trainer.training.checkpoint import StatePart


class MPOThenPPO:
    """An `Algorithm`; see `ippo_trainer.improve.algorithm`."""

    def __init__(self, task: Task) -> None:
        self.mpo = MPO(task)
        self.ppo = PPO(task, from_start=False)

    @property
    def warm_ups(self) -> int:
        return self.mpo.warm_ups + self.ppo.warm_ups

    @property
    def updates(self) -> int:
        return self.mpo.updates + self.ppo.updates

    def run(self, guard: Guard) -> None:
        self.mpo.run(_FirstPart(guard, self.mpo))
        if guard.goes_on():
            self.ppo.run(guard)

    def parts(self) -> dict[str, StatePart]:
        """Those of both; they have names in common."""
        both = {"mpo": self.mpo.parts(), "ppo": self.ppo.parts()}
        return {f"{algorithm}-{name}": part for algorithm, parts in both.items() for name, part in parts.items()}

    def facts(self) -> dict[str, Any]:
        return {"mpo": self.mpo.facts(), "ppo": self.ppo.facts()}

    def restore(self, facts: dict[str, Any]) -> None:
        self.mpo.restore(facts["mpo"])
        self.ppo.restore(facts["ppo"])


class _FirstPart:
    """The `Guard` of MPO: its updates end, and those of the improvement go on."""

    def __init__(self, guard: Guard, mpo: MPO) -> None:
        self._guard, self._mpo = guard, mpo

    def goes_on(self) -> bool:
        return self._mpo.position.updates < self._mpo.updates and self._guard.goes_on()

    def end(self, reason: str, result: str) -> None:
        """What comes after MPO says which policy is kept."""

    def within_budget(self, kl: float) -> bool:
        return self._guard.within_budget(kl)

    def finite(self, figures: dict[str, float]) -> bool:
        return self._guard.finite(figures)

    def look(self) -> Look | None:
        return self._guard.look()

    def add_row(self, figures: dict[str, float]) -> None:
        self._guard.add_row(figures)

    def amend(self, figures: dict[str, float]) -> None:
        self._guard.amend(figures)

    def after_warm_up(self, row: dict[str, float] | None = None) -> None:
        self._guard.after_warm_up(row)

    def after_update(self) -> None:
        self._guard.after_update()
