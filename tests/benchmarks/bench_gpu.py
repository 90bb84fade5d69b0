"""`improve` on a GPU against trl's PPOTrainer on the same work: responses per second and peak memory.

    python tests/benchmarks/bench_gpu.py                all rows, trl's where it can be imported; needs a CUDA device
    python tests/benchmarks/bench_gpu.py ours 0.5b      one row; `--precision Float32` for the other type
    python tests/benchmarks/bench_gpu.py trl 0.5b       needs trl 1.12.0, the last one with a PPOTrainer, on PYTHONPATH

Random weights of Qwen2's shapes, random prompts: conversations of six states that extend one another, 48 to 328 tokens;
four responses to each state, all of exactly `--tokens` tokens. A first update warms up, the mean of the others counts.
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

SIZES: dict[str, dict[str, int]] = {
    name: dict(
        zip(
            (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
                "vocab_size",
            ),
            numbers,
            strict=True,
        )
    )
    for name, numbers in {
        "tiny": (64, 2, 2, 2, 192, 2000),
        "135m": (576, 30, 9, 3, 1536, 49152),
        "0.5b": (896, 24, 14, 2, 4864, 151936),
        "1.5b": (1536, 28, 12, 2, 8960, 151936),
        "7b": (3584, 28, 28, 4, 18944, 152064),
    }.items()
}
CONVERSATIONS = {"tiny": 4, "135m": 16, "0.5b": 16, "1.5b": 8, "7b": 4}
TURNS, FIRST, STEP, SAMPLES, MINIBATCHES, STOP = 6, 48, 56, 4, 4, 2


def config(size: str, **more: Any) -> Any:
    return Qwen2Config(
        **SIZES[size],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=STOP,
        use_sliding_window=False,
        **more,
    )


def made(factory: Any, size: str, seed: int, device: torch.device, dtype: torch.dtype, **more: Any) -> Any:
    torch.manual_seed(seed)
    with torch.device(device):
        return factory(config(size, **more)).to(dtype).eval()


def conversations(vocabulary: int, count: int) -> list[list[list[int]]]:
    draw = random.Random(0)
    whole = [[draw.randrange(3, vocabulary) for _ in range(FIRST + STEP * (TURNS - 1))] for _ in range(count)]
    return [[ids[: FIRST + STEP * turn] for turn in range(TURNS)] for ids in whole]


class States:
    """Stands for `LoggedStates`."""

    def __init__(self, prompts: list[list[list[int]]]) -> None:
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts)

    def of(self, number: int) -> tuple[Any, ...]:
        from ippo_trainer.improve.states import LoggedState

        return tuple(LoggedState(str(number), turn, prompt) for turn, prompt in enumerate(self._prompts[number]))


class Clock:
    """Seconds spent in parts of an update, the GPU's included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, float] = {}

    def time(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, thing: Any, name: str, part: str) -> None:
        inner = getattr(thing, name)

        def timed(*arguments: Any, **more: Any) -> Any:
            start = self.time()
            result = inner(*arguments, **more)
            self.parts[part] = self.parts.get(part, 0.0) + self.time() - start
            return result

        setattr(thing, name, timed)


def ours(size: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from ippo_trainer.contract.algorithms import ALGORITHMS
    from ippo_trainer.contract.params import Collect, Improve
    from ippo_trainer.improve.algorithm import Task
    from ippo_trainer.improve.algorithms.ppo import PPO
    from ippo_trainer.improve.heldout import HeldOut
    from ippo_trainer.improve.improvement import Improvement, frozen_copy
    from ippo_trainer.improve.sampler import Sampler
    from ippo_trainer.improve.settings import ImproveSettings
    from ippo_trainer.models import kernels
    from ippo_trainer.models.parking import park
    from ippo_trainer.models.precision import precision_of
    from ippo_trainer.models.sampling import Sampling
    from ippo_trainer.stages.improve import ready

    policy = made(Qwen2ForCausalLM, size, 0, device, torch.float32)
    q = made(Qwen2ForSequenceClassification, size, 1, device, torch.float32, num_labels=1).requires_grad_(False)
    if device.type == "cuda":
        kernels.enable(policy)
        kernels.enable(q)
    precision = precision_of(options.precision, device)
    budget = ready(ALGORITHMS["PPO"], policy, q, precision)
    count = options.conversations or CONVERSATIONS[size]
    section = Improve(
        updates=options.updates,
        batch_size=count,
        samples_per_state=SAMPLES,
        minibatches=MINIBATCHES,
        learning_rate="0.000001",
        critic_learning_rate="0.00001",
        critic_warmup_updates=0,
        kl_target="100",
    )
    max_tokens = options.forward or budget.tokens
    settings = ImproveSettings("PPO", count, float(section.kl_target), 0, max_tokens, precision)
    sampler = Sampler(q, Sampling(SAMPLES, options.tokens, 1.0, {STOP}, 0), 0, max_tokens)
    states: Any = States(conversations(policy.config.vocab_size, 2 * count))
    none: Any = States([])
    reference = frozen_copy(policy)
    task = Task(policy, reference, lambda: reference, sampler, states, settings, section, Collect())
    algorithm = PPO(task)
    for frozen in (reference, q):
        park(frozen)
    improvement = Improvement(task, algorithm, HeldOut(sampler, none, [], 2, "p"))
    clock, marks = Clock(device), []
    if options.parts:
        clock.around(sampler, "sample", "sampling")
        clock.around(sampler, "_score", "scoring")
        clock.around(sampler, "logprobs", "log-probabilities")
        clock.around(improvement._snapshots["safe"], "take", "snapshot")
        clock.around(algorithm.learner, "_critic_step", "critic")
        clock.around(algorithm.learner, "_policy_step", "policy")
        clock.around(algorithm.learner, "_credit", "values")

    def after_step() -> None:
        if not improvement.position.updates:
            return  # the critic's warm-up, of which there is none
        if device.type == "cuda" and not marks:
            torch.cuda.reset_peak_memory_stats()
        marks.append((clock.time(), dict(clock.parts)))

    improvement.run(after_step)
    (begin, before), (end, after) = marks[0], marks[-1]
    updates = len(marks) - 1
    parts = {name: round((value - before[name]) / updates, 3) for name, value in after.items()}
    curve = improvement.position.curves[-1]
    shown = ("ratio_max", "mismatch_kl", "untrusted_share", "kl", "entropy", "grad_norm", "policy_loss")
    return row(f"ours {precision.dtype}", size, device, count, (end - begin) / updates) | {
        "tokens_per_forward": max_tokens,
        "recompute": budget.recompute,
        "parts": parts,
        "first_ratio_error": improvement.position.curves[0]["ratio_max"] - 1,
        "curve": {name: curve[name] for name in shown},
    }


def trl(size: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    import os

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    dtype = torch.bfloat16 if options.precision == "BFloat16" else torch.float32
    kinds = (Qwen2ForCausalLM, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2ForSequenceClassification)
    policy, reference, reward, value = (
        made(kind, size, seed, device, dtype, **({} if kind is Qwen2ForCausalLM else {"num_labels": 1}))
        for kind, seed in zip(kinds, (0, 0, 1, 1), strict=True)
    )
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)
    count = options.conversations or CONVERSATIONS[size]
    responses = count * TURNS * SAMPLES
    prompts = conversations(policy.config.vocab_size, count)
    rows = [prompt for turns in prompts for prompt in turns for _ in range(SAMPLES)]
    arguments = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.micro,
        gradient_accumulation_steps=responses // options.micro,
        num_mini_batches=MINIBATCHES,
        num_ppo_epochs=1,
        total_episodes=responses * options.updates,
        response_length=options.tokens,
        temperature=1.0,
        stop_token_id=STOP,
        learning_rate=1e-6,
        local_rollout_forward_batch_size=min(responses, 192),
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        bf16=dtype == torch.bfloat16,
        gradient_checkpointing=False,
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        kl_coef=0.05,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": rows * (options.updates + 1)}),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:8]}),
    )
    clock, marks = Clock(device), []

    def log(*_: Any, **__: Any) -> None:
        if device.type == "cuda" and not marks:
            torch.cuda.reset_peak_memory_stats()
        marks.append(clock.time())

    trainer.log = log
    trainer.train()
    return row(f"trl {dtype}", size, device, count, (marks[-1] - marks[0]) / (len(marks) - 1)) | {
        "micro": options.micro
    }


def row(who: str, size: str, device: torch.device, count: int, seconds: float) -> dict[str, Any]:
    responses = count * TURNS * SAMPLES
    cuda = device.type == "cuda"
    return {
        "who": who,
        "size": size,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "responses": responses,
        "seconds_per_update": round(seconds, 3),
        "responses_per_s": round(responses / seconds, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
    }


def every_row() -> None:
    """Each row in a process of its own, so that peaks do not add up."""
    if not torch.cuda.is_available():
        print("there is no CUDA device")
        return
    peers = ["ours"] + (["trl"] if importlib.util.find_spec("trl.experimental.ppo") else [])
    for size, micro in (("0.5b", 16), ("1.5b", 8)):
        for who in peers:
            subprocess.run([sys.executable, __file__, who, size, f"--micro={micro}"], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "trl"], nargs="?")
    parser.add_argument("size", choices=list(SIZES), nargs="?", default="0.5b")
    parser.add_argument("--updates", type=int, default=5, help="updates, the first of which warms up")
    parser.add_argument("--tokens", type=int, default=64, help="of a response")
    parser.add_argument("--conversations", type=int, help="of a batch; by default what fits trl into 80 GB")
    parser.add_argument("--precision", choices=["Float32", "BFloat16"], default="BFloat16")
    parser.add_argument("--forward", type=int, help="ours: tokens of a packed forward; by default what the stage takes")
    parser.add_argument("--micro", type=int, default=16, help="trl: responses of a micro-batch")
    parser.add_argument("--parts", action="store_true", help="ours: seconds by part; waiting for them costs a little")
    options = parser.parse_args()
    if options.who is None:
        every_row()
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = ours if options.who == "ours" else trl
    print(json.dumps(run(options.size, options, device)), flush=True)


if __name__ == "__main__":
    main()
