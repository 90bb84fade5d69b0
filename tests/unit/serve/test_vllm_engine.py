"""The engine around vLLM, with a stand-in for vLLM: what it is asked for, and what its errors become."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from ippo_trainer.serve.engine import QueueFullError, RefusedError, ResponseSampling
from ippo_trainer.serve.vllm_engine import VllmEngine

from tests.kit.chat import ask, run, user


class ClientError(Exception):
    """vllm.exceptions.VLLMClientError; it is no ValueError."""


class OverflowingError(Exception):
    """vllm.exceptions.GracefulHTTPError."""


class SamplingParams(SimpleNamespace):
    """Refuses what vLLM 0.32 refuses."""

    def __init__(self, **given):
        super().__init__(**given)
        if self.temperature < 1e-5 and self.n > 1:
            raise ClientError("n must be 1 when using greedy sampling,\ngot 2.")


class Llm:
    """Answers each sample with two pieces, or fails."""

    errored = False

    def __init__(self, failure=None):
        self.failure, self.asked = failure, []

    async def generate(self, prompt, asked, identifier):
        self.asked.append(asked)
        if self.failure:
            raise self.failure
        for token, finish in ((5, None), (6, "length")):
            for index in range(asked.n):
                yield SimpleNamespace(outputs=[SimpleNamespace(index=index, token_ids=[token], finish_reason=finish)])

    def shutdown(self):
        pass


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    contents = {
        "vllm": {"SamplingParams": SamplingParams, "TokensPrompt": dict},
        "vllm.exceptions": {"VLLMClientError": ClientError, "GracefulHTTPError": OverflowingError},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {
            "EngineDeadError": type("EngineDeadError", (Exception,), {}),
            "EngineGenerateError": type("EngineGenerateError", (Exception,), {}),
        },
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)


def engine_of(llm, max_waiting=1, max_running=4):
    return VllmEngine(llm, 12, max_waiting, max_running, frozenset({3}))


async def pieces_of(engine, sampling):
    return [piece async for piece in engine.generate([7, 8], sampling)]


def test_greedy_choices_are_one_response_several_times():
    llm = Llm()
    pieces = run(pieces_of(engine_of(llm), ResponseSampling(3, 12, 0.0, 1.0, 7)))
    assert [asked.n for asked in llm.asked] == [1]
    for sample in range(3):
        assert [(piece.ids, piece.finish) for piece in pieces if piece.sample == sample] == [
            ([5], None),
            ([6], "length"),
        ]


def test_other_choices_are_vllms_own():
    llm = Llm()
    pieces = run(pieces_of(engine_of(llm), ResponseSampling(3, 12, 1.0, 1.0, 7)))
    assert [asked.n for asked in llm.asked] == [3]
    assert [piece.sample for piece in pieces] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(("temperature", "given"), [(1.0, 0.1), (2.0, 0.1**0.5), (0.5, 0.01), (0.0, 0.0)])
def test_vllm_gets_its_own_min_p(temperature, given):
    """A share of the likeliest token after temperature; ours is one before."""
    llm = Llm()
    run(pieces_of(engine_of(llm), ResponseSampling(1, 12, temperature, 1.0, 7, min_p=0.1)))
    assert llm.asked[0].min_p == pytest.approx(given)


@pytest.mark.parametrize(
    ("failure", "expected"), [(ClientError("too long"), RefusedError), (OverflowingError("full"), QueueFullError)]
)
def test_what_is_refused_takes_no_slot(failure, expected):
    async def check():
        engine = engine_of(Llm(failure), max_running=1)
        for _ in range(3):
            with pytest.raises(expected):
                await pieces_of(engine, ResponseSampling(1, 12, 1.0, 1.0, 7))
            assert engine.waiting() == 0
        engine._llm.failure = None
        assert len(await pieces_of(engine, ResponseSampling(1, 12, 1.0, 1.0, 7))) == 2

    run(check())


def test_wrong_sampling_settings_take_no_slot(monkeypatch):
    def refuse(**_):
        raise ClientError("n must be 1")

    async def check():
        engine = engine_of(Llm(), max_running=1)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["vllm"], "SamplingParams", refuse)
            for _ in range(3):
                with pytest.raises(RefusedError, match="n must be 1"):
                    await pieces_of(engine, ResponseSampling(1, 12, 1.0, 1.0, 7))
        assert len(await pieces_of(engine, ResponseSampling(1, 12, 1.0, 1.0, 7))) == 2

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_what_vllm_refuses_is_the_clients_error(serving, stream):
    async def check():
        async with serving(engine=engine_of(Llm(ClientError("the prompt\nis too long")))) as (client, _):
            value = await ask(client, [user("hello")], 400, stream=stream)
            assert value["error"]["message"] == "the engine refuses this request: the prompt is too long"

    run(check())


def test_greedy_choices_over_http(serving):
    async def check():
        async with serving(engine=engine_of(Llm())) as (client, _):
            for _ in range(6):
                value = await ask(client, [user("hello")], temperature=0, n=2)
                first, second = value["choices"]
                assert first["message"] == second["message"]
                assert (first["finish_reason"], second["index"]) == ("length", 1)

    run(check())
