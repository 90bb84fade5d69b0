"""`ippo validate` beyond the manifest: what is not there on this machine, and settings that do not fit the base."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.cli.main import main
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.models.load import tiny_config

SPEC: dict[str, Any] = {
    "iterations": {"max": 1},
    "policy": {"base": "tiny:d64-l2"},
    "collect": {"simulate": {"environment": {"name": "sr-funnel"}}},
    "warmStart": {"demonstrations": 100},
}
NAME = "spec.collect.simulate.environment.name"


def validate(folder: Path, capsys: pytest.CaptureFixture[str], **spec: Any) -> tuple[int, str, list[str]]:
    path = folder / "run.yaml"
    whole = {"apiVersion": "ippo.dev/v1alpha1", "kind": "IterativePPORun", "metadata": {"name": "shop"}}
    path.write_text(yaml.safe_dump(whole | {"spec": SPEC | spec}))
    code = main(["validate", "-f", str(path)])
    captured = capsys.readouterr()
    return code, captured.out, [line.removeprefix(f"{path}: ") for line in captured.err.splitlines()]


def environment(name: str) -> dict[str, Any]:
    return {"simulate": {"environment": {"name": name}}}


def model(folder: Path, *files: str) -> str:
    for file in files:
        (folder / file).write_text("{}")
    return f"file://{folder}"


SOURCES = {
    "Shop": "class Shop: ...",
    "Made": "Made = type('Made', (), {})",
    "Brought": "from somewhere import Brought",
    "Other": "try:\n    from fast import Other\nexcept ImportError:\n    class Other: ...",
    "Any": "from somewhere import *",
    "Lazy": "def __getattr__(name): ...",
}


def test_a_field_without_effect_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, notes = validate(tmp_path, capsys, improve={"algorithm": "MPO", "clipRange": "0.1"})
    assert code == 0
    assert "is valid" in out
    assert notes == [
        'note: spec.improve.clipRange: given "0.1", which has no effect with algorithm MPO; leave it out, or set '
        "improve.algorithm to PPO, MPOThenPPO, GRPO or RLOO"
    ]


def test_a_run_of_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    history = {"conversations": f"file://{log}", "outcomes": f"file://{tmp_path}/orders.csv"}
    alone = {"collect": {"history": history}, "warmStart": {"conversations": f"file://{log}"}}
    code, _, errors = validate(tmp_path, capsys, **alone)
    assert code == 64
    assert errors == [
        f"spec.warmStart.conversations: there is no file {log}",
        f"spec.collect.history.conversations: there is no file {log}",
        f"spec.collect.history.outcomes: there is no file {tmp_path}/orders.csv",
    ]
    for name in ("log.jsonl", "orders.csv"):
        (tmp_path / name).write_text("{}")
    code, said, _ = validate(tmp_path, capsys, **alone)
    assert code == 0
    assert f"a warm start, an iteration from file://{log}, then your approval" in said
    both = alone | {"collect": {"history": history, **SPEC["collect"]}, "iterations": {"max": 3}}
    assert "then up to 2 iterations of 5000 conversations with sr-funnel" in validate(tmp_path, capsys, **both)[1]


@pytest.mark.parametrize("name", SOURCES)
def test_a_class_that_may_be_there_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Without importing anything: the sources would all fail."""
    file = tmp_path / "mine.py"
    file.write_text(f"{SOURCES[name]}\nraise SystemExit('imported')\n")
    code, out, err = validate(tmp_path, capsys, collect=environment(f"{file}:{name}"))
    assert (code, err) == (0, [])
    assert "is valid" in out


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("{}/none.py:Shop", None, "there is no file"),
        ("no_such_module.shop:Shop", None, "there is no module no_such_module.shop"),
        ("json.nothing:Shop", None, "there is no module json.nothing"),
        (
            "shop",
            None,
            "given shop, allowed is sr-funnel, double-t-maze, garden, catalogue-shop, module:Class or "
            "path/to/file.py:Class",
        ),
        ("{}/mine.py:Shop", "class Shops: ...\nclass Other: ...", "mine.py has no class Shop; it has Shops, Other"),
        ("{}/mine.py:Shop", "class Shop(:", "mine.py, line 1: invalid syntax"),
        ("{}/mine.py:Shop", "\0", "mine.py"),
        ("json.decoder:Shop", None, "decoder.py has no class Shop; it has JSONDecodeError, JSONDecoder"),
    ],
)
def test_a_class_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, source: str | None, said: str
) -> None:
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    code, out, err = validate(tmp_path, capsys, collect=environment(name.format(tmp_path)))
    assert (code, out, len(err)) == (64, "", 1)
    assert err[0].startswith(f"{NAME}: ")
    assert said in err[0]


def test_modules_are_found_beside_the_manifest_and_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shops").mkdir()
    (tmp_path / "shops" / "tea.py").write_text("class Tea: ...")
    monkeypatch.chdir(tmp_path)
    assert validate(tmp_path, capsys, collect=environment("shops.tea:Tea"))[0] == 0
    assert validate(tmp_path, capsys, collect=environment("json.decoder:JSONDecoder"))[0] == 0


def test_a_log_and_a_model_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = validate(
        tmp_path,
        capsys,
        policy={"base": f"file://{tmp_path}/none"},
        warmStart={"conversations": f"file://{tmp_path}/log.jsonl", "learningRate": "0.00002"},
    )
    assert code == 64
    assert err == [
        f"spec.policy.base: there is no folder {tmp_path}/none",
        f"spec.warmStart.conversations: there is no file {tmp_path}/log.jsonl",
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["model.safetensors", "tokenizer.json"], "it has no config.json"),
        (["config.json", "model.bin", "tokenizer.json"], "only pickled weights (model.bin)"),
        (["config.json", "model.safetensors"], "has no tokenizer.json"),
        (["config.json", "model.safetensors", "tokenizer.json", "adapter_config.json"], "holds an adapter"),
    ],
)
def test_a_model_that_no_stage_would_load_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], said: str
) -> None:
    """By the rules of the stages themselves."""
    (tmp_path / "base").mkdir()
    code, _, err = validate(tmp_path, capsys, policy={"base": model(tmp_path / "base", *files)})
    assert (code, len(err)) == (64, 1)
    assert err[0].startswith("spec.policy.base: ")
    assert said in err[0]


def test_with_a_bucket_what_is_not_here_may_be_in_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = {"s3": {"bucket": "models"}}
    code, out, err = validate(tmp_path, capsys, collect=environment("/app/mine.py:Shop"), artifacts=bucket)
    assert code == 0
    assert "is valid" in out
    assert err == [
        f"note: {NAME}: there is no file /app/mine.py on this machine; "
        "in a cluster it has to be in the stages' image or volume"
    ]


def test_rates_for_tiny_models_on_a_pretrained_base_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"base": model(tmp_path, "config.json", "model.safetensors", "tokenizer.json")}
    steep = {"learningRate": "0.003"}
    sections = {"warmStart": {"demonstrations": 9, **steep}, "fitQ": steep}
    improve = {**steep, "criticLearningRate": "0.003"}
    code, _, err = validate(tmp_path, capsys, policy=base, improve=improve, **sections)
    assert code == 0
    assert [line.split(": ")[1] for line in err] == [
        "spec.warmStart.learningRate",
        "spec.fitQ.learningRate",
        "spec.improve.learningRate",
        "spec.improve.criticLearningRate",
    ]
    assert err[2].endswith("0.003 is more than a pretrained base survives; left out, it is 0.000001")
    assert validate(tmp_path, capsys, policy=base)[2] == []
    [mpo] = validate(tmp_path, capsys, policy=base, improve={"algorithm": "MPO", "mpo": steep})[2]
    assert mpo.split(": ")[1] == "spec.improve.mpo.learningRate"
    assert validate(tmp_path, capsys, policy=base, improve={"algorithm": "MPO"})[2] == []
    both = validate(tmp_path, capsys, policy=base, improve={"algorithm": "MPOThenPPO", "mpo": steep, **steep})[2]
    assert [line.split(": ")[1] for line in both] == ["spec.improve.mpo.learningRate", "spec.improve.learningRate"]
    adapted = {**base, "adapter": {}}
    assert [line.split(": ")[1] for line in validate(tmp_path, capsys, policy=adapted, **sections)[2]] == [
        "spec.warmStart.learningRate",
        "spec.fitQ.learningRate",
    ]
    milder = {"learningRate": "0.0015"}
    sections = {"warmStart": {"demonstrations": 9, **milder}, "fitQ": milder}
    assert validate(tmp_path, capsys, policy=adapted, **sections)[2] == []


@pytest.mark.parametrize(
    ("base", "fit_q", "complaint"),
    [
        ("tiny:d64-l2", {"ranks": [8, 100]}, "given 100, allowed is at most 64, the width of tiny:d64-l2"),
        ("tiny:d64-l2", {"ranks": [64]}, ""),
        ("tiny:d8-l1", {}, ""),
        ("tiny:d64-l2", {"ranks": [100], "lastLayer": "Gradient"}, ""),
        ("file://", {"ranks": [17]}, "given 17, allowed is at most 16"),
        ("s3://bucket/model", {"ranks": [17]}, ""),
    ],
)
def test_ranks_above_the_trunks_width_are_seen_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, fit_q: dict[str, Any], complaint: str
) -> None:
    if base == "file://":
        base = model(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
        (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    code, _, err = validate(tmp_path, capsys, policy={"base": base}, fitQ=fit_q)
    assert (code != 0) == bool(complaint)
    assert any(line.startswith(f"spec.fitQ.ranks: {complaint}") for line in err) == bool(complaint)


def test_it_says_what_is_left_to_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = {"base": model(tmp_path, "config.json", "model.safetensors", "tokenizer.json")}
    warm = {"demonstrations": 9, "epochs": 5}
    _, out, _ = validate(tmp_path, capsys, policy={**base, "adapter": {}}, warmStart=warm)
    said = out.splitlines()[1].partition(": left out, for ")[2]
    assert said == (
        "adapters on a pretrained base: warmStart.learningRate 0.0002, warmStart.batchSize 16, "
        "fitQ.learningRate 0.0001, fitQ.epochs 4, improve.learningRate 0.00001, improve.criticLearningRate 0.0001"
    )
    _, out, _ = validate(tmp_path, capsys, policy=base, warmStart=warm, improve={"algorithm": "MPO"})
    assert "improve.mpo.learningRate 0.00001, improve.mpo.epochs 2" in out.splitlines()[1]
    assert len(validate(tmp_path, capsys)[1].splitlines()) == 1  # a tiny base


@pytest.mark.parametrize(
    "base", ["tiny:d33-l1-h4", "tiny:d32-l1-h7", "tiny:d4-l1", "tiny:l1", "tiny:d99999-l1", "tiny:d64-l2-"]
)
def test_a_tiny_base_that_nobody_can_make(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `validate` refuses and what the stage refuses are the same."""
    code, _, errors = validate(tmp_path, capsys, policy={"base": base})
    assert code == 64
    assert [error for error in errors if f"given {base}, allowed is tiny:d<width>" in error]
    with pytest.raises(BadSpecError, match="no tiny model"):
        tiny_config(base, 100)


@pytest.mark.parametrize(
    ("most", "words"), [(1, "its candidate measured with sr-funnel"), (3, "then up to 2 iterations")]
)
def test_a_log_and_a_simulator_in_words(
    most: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text("{}")
    collect = {**SPEC["collect"], "history": {"conversations": f"file://{tmp_path}/log.jsonl"}}
    code, out, _ = validate(tmp_path, capsys, collect=collect, iterations={"max": most})
    assert code == 0
    assert words in out


WHERE = "spec.gateway.journalVolume"
NO_ROOM = "allowed is a volume with storage for journalBytes or more, 1Gi if left out"
QUANTITY = "allowed is a quantity such as 500m, 2, 8Gi"


def of_gateways(folder: Path, **gateway: Any) -> dict[str, Any]:
    """What a run with these gateways says beside the rest."""
    log = folder / "log.jsonl"
    log.touch()
    return {"warmStart": {"conversations": f"file://{log}"}, "collect": {"logged": {}}, "serve": {}, "gateway": gateway}


@pytest.mark.parametrize(
    ("volume", "error"),
    [
        ({"storage": "0"}, f"{WHERE}: given storage of 0, {NO_ROOM}"),
        ({"storage": "1G"}, f"{WHERE}: given storage of 1G, {NO_ROOM}"),
        ({"storage": "two"}, f'{WHERE}.storage: given "two", {QUANTITY}'),
        ({"storage": "-1Gi"}, f'{WHERE}.storage: given "-1Gi", {QUANTITY}'),
        ({}, f"{WHERE}.storage: is missing"),
        ({"storage": "2Gi", "size": "2Gi"}, f"{WHERE}.size: "),
        ({"storage": "2Gi", "storageClassName": ""}, f"{WHERE}.storageClassName: "),
        ({"storage": "2Gi", "storageClassName": "Fast Disks"}, f"{WHERE}.storageClassName: "),
    ],
)
def test_a_volume_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], volume: dict[str, str], error: str
) -> None:
    code, _, [line] = validate(tmp_path, capsys, **of_gateways(tmp_path, journalVolume=volume))
    assert code == 64
    assert line.startswith(error)


def test_a_volume_is_for_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = of_gateways(tmp_path, journalVolume={"storage": "2Gi"})
    code, _, [line] = validate(tmp_path, capsys, **spec)
    assert code == 0
    assert line.startswith(f"note: {WHERE}: given ")
    assert line.endswith("which has no effect without artifacts.s3: the journal is in the run's folder; leave it out")
    code, _, lines = validate(tmp_path, capsys, **spec, artifacts={"s3": {"bucket": "ippo"}})
    assert (code, [line for line in lines if WHERE in line]) == (0, [])
