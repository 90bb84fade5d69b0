"""A pretrained chat model in real pods: a log, conversations by vLLM, servers with vLLM, and a second run that learns
from what they logged."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.data.turns import read_turns
from ippo_trainer.environments import load

from tests.integration import smollm2

from . import artifacts
from .kube import MINUTES, condition, until
from .place import ARCHIVES, NoPlaceError, version
from .runs import Runs
from .shop import FOLDER, TEA, Shop

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2 * 60 * MINUTES)]
NAME, AGAIN = "smollm2", "again"
CONVERSATIONS = 80
"""That customers hold with the servers."""
_RATES = {"learningRate": "0.0003", "batchSize": 8}
POLICY = {"maxPromptTokens": 256, "maxNewTokens": 12, "adapter": {"rank": 8}, "systemPrompt": "You sell tea."}
FIT: dict[str, Any] = {"epochs": 3, "holdout": "0.4", **_RATES}
IMPROVE: dict[str, Any] = {"algorithm": "PPO", "updates": 2, "criticWarmupUpdates": 1, "batchSize": 8}
RESOURCES = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "7Gi"}}


@pytest.fixture(scope="module")
def image(runs: Runs) -> str:
    """The trainer with vLLM."""
    try:
        name = f"ippo-trainer:{version()}-cpu-vllm"
        return runs.kube.place.image("IPPO_E2E_VLLM_IMAGE", ARCHIVES / "trainer-cpu-vllm.tar", name)
    except NoPlaceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def base(runs: Runs, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model, in the bucket."""
    pytest.importorskip("gguf", reason="install gguf to convert SmolLM2 from its PyPI package")
    try:
        directory = smollm2.make(tmp_path_factory.mktemp("smollm2"))
    except smollm2.UnavailableError as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    for path in directory.iterdir():
        artifacts.client(runs.kube.place.store).upload_file(str(path), bucket, f"smollm2/{path.name}")
    return f"s3://{bucket}/smollm2/"


def test_from_a_log_to_a_policy_and_from_what_it_served_to_the_next(
    runs: Runs, bucket: str, image: str, base: str, tmp_path: Path
) -> None:
    log = first_run(runs, bucket, image, base, tmp_path)
    run = runs.wait(NAME, "Succeeded", seconds=60 * MINUTES)
    until(lambda: condition(runs.get(NAME), "Ready")[0] == "True", "the last policy is served", 15 * MINUTES)
    served = run["status"]["policy"]["artifact"]

    outcomes = held_conversations(runs)
    text = "".join(json.dumps({"conversation_id": name, "outcome": won}) + "\n" for name, won in outcomes.items())
    artifacts.client(runs.kube.place.store).put_object(Bucket=bucket, Key="outcomes.jsonl", Body=text.encode())
    until(lambda: logged(runs) >= set(outcomes), "all conversations are in the servers' log", 5 * MINUTES)

    folder = f"s3://{bucket}/{NAME}/{run['metadata']['uid']}"
    history = {"conversations": f"{folder}/served/", "outcomes": f"s3://{bucket}/outcomes.jsonl"}
    runs.create(
        AGAIN,
        pods={"common": {"resources": RESOURCES}},
        iterations={"max": 1},
        policy=POLICY | {"base": f"{folder}/{served['key']}/"},
        warmStart=None,
        collect={"history": history},
        fitQ=FIT,
        improve=IMPROVE,
        promotion={"approve": 1},
    )
    runs.wait(AGAIN, "Succeeded", seconds=40 * MINUTES)

    # The second policy comes from conversations with the first one, and that one from the log.
    first, second = runs.published(NAME), runs.published(AGAIN)
    artifacts.digests(first)
    artifacts.digests(second)
    assert {turn.policy_digest for each in data_of(second, tmp_path) for turn in each.turns} == {served["digest"]}
    assert {each.id for each in data_of(second, tmp_path)} <= set(outcomes)
    said = {json.loads(line)["conversation_id"] for line in log.read_text().splitlines()}
    assert {each.id for each in data_of(first, tmp_path)} <= said
    [line] = artifacts.ledger(second)
    assert line["inputs"]["candidate"] == runs.get(AGAIN)["status"]["policy"]["artifact"]["digest"]


def first_run(runs: Runs, bucket: str, image: str, base: str, folder: Path) -> Path:
    """Begins with a log, goes on with customers whom vLLM answers, and serves with vLLM; returns the log."""
    shop, log = Shop(runs, NAME, *TEA), folder / "log.jsonl"
    shop.log(log, 160)
    shop.prepare()
    artifacts.client(runs.kube.place.store).upload_file(str(log), bucket, "log.jsonl")
    path, _, name = TEA[0].partition(":")
    environment = {"name": f"{FOLDER}/{Path(path).name}:{name}", "options": TEA[1]}
    files = {"name": "shop", "mountPath": FOLDER, "configMap": {"name": "shop"}}
    runs.create(
        NAME,
        pods={
            "common": {"resources": RESOURCES, "volumes": [files], "image": image},
            "serve": {"image": image, "resources": RESOURCES},
        },
        iterations={"max": 2},
        policy=POLICY | {"base": base},
        warmStart={"conversations": f"s3://{bucket}/log.jsonl", "epochs": 2, "learningRate": "0.001", "batchSize": 8},
        collect={
            "history": {"conversations": f"s3://{bucket}/log.jsonl"},
            "simulate": {"environment": environment, "conversations": 120, "parallelism": 1, "sampler": "VLLM"},
        },
        fitQ=FIT,
        improve=IMPROVE,
        evaluate={"conversations": 24},
        serve={"engine": "VLLM", "progressDeadlineSeconds": 900, "log": {}},
    )
    return log


def held_conversations(runs: Runs) -> dict[str, bool]:
    """Customers talk to the run's servers; returns the outcomes."""
    names = [f"chat-{number}" for number in range(CONVERSATIONS)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(lambda number: talk(runs, names[number], number), range(len(names)))
        return dict(zip(names, outcomes, strict=True))


def talk(runs: Runs, name: str, seed: int) -> bool:
    """One conversation; returns the outcome."""
    environment = load(EnvironmentSpec(name=TEA[0], options=TEA[1]))
    [opening] = environment.reset([seed])
    messages = [{"role": "user", "content": opening.customer_message}]
    while True:
        text = ask(runs, name, messages)
        [step] = environment.step([text or None])
        if step.customer_message is None:
            return step.outcome
        messages.append({"role": "assistant", "content": step.sent_message})
        messages.append({"role": "user", "content": step.customer_message})


def ask(runs: Runs, conversation: str, messages: list[dict[str, str]]) -> str:
    """The suggestion of the run's servers."""
    path = f"/api/v1/namespaces/{runs.namespace}/services/{NAME}:8000/proxy/v1/chat/completions"
    body = {"model": NAME, "messages": messages, "metadata": {"conversation_id": conversation}}
    answer = json.loads(runs.kube.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body)))
    return str(answer["choices"][0]["message"]["content"] or "")


def logged(runs: Runs) -> set[str]:
    """Conversations in the servers' log."""
    return {line["conversation_id"] for line in artifacts.segments(runs.published(NAME), "served/")}


def data_of(published: artifacts.Files, folder: Path) -> list[Any]:
    """The conversations of the first iteration."""
    key = next(path for path in published if path.startswith("iterations/0001/collect/") and path.endswith(".parquet"))
    (folder / "turns.parquet").write_bytes(published[key])
    return read_turns(folder / "turns.parquet")
