"""What vLLM samples is what our own forwards and transformers' `generate` say. It looks for a Python with vLLM: this
one's, or the one that IPPO_VLLM_PYTHON names."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.models import adapters
from ippo_trainer.models.load import build_tiny, load_policy, save_policy
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer

from tests.kit.tiny_models import logprobs_of

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("IPPO_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
TOKENS, LENGTH = 24, 256
SAMPLINGS = {
    "plain": {"samples": 3, "max_new_tokens": TOKENS, "temperature": 1.0},
    "explorer": {"samples": 2, "max_new_tokens": TOKENS, "temperature": 2.0, "min_p": 0.05},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="needs vLLM: install it, or name a Python that has it in IPPO_VLLM_PYTHON"),
]


def models(folder: Path) -> dict[str, Path]:
    """A policy, one with other weights, and one that is an adapter on a base."""
    tokenizer = build_tokenizer(["what do red tulips cost", "ten for you", "hello my friend", "Sell flowers."] * 3, 400)
    renderer = Renderer(tokenizer, "Sell flowers.", 96)

    def random(model: Any, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapters.own_parameters(model):
                if parameter.dim() > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    base = ArtifactRef(key="base", digest="sha256:" + "1" * 64)
    for seed, name in enumerate(("policy", "other")):
        model = random(build_tiny("tiny:d64-l2", tokenizer, 0), seed)
        save_policy(folder / name, model, tokenizer, renderer)
    adapted = adapters.add(adapters.share(model), params.Adapter(rank=4), 0)
    adapters.name_base(adapted, base)
    save_policy(folder / "adapted", random(adapted, 2), tokenizer, renderer)
    (folder / base.key).symlink_to(folder / "other")
    return {name: folder / name for name in ("policy", "other", "adapted")}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders = models(tmp_path_factory.mktemp("models"))
    policy = load_policy(folders["policy"])
    renderer = Renderer.load(policy.directory, policy.tokenizer)
    prompts = [renderer.prompt([], f"hello {number}").ids for number in range(8)]
    return {name: str(path) for name, path in folders.items()} | {
        "prompts": prompts,
        "keys": [(number + 1) * 2**58 for number in range(8)],
        "stops": sorted(renderer.stop_ids),
        "length": LENGTH,
        "tokens": TOKENS,
        "samplings": SAMPLINGS,
    }


@pytest.fixture(scope="module")
def answers(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("answers")
    (folder / "asked.json").write_text(json.dumps(asked))
    program = str(Path(__file__).with_name("vllm_program.py"))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "trainer"), "OMP_NUM_THREADS": "1"}
    command = [PYTHON, program, str(folder / "asked.json"), str(folder / "answers.json")]
    subprocess.run(command, env=environment, check=True)
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize(("name", "answer"), [("policy", "greedy"), ("other", "other"), ("adapted", "adapted")])
def test_greedy_tokens_and_logprobs_are_those_of_our_sampler_and_of_generate(
    asked: dict[str, Any], answers: Any, name: str, answer: str
) -> None:
    """Of the policy that vLLM was started with, and of those that it was handed over from memory."""
    policy = load_policy(Path(asked[name]))
    pad, stops = policy.tokenizer.pad_token_id, asked["stops"]
    coldest = Sampling(1, TOKENS, 1e-4, frozenset(stops), pad)
    ours = sample(policy.model, asked["prompts"], asked["keys"], coldest)
    plain = Sampling(1, TOKENS, 1.0, frozenset(stops), pad)
    for prompt, (response,), (ids, logprobs) in zip(asked["prompts"], ours, answers[answer], strict=True):
        made = policy.model.generate(
            torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=stops, pad_token_id=pad
        )
        assert ids == response.ids == made[0, len(prompt) :].tolist()
        assert logprobs == pytest.approx(logprobs_of(policy.model, prompt, ids, plain), abs=1e-3)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampled_logprobs_are_those_of_what_is_sampled_from(asked: dict[str, Any], answers: Any, name: str) -> None:
    policy = load_policy(Path(asked["policy"]))
    how = Sampling(stop_ids=frozenset(asked["stops"]), pad_id=0, **SAMPLINGS[name])  # type: ignore[arg-type]
    texts = set()
    for prompt, samples in zip(asked["prompts"], answers[name], strict=True):
        assert len(samples) == how.samples
        for ids, logprobs, ended in samples:
            assert logprobs == pytest.approx(logprobs_of(policy.model, prompt, ids, how), abs=1e-3)
            assert ended == (ids[-1] in how.stop_ids)
            assert ended or len(ids) == TOKENS
            texts.add(tuple(ids))
    assert len(texts) > how.samples * len(asked["prompts"]) // 2


def test_an_engine_that_is_killed_is_tried_again(answers: Any) -> None:
    assert "vLLM's engine died" in answers["death"]
