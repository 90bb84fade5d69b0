from contextlib import asynccontextmanager

import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from ippo_trainer.models.load import build_tiny, load_policy, save_policy
from ippo_trainer.serve.app import ChatServer
from ippo_trainer.serve.settings import ServedModel
from ippo_trainer.serve.transformers_engine import EngineLimits, TransformersEngine
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer

from tests.kit.chat import DIGEST, MAX_NEW, MAX_PROMPT, SYSTEM


@pytest.fixture(scope="session")
def policy_directory(tmp_path_factory):
    """A tiny policy as a stage would publish it: random weights, wide logits, so that answers differ."""
    directory = tmp_path_factory.mktemp("policy")
    texts = ["what do red tulips cost", "ten for you", "hello my friend", "we have roses", SYSTEM] * 3
    tokenizer = build_tokenizer(texts, 400)
    model = build_tiny("tiny:d32-l2", tokenizer, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    save_policy(directory, model, tokenizer, Renderer(tokenizer, SYSTEM, MAX_PROMPT))
    return directory


@pytest.fixture(scope="session")
def policy(policy_directory):
    return load_policy(policy_directory)


@pytest.fixture(scope="session")
def renderer(policy_directory, policy):
    return Renderer.load(policy_directory, policy.tokenizer)


@pytest.fixture
def serving(policy, renderer):
    """`async with serving() as (client, chat_server)`: a chat_server with a running engine; `log` makes its log."""

    @asynccontextmanager
    async def run(rows=4, max_waiting=64, engine=None, log=None):
        pad = policy.tokenizer.pad_token_id
        engine = engine or TransformersEngine(
            policy.model, EngineLimits(MAX_PROMPT, MAX_NEW, rows, max_waiting), renderer.stop_ids, pad
        )
        engine.start()
        chat_server = ChatServer(DIGEST, "demo")
        chat_server.log = log(chat_server.metrics.log()) if log else None
        chat_server.open(ServedModel(renderer, engine))
        server = TestServer(chat_server.application())
        try:
            async with TestClient(server) as client:
                yield client, chat_server
        finally:
            await engine.stop()

    return run
