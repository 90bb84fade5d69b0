"""Group relative policy optimisation (arXiv 2402.03300) by trl's GRPOTrainer."""

from typing import Any

from ippo_trainer.improve.trl.algorithm import TRLAlgorithm


class GRPO(TRLAlgorithm):
    """Advantages relative to a state's other suggestions, clipped by token; the KL to pi_i is in the loss."""

    name = "GRPO"

    @classmethod
    def trainer(cls) -> tuple[type[Any], type[Any]]:
        from trl import GRPOConfig, GRPOTrainer

        return GRPOTrainer, GRPOConfig

    def own_arguments(self) -> dict[str, Any]:
        return {
            # One token counts like another, so that a nat of KL costs beta whatever the suggestion's length.
            "loss_type": "dapo",
            # Q itself: divided by its spread within each state, differences that are noise would count like others.
            "scale_rewards": "none",
            "entropy_coef": float(self.section.entropy_coefficient),
        }
