"""Runs one of trl's trainers for the updates that an algorithm has left. What it has besides stays off."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from huggingface_hub import constants
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import add_fused_lm_head

from ippo_trainer.improve.algorithm import Guard, collapsed
from ippo_trainer.improve.trl.rollouts import StateTokens
from ippo_trainer.improve.trl.visit import lent
from ippo_trainer.models.parking import device_of

if TYPE_CHECKING:
    from ippo_trainer.improve.trl.algorithm import TRLAlgorithm

OFF: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",
    "eval_strategy": "no",
    "push_to_hub": False,
    "disable_tqdm": True,
    "log_completions": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "bf16": False,
    "fp16": False,
    "shuffle_dataset": False,
    "logging_nan_inf_filter": False,
    "router_aux_loss_coef": 0.0,
}
"""Our own part does these, or nobody: checkpoints, progress, precision, order, guards."""


def train(algorithm: "TRLAlgorithm", guard: Guard, folder: str) -> None:
    """All updates that are left, or until the guard ends them.

    Args:
        algorithm: whose task, sizes and optimiser count.
        guard: is asked before every update, and told after it.
        folder: empty; trl wants one.
    """
    from ippo_trainer.improve.trl.algorithm import BudgetUsedError

    task, sampling = algorithm.task, algorithm.task.sampler.sampling
    stops, pad = sorted(sampling.stop_ids), sampling.pad_id
    with lent(task.policy, stops, pad) as policy, lent(task.reference, stops, pad) as reference:
        watch = _Watch(algorithm, guard)
        trainer = _trainer(algorithm, watch, policy, folder)
        # A policy with an adapter of ours is no PeftModel, and trl would load a whole pi_i from disk. Ours is here.
        add_fused_lm_head(reference, temperature=sampling.temperature)
        trainer.ref_model, trainer.beta = reference, algorithm.position.kl_coefficient
        try:
            trainer.train()
        except BudgetUsedError:
            return


def _trainer(algorithm: "TRLAlgorithm", watch: "_Watch", policy: Any, folder: str) -> Any:
    constants.HF_HUB_DISABLE_TELEMETRY = True  # trl reports each trainer that is made
    kind, config = algorithm.trainer()
    arguments = config(output_dir=folder, **_arguments(algorithm))
    arguments._n_gpu = min(arguments.n_gpu, 1)  # nn.DataParallel is none of ours, whatever GPUs there are
    adam, offset = algorithm.optimiser.torch, algorithm.position.updates * algorithm.steps
    sampling = algorithm.task.sampler.sampling
    trainer = kind(
        model=policy,
        reward_funcs=watch.q,
        args=arguments,
        train_dataset=_prompts(algorithm),
        processing_class=StateTokens(algorithm.stream, sorted(sampling.stop_ids), sampling.pad_id),
        callbacks=[watch],
        optimizers=(adam, LambdaLR(adam, lambda step: algorithm.schedule.share(offset + step))),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(algorithm: "TRLAlgorithm") -> dict[str, Any]:
    section, rollout, sampling = algorithm.section, algorithm.rollout, algorithm.task.sampler.sampling
    left = algorithm.updates - algorithm.position.updates
    return {
        **OFF,
        "use_cpu": device_of(algorithm.task.policy).type == "cpu",
        "max_steps": left * algorithm.steps,
        "logging_steps": algorithm.steps,
        "per_device_train_batch_size": rollout.rows,
        "gradient_accumulation_steps": rollout.forwards,
        "steps_per_generation": rollout.forwards * rollout.minibatches,
        "num_generations": rollout.samples,
        "num_iterations": section.epochs,
        "learning_rate": algorithm.optimiser.rate,
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "epsilon": float(section.clip_range),
        "epsilon_high": float(section.clip_range_high),
        "beta": 0.0,  # set later, with the reference
        "seed": algorithm.seed() % 2**32,
        **algorithm.own_arguments(),
    }


def _prompts(algorithm: "TRLAlgorithm") -> Dataset:
    """The states of all rollouts that are left, in order."""
    groups, start = algorithm.rollout.groups, algorithm.position.updates * algorithm.rollout.groups
    numbers = algorithm.stream.numbers(start, algorithm.updates * groups - start)
    return Dataset(pa.table({"prompt": pa.array(np.asarray(numbers)).cast(pa.string())}))


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Q as trl's reward function, and the guard around each update."""

    def __init__(self, algorithm: "TRLAlgorithm", guard: Guard) -> None:
        self.algorithm, self.guard = algorithm, guard
        self._row: dict[str, float] = {}
        self._moments = dict(algorithm.optimiser.torch.state)

    def q(self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        """trl's reward of each suggestion: Q.

        Raises:
            BudgetUsedError: the policy that made them is beyond the KL budget, so there is no update.
        """
        from ippo_trainer.improve.trl.algorithm import BudgetUsedError, described

        algorithm, samples = self.algorithm, self.algorithm.rollout.samples
        groups = [completion_ids[start : start + samples] for start in range(0, len(prompts), samples)]
        batch = algorithm.scored([int(number) for number in prompts[::samples]], groups)
        kl = algorithm.divergence(batch)
        if not self.guard.within_budget(kl):
            raise BudgetUsedError
        self._row = described(batch, kl, algorithm.position.kl_coefficient)
        return _in_order(batch.states, algorithm.rewards(batch))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # accelerate reloads an optimiser's state in the weights' type; Adam's moments are fp32.
        self.algorithm.optimiser.torch.state.update(self._moments)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.algorithm.steps == 0:
            torch.manual_seed(self.algorithm.seed() % 2**63)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """After an update: trl logs once in each."""
        from ippo_trainer.improve.trl.algorithm import from_log

        if "loss" not in (logs or {}):  # of the end
            return
        algorithm, guard = self.algorithm, self.guard
        row = self._row | from_log(logs)
        if not guard.finite(row):
            control.should_training_stop = True
            return
        guard.add_row(row)
        algorithm.position.updates += 1
        guard.after_update()
        if not guard.goes_on() or collapsed(guard, algorithm.position.updates, algorithm.updates):
            control.should_training_stop = True


def _in_order(states: torch.Tensor, values: torch.Tensor) -> list[float]:
    """Values of suggestions in the order of their states; those of one state keep theirs."""
    result: list[float] = values[torch.argsort(states, stable=True)].tolist()
    return result
