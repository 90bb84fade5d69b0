"""Many responses to a prompt on one core: as branches of the prompt's row, against a row for each of them.

Prompts are as long as those of SR-funnel's conversations, tokens are drawn from an untrained `tiny:d64-l2`. Both ways
take turns, so that other work on the machine slows both. Prints CPU seconds of each and their ratio.

    python tests/benchmarks/bench_forks.py
"""

import argparse
import time

import numpy as np
import torch
from ippo_trainer.models.forks import ForkDecode
from ippo_trainer.models.load import tiny_config
from ippo_trainer.models.sampling import Sampling, sample
from transformers import AutoModelForCausalLM

VOCABULARY, NEW_TOKENS, LENGTHS = 564, 16, (20, 132)
PAYS = ForkDecode.pays


def main() -> None:
    """Prints a line for each number of responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("tiny:d64-l2", VOCABULARY)).eval()
    draw = np.random.default_rng(0)
    prompts = [draw.integers(5, VOCABULARY, draw.integers(*LENGTHS)).tolist() for _ in range(given.prompts)]
    for samples in (4, 8, 24):
        sampling = Sampling(samples, NEW_TOKENS, 1.0, frozenset({1}), 0)
        rows, forks = zip(
            *[(seconds(model, prompts, sampling, kind) for kind in (False, True)) for _ in range(given.pairs)],
            strict=True,
        )
        print(
            f"{samples} responses: rows {np.median(rows):.2f} s, branches {np.median(forks):.2f} s, "
            f"{np.median(np.array(forks) / np.array(rows)):.2f} of the time"
        )


def seconds(model: object, prompts: list[list[int]], sampling: Sampling, forks: bool) -> float:
    """CPU seconds of drawing them all."""
    ForkDecode.pays = staticmethod(PAYS if forks else lambda length, sampling: False)  # type: ignore[method-assign]
    began = time.process_time()
    sample(model, prompts, range(len(prompts)), sampling)
    return time.process_time() - began


if __name__ == "__main__":
    main()
