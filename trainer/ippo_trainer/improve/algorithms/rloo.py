"""REINFORCE with a leave-one-out baseline (arXiv 2402.14740) by trl's RLOOTrainer."""

from typing import Any

from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.improve.algorithm import Task
from ippo_trainer.improve.trl.algorithm import TRLAlgorithm


class RLOO(TRLAlgorithm):
    """Advantages relative to a state's other suggestions, clipped by suggestion; the KL to pi_i is in the reward."""

    name = "RLOO"

    def __init__(self, task: Task) -> None:
        if float(task.section.entropy_coefficient):
            raise BadSpecError(
                f"improve.entropyCoefficient is {task.section.entropy_coefficient}: trl's RLOO has no entropy bonus",
                'Set "0", or use GRPO or PPO.',
            )
        super().__init__(task)

    @classmethod
    def trainer(cls) -> tuple[type[Any], type[Any]]:
        from trl import RLOOConfig, RLOOTrainer

        return RLOOTrainer, RLOOConfig

    def own_arguments(self) -> dict[str, Any]:
        return {"normalize_advantages": False}
