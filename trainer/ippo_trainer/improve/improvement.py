"""The improvement step around an algorithm: the KL budget, guards on held-out states, and the policy that is kept."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ippo_trainer.improve.algorithm import BEST, LAST, SAFE, START, Algorithm, Look, Task
from ippo_trainer.improve.heldout import HeldOut, HeldOutSums
from ippo_trainer.models.adapters import copied
from ippo_trainer.stats.intervals import ratio_interval
from ippo_trainer.training.checkpoint import StatePart, Weights, WeightsSnapshot

COLLAPSE_CONFIDENCE = 0.9973
"""Two-sided, with which E[Q] must have fallen below its best to count as a collapse: three standard errors."""


@dataclass
class BestOnProbe:
    """The policy with the highest E[Q] that the probe has seen."""

    update: int
    lift: float
    q: list[float]
    """Sums of E[Q] by conversation of the probe, to compare with pairwise."""


@dataclass
class ImprovementPosition:
    """Where an improvement is. All of it goes into a checkpoint, as JSON."""

    warm_ups: int = 0
    updates: int = 0
    safe_update: int = 0
    """Updates that the newest policy within the budget has had."""
    best: BestOnProbe | None = None
    end: str = ""
    """Why no more updates are made, in words; empty while they go on."""
    result: str = LAST
    """Which policy is the result."""
    result_update: int = 0
    """Updates that it has had; 0 for pi_i."""
    curves: list[dict[str, float]] = field(default_factory=list)
    warm_up_curves: list[dict[str, float]] = field(default_factory=list)


class Improvement:
    """One improvement step of a policy; a `Loop`, and the `Guard` of its algorithm.

    Args:
        task: what is improved.
        algorithm: made for the task.
        probe: held-out states for the collapse guard; may be empty.
    """

    def __init__(self, task: Task, algorithm: Algorithm, probe: HeldOut) -> None:
        self.task, self.algorithm, self.probe = task, algorithm, probe
        self.position = ImprovementPosition()
        self._snapshots = {name: WeightsSnapshot(task.policy) for name in (SAFE, BEST)}
        self._start = WeightsSnapshot(task.policy)
        self._start.take()
        self._probe_base: HeldOutSums | None = None
        self._after_step: Callable[[], None] = lambda: None

    # A loop ---------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Warm-ups and updates so far."""
        return self.position.warm_ups + self.position.updates

    @property
    def total(self) -> int:
        return self.algorithm.warm_ups + self.algorithm.updates

    def figures(self) -> dict[str, float]:
        last = self.position.curves[-1] if self.position.curves else {}
        return {name: last[name] for name in ("kl", "q_lift") if name in last}

    def run(self, after_step: Callable[[], None]) -> None:
        """Runs the algorithm until its updates or the KL budget are over or a guard ends it, and keeps one policy."""
        self._after_step = after_step
        if not self.position.end:
            self.algorithm.run(self)
        if not self.position.end:
            self.end(f"all {self.position.updates} updates were made", LAST)
        self._keep()

    def parts(self) -> dict[str, StatePart]:
        return {"policy": Weights(self.task.policy), **self._snapshots, **self.algorithm.parts()}

    def facts(self) -> dict[str, Any]:
        return {"position": asdict(self.position), "algorithm": self.algorithm.facts()}

    def restore(self, facts: dict[str, Any]) -> None:
        best = facts["position"].pop("best")
        self.position = ImprovementPosition(**facts["position"], best=BestOnProbe(**best) if best else None)
        self.algorithm.restore(facts["algorithm"])

    # The guard ------------------------------------------------------------------------------------------------------

    def goes_on(self) -> bool:
        return not self.position.end and self.position.updates < self.algorithm.updates

    def within_budget(self, kl: float) -> bool:
        position = self.position
        if kl > self.task.settings.kl_budget:
            self.end(f"the KL budget was used up after {position.updates} updates", SAFE)
            return False
        self._snapshots[SAFE].take()
        position.safe_update = position.updates
        return True

    def finite(self, figures: dict[str, float]) -> bool:
        if all(math.isfinite(value) for value in figures.values()):
            return True
        reason = f"a loss or gradient was not finite in update {self.position.updates}"
        self.end(reason, next((name for name, snapshot in self._snapshots.items() if snapshot), START))
        return False

    def look(self) -> Look | None:
        if len(self.probe) < 2:
            return None
        sums = self._measure_probe()
        look = Look(sums.mean_kl().estimate, sums.lift_over(self._base()).estimate, self._worse_than_best(sums))
        best = self.position.best
        within = look.kl <= self.task.settings.kl_budget
        if within and not look.collapsed and (best is None or look.lift > best.lift):
            self.position.best = BestOnProbe(self.position.updates, look.lift, sums.q.tolist())
            self._snapshots[BEST].take()
        return look

    def add_row(self, figures: dict[str, float]) -> None:
        self.position.curves.append({"update": self.position.updates, **figures})

    def amend(self, figures: dict[str, float]) -> None:
        self.position.curves[-1] |= figures

    def end(self, reason: str, result: str) -> None:
        self.position.end, self.position.result = reason, result

    def after_warm_up(self, row: dict[str, float] | None = None) -> None:
        if row is not None:
            self.position.warm_up_curves.append({"update": self.position.warm_ups, **row})
        self.position.warm_ups += 1
        self._after_step()

    def after_update(self) -> None:
        self.position.updates += 1
        self._after_step()

    def _worse_than_best(self, sums: HeldOutSums) -> bool:
        """Whether more than half of the best lift is gone, beyond what chance does. Less may be the KL's price."""
        best = self.position.best
        if best is None or sums.lift_over(self._base()).estimate > 0.5 * best.lift:
            return False
        return ratio_interval(np.asarray(best.q) - sums.q, sums.states, COLLAPSE_CONFIDENCE).low > 1e-6

    def _measure_probe(self) -> HeldOutSums:
        return self.probe.measure(self.task.policy, self.task.reference)

    def _base(self) -> HeldOutSums:
        """Of pi_i."""
        if self._probe_base is None:
            self._probe_base = self.probe.measure(self.task.reference, None)
        return self._probe_base

    def _keep(self) -> None:
        """Puts the result's weights into the policy; the last ones only if their KL is within the budget."""
        position, best = self.position, self.position.best
        if position.result == LAST and len(self.probe) >= 2:
            sums = self._measure_probe()
            if sums.mean_kl().estimate > self.task.settings.kl_budget:
                position.result = SAFE
            elif self._worse_than_best(sums):
                position.result = BEST
        if position.result == SAFE and not self._snapshots[SAFE]:  # the algorithm keeps to the budget by looks
            position.result = BEST
        position.result_update = position.updates
        if position.result == SAFE:
            position.result_update = position.safe_update
            self._snapshots[SAFE].put_back()
        elif position.result == BEST and best is not None and best.lift > 0.0:
            position.result_update = best.update
            self._snapshots[BEST].put_back()
        elif position.result != LAST:  # nothing is better than pi_i
            position.result_update = 0
            self._start.put_back()


def frozen_copy(policy: Any) -> Any:
    """The policy as it is now, to stay so."""
    return copied(policy).requires_grad_(False)
