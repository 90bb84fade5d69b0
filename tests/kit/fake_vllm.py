"""A stand-in for vLLM 0.32: it samples from a model in this process by vLLM's own definitions, and it can die."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


class VLLMClientError(Exception):
    """vllm.exceptions.VLLMClientError; it is no ValueError."""


class VLLMServerError(Exception):
    """vllm.exceptions.VLLMServerError."""


class EngineDeadError(VLLMServerError):
    """vllm.v1.engine.exceptions.EngineDeadError."""


class SamplingParams(SimpleNamespace):
    """Refuses what vLLM refuses, and what would have to be set for this stand-in to do the same."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if not 0.01 <= self.temperature <= 2.0:
            raise VLLMClientError(f"temperature must be in [0, 2], got {self.temperature}.")
        if not 0.0 <= self.min_p <= 1.0:
            raise VLLMClientError(f"min_p must be in [0, 1], got {self.min_p}.")
        if not 0 <= self.seed < 2**63 - self.n:
            raise OverflowError("a generator takes no such seed")
        assert (self.ignore_eos, self.detokenize, self.flat_logprobs, self.logprobs) == (True, False, True, 0)


STEP = 2000
"""Tokens of prompts that are read in one step: on a CPU, a seeded prompt in two parts is the engine's death."""


class LLM:
    """One engine. `deaths` counts down with every call of any engine; at 0 the engine dies."""

    engines: "list[LLM]" = []
    deaths = -1

    def __init__(self, **arguments: Any) -> None:
        assert arguments["logprobs_mode"] == "processed_logprobs"
        self.arguments = arguments
        self.model = AutoModelForCausalLM.from_pretrained(arguments["model"]).eval()
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.resets, self.closed, self.dead = 0, False, False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._close))
        LLM.engines.append(self)

    def generate(self, prompts: list[dict[str, list[int]]], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        """Outputs in the order of the prompts, as vLLM's, one prompt after the other."""
        assert not use_tqdm
        self._live()
        if self.arguments["enable_chunked_prefill"] and sum(len(each["prompt_token_ids"]) for each in prompts) > STEP:
            raise EngineDeadError("CPU Generator does not use offset")
        results = []
        for prompt, each in zip(prompts, params, strict=True):
            ids = prompt["prompt_token_ids"]
            if len(ids) + each.max_tokens > self.arguments["max_model_len"]:
                raise VLLMClientError("the prompt is too long")
            self.asked.append((ids, each))
            results.append(SimpleNamespace(outputs=[self._response(ids, each, number) for number in range(each.n)]))
        return results

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> None:
        """Calls a method of the class that is added to vLLM's workers."""
        self._live()
        module, _, name = self.arguments["worker_extension_cls"].rpartition(".")
        getattr(getattr(import_module(module), name), method)(_Worker(self), *args)

    def reset_prefix_cache(self) -> bool:
        """Counts."""
        self._live()
        self.resets += 1
        return True

    def _response(self, prompt: list[int], params: SamplingParams, number: int) -> Any:
        generator = torch.Generator().manual_seed(params.seed + number)
        ids: list[int] = []
        logprobs: list[float] = []
        reason = "length"
        while len(ids) < params.max_tokens and reason != "stop":
            with torch.no_grad():
                logits = self.model(torch.tensor([prompt + ids])).logits[0, -1].float() / params.temperature
            shares = logits.softmax(-1)
            table = logits.masked_fill(shares < params.min_p * shares.max(), -torch.inf).log_softmax(-1)
            token = int(torch.multinomial(table.exp(), 1, generator=generator))
            ids.append(token)
            logprobs.append(float(table[token]))
            reason = "stop" if token in params.stop_token_ids else reason
        return SimpleNamespace(token_ids=ids, logprobs=SimpleNamespace(logprobs=logprobs), finish_reason=reason)

    def _live(self) -> None:
        LLM.deaths -= 1
        self.dead = self.dead or LLM.deaths == 0
        if self.dead or self.closed:
            raise EngineDeadError("EngineCore encountered an issue.\nSee stack trace (above) for the root cause.")

    def _close(self) -> None:
        self.closed = True


class _Worker:
    """Of vLLM, one for each device."""

    device = torch.device("cpu")

    def __init__(self, llm: LLM) -> None:
        self.model_runner = SimpleNamespace(get_model=lambda: llm.model)

    def reload_weights(self, weights_path: str) -> None:
        """All weights, by the names that files have."""
        given: dict[str, torch.Tensor] = {}
        for file in Path(weights_path).glob("*.safetensors"):
            given |= load_file(file)
        assert given.keys() == dict(self.model_runner.get_model().named_parameters()).keys()
        self.model_runner.get_model().load_state_dict(given, strict=False)


class ModelRegistry:
    """Knows one architecture."""

    @staticmethod
    def get_supported_archs() -> set[str]:
        return {"LlamaForCausalLM"}


def install(patch: pytest.MonkeyPatch) -> None:
    """From now on, `import vllm` gives this."""
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "ModelRegistry": ModelRegistry, "SamplingParams": SamplingParams},
        "vllm.exceptions": {"VLLMClientError": VLLMClientError, "VLLMServerError": VLLMServerError},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(values)
        patch.setitem(sys.modules, name, module)
    patch.setattr(LLM, "engines", [])
    patch.setattr(LLM, "deaths", -1)
