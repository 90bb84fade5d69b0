"""Fixtures of the stage tests: a small SR-funnel run in a local store, an untrained policy, demonstrations as data."""

import gc
import itertools
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.layout import BASE
from ippo_trainer.contract.spec import ArtifactRef, StageResult, StageSpec, StoreLocation
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import read_turns, write_turns
from ippo_trainer.environments import load
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.models import adapters
from ippo_trainer.models.files import base_of
from ippo_trainer.models.load import build_tiny, load_policy, new_q, save_policy
from ippo_trainer.stages.runtime import run_stage
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import BASE_INPUT, BASE_KIND, fetch, publish
from ippo_trainer.store.local import LocalStore
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.tokenizer import build_tokenizer
from ippo_trainer.training import cadence

FUNNEL = params.EnvironmentSpec(name="sr-funnel", options={"horizon": 4})


def demonstrations(count: int, first_seed: int = 0) -> list[Conversation]:
    """Conversations of the environment's own business."""
    return demonstrate(load(FUNNEL), range(first_seed, first_seed + count), "sr-funnel")


@dataclass
class SmallWorld:
    """A folder with a store in it."""

    folder: Path
    base: str = "tiny:d16-l1-h2"
    """Of policies."""
    demonstrations = staticmethod(demonstrations)

    def __post_init__(self) -> None:
        self.location = StoreLocation(directory=str(self.folder / "store"))
        self.store = open_store(self.location)
        self.policy: ArtifactRef | None = None

    def put_data(self, conversations: Sequence[Conversation], name: str = "data") -> ArtifactRef:
        """Publishes conversations as collect does: turns of nobody in particular become the first policy's own."""
        for turn in (turn for conversation in conversations for turn in conversation.turns):
            if self.policy is not None and not turn.policy_digest:
                turn.policy_digest = self.policy.digest
                turn.behaviour = "policy" if turn.behaviour == "log" else turn.behaviour
        directory = self.folder / name
        directory.mkdir()
        write_turns(directory / "turns.parquet", conversations)
        return publish(self.store, f"given/{name}", directory, "data")

    def put_policy(self, seed: int = 0, name: str = "policy", adapter: params.Adapter | None = None) -> ArtifactRef:
        """Publishes a tiny policy with random weights; the tokenizer is the same for every seed.

        With an adapter, that is what is random, and the base is the same for every seed.
        """
        texts = [
            text
            for conversation in demonstrations(60)
            for turn in conversation.turns
            for text in (turn.customer_message, turn.suggestion or "", turn.sent_message)
        ]
        tokenizer = build_tokenizer(texts)
        model = build_tiny(self.base, tokenizer, seed if adapter is None else 0)
        inputs = {}
        if adapter is not None:
            base = self.folder / "base"
            model.save_pretrained(base)
            tokenizer.save_pretrained(base)
            reference = publish(self.store, BASE, base, BASE_KIND, reuse=True)
            model = adapters.add(adapters.share(model), adapter, seed)
            adapters.name_base(model, reference)
            torch.manual_seed(seed)
            for parameter in adapters.own_parameters(adapters.trainable(model)):
                torch.nn.init.normal_(parameter, std=0.1)
            inputs[BASE_INPUT] = reference.digest
        directory = self.folder / name
        save_policy(directory, model, tokenizer, Renderer(tokenizer, load(FUNNEL).system_prompt, 256))
        policy = publish(self.store, f"given/{name}", directory, "policy", inputs)
        self.policy = self.policy or policy
        return policy

    def put_q(self, policy: ArtifactRef, seed: int = 0) -> ArtifactRef:
        """Publishes an untrained Q model of a policy, with the part of its account that others read."""
        source, directory = self.folder / "q-policy", self.folder / "q"
        fetch(self.store, policy, source, "policy")
        loaded = load_policy(source)
        save_policy(directory, new_q(loaded.model, seed), loaded.tokenizer, Renderer.load(source, loaded.tokenizer))
        account = {"split": {"holdout": "0.5", "seed": 3}, "standard_error": 0.01}
        (directory / "calibration.json").write_text(json.dumps(account))
        base = base_of(source)
        return publish(self.store, "given/q", directory, "q", {BASE_INPUT: base.digest} if base else {})

    def spec(self, stage: str, inputs: dict[str, ArtifactRef], **sections: Any) -> StageSpec:
        """A stage spec on this store."""
        fields: dict[str, Any] = {
            "stage": stage,
            "run": "small",
            "iteration": 1,
            "seed": 7,
            "threads": 1,
            "device": "cpu",
            "discount": "0.95",
            "store": self.location,
            "inputs": inputs,
            "environment": FUNNEL,
            "policy": params.Policy(base="tiny:d16-l1-h2", max_prompt_tokens=256),
        }
        return StageSpec(**{**fields, **sections})

    def run(self, spec: StageSpec) -> tuple[int, dict[str, Any]]:
        """Runs a stage in this process: the exit code, and what it left in the termination log."""
        path, log = self.folder / "spec.json", self.folder / "termination.json"
        path.write_text(spec.model_dump_json(by_alias=True))
        log.unlink(missing_ok=True)
        code = run_stage(path, None, log, self.folder)
        return code, json.loads(log.read_bytes())

    def kill_at_put(self, spec: StageSpec, number: int) -> None:
        """Runs a stage, saving after every step, in a forked process that kills itself before its n-th write."""
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            return
        cadence.SAVE_SECONDS, cadence.SAVING_SHARE = 0.0, float("inf")
        put, puts = LocalStore.put, itertools.count(1)

        def counted(store: LocalStore, *arguments: Any, **options: Any) -> None:
            if next(puts) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            put(store, *arguments, **options)

        LocalStore.put = counted  # type: ignore[method-assign]
        self.run(spec)
        os._exit(1)

    def data_of(self, result: StageResult, name: str = "fetched") -> list[Conversation]:
        """Conversations that a stage published; `name` is the folder that they are fetched into."""
        fetch(self.store, result.artifacts["data"], self.folder / name, "data")
        return read_turns(sorted((self.folder / name).glob("*.parquet")))

    def forget(self) -> None:
        """All that stages published goes; what they were given stays."""
        for entry in list(self.store.list("iterations")):
            self.store.delete(entry.key)

    def result(self, spec: StageSpec) -> StageResult:
        """Runs a stage that must succeed."""
        code, message = self.run(spec)
        assert code == 0, message
        return StageResult.model_validate_json(json.dumps(message))


@pytest.fixture
def small_world(tmp_path: Path) -> SmallWorld:
    """An empty one."""
    return SmallWorld(tmp_path)


@pytest.fixture
def young() -> None:
    """`live_tensors.alive` looks at what a test makes itself, not at what tests before it left."""
    gc.collect()
    gc.freeze()
