"""trl's SFTTrainer on rows that are tokenized already, with checkpoints of our own.

transformers' checkpoints hold pickles (optimiser, RNG). Ours hold safetensors and JSON, and resume by arithmetic: the
order of rows and the learning rate are functions of the step, there is no dropout, so weights and moments are all.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.parts import decoder, head
from ippo_trainer.sft.order import training_order
from ippo_trainer.text.rows import Row

_IGNORED = -100
_WARMUP = 0.05
_ACTIVATION_BYTES = 1 << 30
_SECONDS_BETWEEN_CHECKPOINTS = 10.0
_CHECKPOINT_SHARE = 0.05
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Settings:
    """How to train."""

    epochs: int
    learning_rate: float
    batch_size: int
    """Rows per update."""
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Hooks:
    """What the stage does around the steps."""

    save: Callable[[Path, int], None]
    """Makes a directory the checkpoint after so many steps."""
    load: Callable[[Path], int | None]
    """Restores the newest checkpoint into a directory; its step, or None."""
    stopped: Callable[[], bool]
    """Whether to save and return early."""
    on_steps: Callable[[int, int], Any]
    """Gets the total of steps and how many an earlier attempt did; returns a progress with `update` and `close`."""


@dataclass
class Outcome:
    """How the training went."""

    losses: list[float]
    """Mean cross-entropy per suggestion token of each update, in nats."""
    finished: bool


def train(model: Any, tokenizer: Any, rows: Sequence[Row], settings: Settings, work: Path, hooks: Hooks) -> Outcome:
    """Trains `model` in place on the suggestions of `rows`; on a CPU, bit-equal whether or not it was interrupted.

    Args:
        work: an empty directory for files of its own.

    Raises:
        BadDataError: the loss is no longer finite.
    """
    order = training_order([len(row.ids) for row in rows], settings.epochs, settings.batch_size, settings.seed)
    total = math.ceil(len(order) / settings.batch_size)
    model.to(settings.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    done, losses = _resume(model, optimizer, work / "resume", hooks)
    use_cache = model.config.use_cache
    if done < total:
        scheduler = LambdaLR(optimizer, lambda step: _schedule(step + done, total))
        keeper = _Keeper(model, optimizer, losses, done, work / "checkpoint", hooks, total)
        data = _dataset(rows).select(order[done * settings.batch_size :])
        trainer = _Trainer(
            model=model,
            args=_arguments(model, rows, settings, total - done, work),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[keeper],
            optimizers=(optimizer, scheduler),
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            keeper.close()
    # SFTTrainer leaves a patched forward on the instance and switches the cache off.
    vars(model).pop("forward", None)
    model.config.use_cache = use_cache
    model.eval()
    return Outcome(losses, len(losses) == total)


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that projects only the suggestions' positions to the vocabulary, and takes rows in their order."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Summed cross-entropy of the labelled tokens over their number in the whole update."""
        labels = inputs["labels"][:, 1:]
        trunk = decoder(model)
        outputs = trunk(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        chosen = labels != _IGNORED
        logits = head(model)(outputs.last_hidden_state[:, :-1][chosen]).float()
        loss = torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="sum")
        loss = loss / (chosen.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


class _Keeper(TrainerCallback):  # type: ignore[misc]
    """Collects the loss of every step, shows progress, saves checkpoints now and then and when told to stop."""

    def __init__(
        self, model: Any, optimizer: Any, losses: list[float], done: int, directory: Path, hooks: Hooks, total: int
    ) -> None:
        self._model, self._optimizer, self._losses, self._done = model, optimizer, losses, done
        self._directory, self._hooks = directory, hooks
        self._progress = hooks.on_steps(total, done)
        self._due = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Every step logs its loss before `on_step_end`; the summary at the end has none."""
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise BadDataError(
                f"the loss of the warm start is {loss} at step {len(self._losses)}", "Lower warmStart.learningRate."
            )
        self._losses.append(loss)
        self._progress.update(1, loss=loss)
        self._keep(control)

    def _keep(self, control: Any) -> None:
        stopped = self._hooks.stopped()
        if stopped or time.monotonic() >= self._due:
            start = time.monotonic()
            _save(self._model, self._optimizer, self._losses, self._directory)
            self._hooks.save(self._directory, len(self._losses))
            cost = time.monotonic() - start
            self._due = time.monotonic() + max(_SECONDS_BETWEEN_CHECKPOINTS, cost / _CHECKPOINT_SHARE)
        control.should_training_stop = control.should_training_stop or stopped

    def close(self) -> None:
        """Ends the progress display."""
        self._progress.close()


def _arguments(model: Any, rows: Sequence[Row], settings: Settings, steps: int, work: Path) -> SFTConfig:
    tokens = _ACTIVATION_BYTES // _bytes_per_token(model.config)
    longest = max(len(row.ids) for row in rows)
    micro = max(
        n
        for n in range(1, settings.batch_size + 1)
        if settings.batch_size % n == 0 and n * longest <= max(tokens, longest)
    )
    return SFTConfig(
        output_dir=str(work / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        gradient_checkpointing=longest > tokens,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=False,
        use_cpu=settings.device.type == "cpu",
        seed=settings.seed % 2**32,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=settings.device.type != "cpu",
    )


def _bytes_per_token(config: Any) -> int:
    """Roughly what a token's activations take until the backward pass, in fp32."""
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return int(config.num_hidden_layers) * (16 * width + 6 * inner) * 4


def _schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear warm-up over 5 % of the steps, then a cosine to nought."""
    warmup = max(1, round(_WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def _dataset(rows: Sequence[Row]) -> Dataset:
    disable_progress_bars()
    labels = [
        [token if mine else _IGNORED for token, mine in zip(row.ids, row.response_mask, strict=True)] for row in rows
    ]
    return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels})


def _save(model: Any, optimizer: Any, losses: list[float], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment].detach().cpu().contiguous()
    save_file(tensors, directory / "state.safetensors")
    (directory / "losses.json").write_text(json.dumps(losses))


def _resume(model: Any, optimizer: Any, directory: Path, hooks: Hooks) -> tuple[int, list[float]]:
    """Restores weights and moments from the newest checkpoint; how many steps are done, and their losses."""
    if hooks.load(directory) is None:
        return 0, []
    tensors = load_file(directory / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                moment: tensors[f"{moment}/{name}"].to(parameter.device).clone() for moment in _MOMENTS
            }
    losses = [float(loss) for loss in json.loads((directory / "losses.json").read_text())]
    return len(losses), losses
