"""vLLM as a sampler, with a stand-in for vLLM that samples by vLLM's definitions."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError, BadSpecError, TryAgainError
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.engines import vllm_sampler, vllm_start
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.engines.vllm_sampler import EngineSettings, check_temperature, running
from ippo_trainer.models import adapters
from ippo_trainer.models.sampling import Sampling

from tests.kit import fake_vllm
from tests.kit.fake_vllm import LLM
from tests.kit.tiny_models import tiny_model

PAD, STOPS = 0, frozenset({1, 3})
SETTINGS = EngineSettings(length=40, rows=4, dtype="float32", cache_bytes=1 << 20, threads=3)
PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7, 2, 4]]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_vllm.install(monkeypatch)
    monkeypatch.setattr(vllm_start, "_SHARED", tmp_path / "none")  # whatever room this machine has


@pytest.fixture
def model() -> Any:
    model: Any = tiny_model("llama", 16, seed=0, pad_token_id=PAD, eos_token_id=1, tie_word_embeddings=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    return model


@pytest.fixture
def policy(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def sampling(**changes: Any) -> Sampling:
    fields = {"samples": 3, "max_new_tokens": 6, "temperature": 1.3, "stop_ids": STOPS, "pad_id": PAD}
    return Sampling(**(fields | changes))


def logprobs_of(model: Any, prompt: list[int], ids: list[int], how: Sampling) -> list[float]:
    """By the definition of `Sampling`, token by token."""
    values = []
    for place, token in enumerate(ids):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids[:place]])).logits[0, -1:]
        values.append(float(how.scale(logits.clone()).log_softmax(-1)[0, token]))
    return values


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3, 1.0])
def test_what_is_sampled_from_and_its_logprobs_are_those_of_our_own_sampler(
    model: Any, policy: Path, temperature: float, min_p: float
) -> None:
    how = sampling(temperature=temperature, min_p=min_p)
    with running(policy, SETTINGS, "") as sampler:
        responses = sampler.sample(PROMPTS, [3, 4, 5], how)
    for prompt, samples in zip(PROMPTS, responses, strict=True):
        assert len(samples) == 3
        for response in samples:
            assert response.logprobs == pytest.approx(logprobs_of(model, prompt, response.ids, how), abs=1e-5)


def test_both_samplers_draw_with_the_same_frequencies(model: Any, policy: Path) -> None:
    how = sampling(samples=1, max_new_tokens=1, temperature=1.5, min_p=0.05)
    keys, prompts = list(range(1000, 3000)), [PROMPTS[0]] * 2000
    with running(policy, SETTINGS, "") as sampler:
        counts = [
            Counter(response.ids[0] for (response,) in source.sample(prompts, [key << 20 for key in keys], how))
            for source in (sampler, TransformersSampler(model))
        ]
    assert counts[0].keys() <= counts[1].keys() | {token for token, count in counts[0].items() if count < 12}
    for token in counts[0].keys() | counts[1].keys():
        ours, theirs = counts[1][token], counts[0][token]
        assert abs(ours - theirs) <= 5 * (ours + theirs + 4) ** 0.5, token


def test_a_response_ends_with_a_stop_token_and_nothing_else(policy: Path) -> None:
    with running(policy, SETTINGS, "") as sampler:
        responses = [each for samples in sampler.sample(PROMPTS * 20, list(range(60)), sampling()) for each in samples]
    assert {response.ended for response in responses} == {True, False}
    for response in responses:
        assert len(response.ids) == len(response.logprobs)
        assert response.ended == (response.ids[-1] in STOPS)
        assert not STOPS & set(response.ids[:-1])
        assert response.ended or len(response.ids) == 6
    for ids, asked in LLM.engines[0].asked:
        assert (asked.stop_token_ids, asked.max_tokens, ids in PROMPTS) == ([1, 3], 6, True)


def test_a_response_depends_on_its_key_and_its_number_alone(policy: Path) -> None:
    most = 2**63 - 1
    with running(policy, SETTINGS, "") as sampler:
        together = sampler.sample(PROMPTS, [most, 8, most - 9], sampling())
        again = sampler.sample(PROMPTS[::-1], [most - 9, 8, most], sampling())[::-1]
        other = sampler.sample(PROMPTS, [1 << 40, 2 << 40, 3 << 40], sampling())
        assert sampler.sample([], [], sampling()) == []
    assert together == again != other
    assert len({tuple(response.ids) for response in together[0]}) > 1


@pytest.mark.parametrize("part", [1 << 10, 1 << 30])
def test_weights_go_from_memory_to_memory(model: Any, policy: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(vllm_sampler, "PART_BYTES", part)
    how, files = sampling(samples=1), len(list(Path("/proc/self/fd").iterdir()))
    with running(policy, SETTINGS, "") as sampler:
        before = sampler.sample(PROMPTS, [1, 2, 3], how)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
        resets = LLM.engines[0].resets
        sampler.take(model)
        assert LLM.engines[0].resets == resets + 1  # what was remembered of the old weights
        after = sampler.sample(PROMPTS, [1, 2, 3], how)
    assert before != after
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    for prompt, (response,) in zip(PROMPTS, after, strict=True):
        assert response.logprobs == pytest.approx(logprobs_of(model, prompt, response.ids, how), abs=1e-5)


def test_adapters_are_handed_over_as_a_whole_model_and_stay_as_they_are(model: Any, policy: Path) -> None:
    adapted = adapters.add(adapters.share(model), params.Adapter(rank=4), 0)
    adapters.name_base(adapted, ArtifactRef(key="base", digest="sha256:" + "1" * 64))
    with torch.no_grad():
        for parameter in adapters.own_parameters(adapted):
            parameter.normal_(std=0.3)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    how = sampling(samples=1)
    with running(policy, SETTINGS, "") as sampler:
        sampler.take(adapted)
        responses = sampler.sample(PROMPTS, [1, 2, 3], how)
    for prompt, (response,) in zip(PROMPTS, responses, strict=True):
        assert response.logprobs == pytest.approx(logprobs_of(adapted, prompt, response.ids, how), abs=1e-4)
    assert all(torch.equal(before[name], parameter) for name, parameter in adapted.named_parameters())
    halved = adapters.copied(adapted).to(torch.bfloat16)
    assert {weight.dtype for _, weight in adapters.merged_weights(halved)} == {torch.bfloat16}


def test_an_engine_that_dies_is_tried_again_and_is_closed(policy: Path) -> None:
    with running(policy, SETTINGS, "") as sampler:
        sampler.sample(PROMPTS, [1, 2, 3], sampling())
        LLM.deaths = 1
        with pytest.raises(TryAgainError, match=r"vLLM's engine died: EngineCore encountered an issue\. See"):
            sampler.sample(PROMPTS, [1, 2, 3], sampling())
    assert LLM.engines[0].closed


def test_a_response_that_vllm_gave_up_is_tried_again(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    respond = LLM._response

    def aborted(*arguments: Any) -> Any:
        response = respond(*arguments)
        response.finish_reason = "abort"
        return response

    monkeypatch.setattr(LLM, "_response", aborted)
    with running(policy, SETTINGS, "") as sampler, pytest.raises(TryAgainError, match="ended a response with abort"):
        sampler.sample(PROMPTS, [1, 2, 3], sampling())


def test_how_it_is_started(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPPO_VLLM_ARGS", '{"max_num_seqs": 2}')
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    seen: dict[str, str] = {}
    start = LLM.__init__

    def watched(self: LLM, **arguments: Any) -> None:
        seen.update(os.environ)
        start(self, **arguments)

    monkeypatch.setattr(LLM, "__init__", watched)
    with running(policy, SETTINGS, ""):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert "TORCH_COMPILE_DISABLE" not in os.environ
    assert seen["OMP_NUM_THREADS"] == "3"
    assert seen["TORCH_COMPILE_DISABLE"] == "1"
    arguments = LLM.engines[0].arguments
    assert arguments["model"] == str(policy)
    assert (arguments["max_model_len"], arguments["kv_cache_memory_bytes"]) == (40, 1 << 20)
    assert arguments["max_num_seqs"] == 2  # the user's
    assert arguments["enable_prefix_caching"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "IPPO_VLLM_ARGS is not JSON"), ("[]", "IPPO_VLLM_ARGS is no JSON object")],
)
def test_wrong_arguments_of_the_user_are_a_bad_spec(
    policy: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("IPPO_VLLM_ARGS", text)
    with pytest.raises(BadSpecError, match=message), running(policy, SETTINGS, ""):
        pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Engine core initialization failed"), BadDataError),
        (ValueError("no such architecture"), BadDataError),
        (TypeError("unexpected keyword argument 'x'"), BadSpecError),
        (ImportError("no module"), BadSpecError),
    ],
)
def test_what_cannot_be_started(policy: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: Any) -> None:
    def fail(self: LLM, **arguments: Any) -> None:
        raise error

    monkeypatch.setattr(LLM, "__init__", fail)
    with pytest.raises(expected, match=str(error)), running(policy, SETTINGS, "Use another image."):
        pass


@pytest.mark.parametrize("temperature", [0.001, 2.01, 3.0])
def test_temperatures_that_vllm_would_refuse_or_change_are_refused_before(temperature: float) -> None:
    with pytest.raises(BadSpecError, match=f"collect.temperature is {temperature:g}, and vLLM samples at 0.01 to 2"):
        check_temperature("collect.temperature", temperature)
    check_temperature("collect.temperature", 2.0)


@pytest.mark.parametrize(
    ("heads", "groups", "devices", "expected"),
    [(28, 4, 4, 4), (28, 4, 8, 4), (9, 3, 2, 1), (9, 3, 3, 3), (32, 8, 1, 1), (32, 2, 8, 8), (12, 12, 8, 6)],
)
def test_as_many_gpus_as_divide_the_heads(heads: int, groups: int, devices: int, expected: int) -> None:
    config = {"num_attention_heads": heads, "num_key_value_heads": groups}
    assert vllm_start.parallel(config, devices) == expected
    assert vllm_start.parallel({"n_head": heads}, devices) in range(1, devices + 1)


def test_more_prompts_than_one_step_reads_do_not_end_the_engine(policy: Path) -> None:
    with running(policy, SETTINGS, "remedy") as sampler:
        sampled = sampler.sample([[5, 6, 7, 8] * 5] * 150, range(150), sampling(samples=1))
    assert len(sampled) == 150


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", 4096),
        ('{"max_model_len": 32768}', 32768),
        ('{"max_num_seqs": 5000}', 5000),
        ('{"max_num_batched_tokens": 40960}', 40960),
        ('{"enable_chunked_prefill": true}', None),
    ],
)
def test_a_step_holds_the_longest_prompt_and_all_rows_whatever_users_set(
    policy: Path, monkeypatch: pytest.MonkeyPatch, extra: str, expected: int | None
) -> None:
    """vLLM refuses less where prompts are not cut."""
    monkeypatch.setenv("IPPO_VLLM_ARGS", extra)
    assert vllm_start.arguments(policy, 40, {"max_num_seqs": 4}).get("max_num_batched_tokens") == expected


@pytest.mark.parametrize(
    ("gpus", "extra", "free", "refused"),
    [
        (0, "", 64, True),
        (2, "", 64, True),
        (1, "", 64, False),
        (2, '{"tensor_parallel_size": 1}', 64, False),
        (0, "", 1024, False),
    ],
)
def test_too_little_shared_memory_is_said_before_vllm_starts(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, extra: str, free: int, refused: bool
) -> None:
    """Where there is more than one process; vLLM's own error is in the log of another one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(vllm_start, "_SHARED", tmp_path)
    monkeypatch.setattr(vllm_start.shutil, "disk_usage", lambda place: SimpleNamespace(free=free << 20))
    monkeypatch.setenv("IPPO_VLLM_ARGS", extra)
    if not refused:
        vllm_start.arguments(policy, 40, {})
        return
    with pytest.raises(BadSpecError, match=r"160 MiB in .*, which has 64 MiB free.*sharedMemory"):
        vllm_start.arguments(policy, 40, {})
