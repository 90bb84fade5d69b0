"""What `ippo validate` notes beside the schema and its rules: what is refused later, and what hardly anybody means."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.cli.main import main
from ippo_operator.cli.validate.doubts import TABLE

from tests.kit.manifests import with_field

SIMULATED: dict[str, Any] = {
    "apiVersion": "ippo.dev/v1alpha1",
    "kind": "IterativePPORun",
    "metadata": {"name": "shop"},
    "spec": {
        "iterations": {"max": 2},
        "policy": {"base": "tiny:d64-l2"},
        "collect": {"simulate": {"environment": {"name": "sr-funnel"}}},
        "warmStart": {"demonstrations": 100},
        "artifacts": {"s3": {"bucket": "shop-runs"}},
    },
}
LIVE = with_field(
    with_field(SIMULATED, "spec.collect", {"logged": {}}),
    "spec.serve",
    {"engine": "Transformers", "strategy": "Canary"},
)
LIVE = with_field(LIVE, "spec.warmStart", {"conversations": "s3://shop/log.jsonl"})
COMMON = "spec.pods.common"
EXAMPLES = Path(__file__).parents[4] / "examples"


def notes(folder: Path, capsys: pytest.CaptureFixture[str], document: dict[str, Any], code: int = 0) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["validate", "-f", str(path)]) == code
    return [line.removeprefix("note: ").removeprefix(f"{path}: ") for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("document", [SIMULATED, LIVE])
def test_a_sound_manifest_has_none(
    document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = {"resources": {"requests": {"cpu": "250m", "memory": "768Mi"}, "limits": {"memory": "2Gi", "cpu": 1}}}
    pods |= {"labels": {"team.example.com/name": "Sales_1.x", "empty": ""}, "nodeSelector": {"gpu": "true"}}
    pods |= {"image": "registry.example:5000/a/b:1@sha256:00"}
    sound = with_field(with_field(document, COMMON, pods), "metadata.namespace", "sales-team")
    gpus = {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": "1", "hugepages-2Mi": "4Mi"}}
    assert notes(tmp_path, capsys, with_field(sound, "spec.pods.improve", {"resources": gpus})) == []


@pytest.mark.parametrize(
    ("path", "value", "note"),
    [
        (
            f"{COMMON}.resources",
            {"requests": {"memory": "16Gi"}, "limits": {"memory": "8Gi"}},
            "requests.memory: given",
        ),
        (f"{COMMON}.resources", {"requests": {"nvidia.com/gpu": 1}}, "requests.nvidia.com/gpu: given 1"),
        (f"{COMMON}.resources", {"limits": {"nvidia.com/gpu": "0.5"}}, 'limits.nvidia.com/gpu: given "0.5"'),
        (f"{COMMON}.resources", {"limits": {"gpu": 1}}, 'limits: given "gpu"'),
        (f"{COMMON}.resources", {"limits": {"memory": 8}}, "limits.memory: given 8"),
        (f"{COMMON}.resources", {"limits": {"memory": "8m"}}, 'limits.memory: given "8m"'),
        (f"{COMMON}.labels", {"team": "a b c"}, 'team: given "a b c"'),
        (f"{COMMON}.labels", {"größe": "a"}, 'labels: given "größe"'),
        (f"{COMMON}.nodeSelector", {"gpu": "a b"}, 'gpu: given "a b"'),
        (f"{COMMON}.annotations", {"a b": "c"}, 'annotations: given "a b"'),
        (f"{COMMON}.image", "my image:latest", 'image: given "my image:latest"'),
        ("metadata.namespace", "Sales_Team", 'namespace: given "Sales_Team"'),
        ("spec.artifacts.s3.bucket", "a..b", 'bucket: given "a..b"'),
        ("spec.artifacts.s3.bucket", "10.0.0.1", 'bucket: given "10.0.0.1"'),
        ("spec.gateway.resources", {"limits": {"memory": 8}}, "limits.memory: given 8"),
    ],
)
def test_what_kubernetes_would_refuse(
    path: str, value: Any, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = notes(tmp_path, capsys, with_field(LIVE if "gateway" in path else SIMULATED, path, value))
    assert line.startswith(path.removesuffix(".labels")) or path in line
    assert note in line
    assert "is refused later; allowed is" in line


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_have_none(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    assert notes(tmp_path, capsys, yaml.safe_load(example.read_text())) == []


def test_sections_are_merged_before_they_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = with_field(SIMULATED, f"{COMMON}.resources", {"requests": {"memory": "4Gi"}})
    document = with_field(document, "spec.pods.fitQ.resources", {"limits": {"memory": "2Gi"}})
    [line] = notes(tmp_path, capsys, document)
    assert line.startswith('spec.pods.fitQ.resources.requests.memory: given "4Gi"')


def test_a_run_on_gpus_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = with_field(SIMULATED, "spec.device", "cuda")
    document = with_field(document, "spec.pods.improve.resources", {"limits": {"nvidia.com/gpu": 1}})
    [line] = notes(tmp_path, capsys, document)
    stages = "warmStart, collect, fitQ, evaluate"
    assert line == f'spec.device: given "cuda"; no GPU is among resources.limits of {stages}'


DOUBTS: list[tuple[str, Any]] = [
    ("spec.improve.klCoefficient", "-1"),
    ("spec.evaluate.gate.minLift", "5"),
    ("spec.evaluate.conversations", 2),
    ("spec.collect.logged", {"minConversations": 1000, "maxConversations": 10}),
    ("spec.collect.logged.outcomeWindow", "99999d"),
    ("spec.serve.canary", {"maxDuration": "1d"}),
    ("spec.serve.replicas", 0),
    ("spec.serve.canary", {"level": "0.99"}),
    ("spec.serve.canary", {"guardRails": {"latency": "0.1"}}),
    ("spec.promotion.approve", 9),
    ("spec.promotion.reject", 9),
    ("spec.collect.logged.personas", [{"name": "a", "share": "0.1"}]),
    ("spec.collect.logged.personas", [{"name": "a", "share": "0", "temperature": "0.5"}]),
    ("spec.improve.learningRate", "100"),
]


@pytest.mark.parametrize(("path", "value"), DOUBTS)
def test_what_can_hardly_be_meant(path: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = any(word in path for word in ("logged", "serve"))
    lines = notes(tmp_path, capsys, with_field(LIVE if live else SIMULATED, path, value))
    assert lines
    assert all(line.startswith(path) or "maxDuration" in line for line in lines)


def test_every_doubt_is_tried() -> None:
    assert len(DOUBTS) >= len(TABLE)


@pytest.mark.parametrize("section", ["policy.adapter", "report", "queue", "gateway", "collect.history"])
def test_a_section_without_a_word_is_told(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = notes(tmp_path, capsys, with_field(LIVE, f"spec.{section}", None))
    assert line == f"spec.{section}: is empty, which is as if it were left out; for its defaults write {{}}"


def test_two_slashes_are_a_place_that_depends_on_where_one_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = with_field(SIMULATED, "spec.warmStart", {"conversations": "file://log.jsonl"})
    del document["spec"]["artifacts"]
    todo = f"file:// is followed by a whole path, with three slashes: write file://{tmp_path}/log.jsonl"
    field = "spec.warmStart.conversations"
    assert notes(tmp_path, capsys, document, 64) == [f"{field}: there is no file log.jsonl; {todo}"]
    (tmp_path / "log.jsonl").touch()
    [line] = notes(tmp_path, capsys, document)
    assert line == f"{field}: given file://log.jsonl, which is looked for from where each command is started; {todo}"
    document["spec"]["warmStart"]["conversations"] = f"file://localhost{tmp_path}/log.jsonl"
    assert notes(tmp_path, capsys, document, 64)[0].endswith(todo)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("warmStart.conversations", "export.py"),
        ("warmStart.conversations", "log.csv"),
        ("collect.history.conversations", "log.txt"),
        ("collect.history.outcomes", "orders.xlsx"),
        ("collect.history.reactions", "reactions.parquet"),
    ],
)
def test_a_name_says_what_is_in_a_file(
    field: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = with_field(LIVE, "spec.collect.history", {"conversations": "s3://shop/served/"})
    [line] = notes(tmp_path, capsys, with_field(document, f"spec.{field}", f"s3://shop/{name}"), 64)
    assert line.startswith(f"spec.{field}: given s3://shop/{name}, allowed is a name that ends in .jsonl, ")


@pytest.mark.parametrize(("share", "words"), [("0.999999", "99.9999%"), ("0.1", "10%"), ("0.125", "12.5%")])
def test_the_summary_rounds_nothing(share: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(with_field(LIVE, "spec.serve.canary", {"share": share}) | {}))
    assert main(["validate", "-f", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"an A/B test of each candidate on {words} of customers" in said
    path.write_text(yaml.safe_dump(with_field(SIMULATED, "spec.iterations.max", 1)))
    assert main(["validate", "-f", str(path)]) == 0
    assert "then 1 iteration of 5000" in capsys.readouterr().out
