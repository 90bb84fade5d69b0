"""Run by a Python with vLLM: what vLLM makes of a policy, as JSON. One start of vLLM serves all the questions."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from ippo_trainer.contract.errors import TryAgainError
from ippo_trainer.engines.vllm_sampler import EngineSettings, running
from ippo_trainer.models.load import load_policy
from ippo_trainer.models.sampling import Sampling


def greedy(sampler: Any, prompts: list[list[int]], new_tokens: int, stops: list[int]) -> list[Any]:
    """The likeliest tokens with their log-probabilities at temperature 1."""
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=new_tokens, temperature=0, stop_token_ids=stops, ignore_eos=True, detokenize=False, logprobs=0
    )
    outputs = sampler._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return [
        [list(o.token_ids), [table[token].logprob for token, table in zip(o.token_ids, o.logprobs, strict=True)]]
        for o in (output.outputs[0] for output in outputs)
    ]


def children(process: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found = [
        int(text)
        for task in Path(f"/proc/{process}/task").iterdir()
        for text in (task / "children").read_text().split()
    ]
    return found + [each for child in found for each in children(child)]


def main() -> None:
    """Reads the questions from a file, writes the answers to another."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    prompts, stops, answers = asked["prompts"], asked["stops"], {}
    settings = EngineSettings(length=asked["length"], rows=16, dtype="float32", cache_bytes=64 << 20)
    with running(Path(asked["policy"]), settings, "") as sampler:
        answers["greedy"] = greedy(sampler, prompts, asked["tokens"], stops)
        for name, fields in asked["samplings"].items():
            how = Sampling(stop_ids=frozenset(stops), pad_id=0, **fields)
            draws = [sampler.sample(prompts, asked["keys"], how) for _ in range(2)]
            assert draws[0] == draws[1]
            answers[name] = [[[each.ids, each.logprobs, each.ended] for each in samples] for samples in draws[0]]
        for name in ("other", "adapted"):
            sampler.take(load_policy(Path(asked[name])).model)
            answers[name] = greedy(sampler, prompts, asked["tokens"], stops)
        for process in children(os.getpid()):
            if "VLLM::Worker" in Path(f"/proc/{process}/cmdline").read_text():
                os.kill(process, signal.SIGKILL)
        try:
            sampler.sample(prompts, asked["keys"], Sampling(4, 200, 1.0, frozenset(), 0))
        except TryAgainError as error:
            answers["death"] = str(error)
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
