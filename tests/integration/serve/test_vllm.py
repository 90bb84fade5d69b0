"""The same policy behind vLLM. It looks for a Python with vLLM: this one's, or the one that IPPO_VLLM_PYTHON names."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from ippo_trainer.models.load import build_tiny, load_policy, save_policy
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("IPPO_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
DIGEST = "sha256:" + "5" * 64
TOKENS = 16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="needs vLLM: install it, or name a Python that has it in IPPO_VLLM_PYTHON"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer(["what do red tulips cost", "ten for you", "hello my friend", "Sell flowers."] * 3, 400)
    model = build_tiny("tiny:d64-l2", tokenizer, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    save_policy(directory, model, tokenizer, Renderer(tokenizer, "Sell flowers.", 96))
    return load_policy(directory)


@pytest.fixture(scope="module")
def server(policy):
    arguments = ["--engine", "VLLM", "--policy", str(policy.directory), "--port", "0", "--name", "demo"]
    command = [PYTHON, "-m", "ippo_trainer.serve.cli", *arguments, "--max-tokens", str(TOKENS), "--linger-seconds", "0"]
    environment = os.environ | {
        "IPPO_POLICY_DIGEST": DIGEST,
        "IPPO_VLLM_ARGS": '{"dtype": "float32"}',
        "PYTHONPATH": str(ROOT / "trainer"),
    }
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready: policy" in line:
                break
        text = "".join(lines)
        assert "ready: policy" in text, text
        port = re.search(r"listening on port (\d+)", text)[1]
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def ask(server, seed, **body):
    body = {"messages": [{"role": "user", "content": f"hello {seed}"}], "seed": seed, **body}
    request = urllib.request.Request(f"{server[1]}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode()


def test_greedy_answers_are_those_of_our_own_sampling(server, policy):
    """The prompt is therefore the same, and the weights."""
    renderer = Renderer.load(policy.directory, policy.tokenizer)
    prompts = [renderer.prompt([], f"hello {seed}").ids for seed in range(8)]
    sampling = Sampling(1, TOKENS, 1e-4, renderer.stop_ids, policy.tokenizer.pad_token_id)
    expected = sample(policy.model, prompts, [0] * len(prompts), sampling)
    for seed, (prompt, [response]) in enumerate(zip(prompts, expected, strict=True)):
        answer = json.loads(ask(server, seed, temperature=0))
        assert answer["choices"][0]["message"]["content"] == (renderer.decode(response.ids)[0] or "")
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        assert answer["usage"]["completion_tokens"] == len(response.ids)


def test_greedy_choices_are_equal_and_take_no_slot_for_ever(server):
    alone = json.loads(ask(server, 1, temperature=0))["choices"][0]["message"]
    for _ in range(3):
        choices = json.loads(ask(server, 1, temperature=0, n=2))["choices"]
        assert [choice["message"] for choice in choices] == [alone, alone]


def test_seeds_repeat_and_streams_add_up(server):
    for seed in range(4):
        whole = json.loads(ask(server, seed, n=2))
        again = json.loads(ask(server, seed, n=2))
        assert whole["choices"] == again["choices"]
        events = [line.removeprefix("data: ") for line in ask(server, seed, n=2, stream=True).split("\n\n")]
        parts = [json.loads(event)["choices"][0] for event in events[:-2]]
        for choice in whole["choices"]:
            mine = [part["delta"].get("content", "") for part in parts if part["index"] == choice["index"]]
            assert "".join(mine) == choice["message"]["content"]


def test_sigterm_ends_it_with_0(server):
    process, _ = server
    process.terminate()
    assert process.wait(120) == 0
