"""`ippo plan`: a table by stage, from a manifest and a config."""

import json
from pathlib import Path

import pytest
from ippo_operator.cli.main import main
from ippo_trainer.contract.stages import NAMES

RUN = """\
apiVersion: ippo.dev/v1alpha1
kind: IterativePPORun
metadata: {{name: shop}}
spec:
  iterations: {{max: 1}}
  policy: {{base: "{base}", adapter: {{rank: 4}}}}
  warmStart: {{demonstrations: 10}}
  collect: {{simulate: {{environment: {{name: sr-funnel}}}}}}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(base="tiny:d32-l2"))
    return path


def test_it_says_what_each_stage_takes(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(manifest)]) == 0
    said = capsys.readouterr()
    head, *rows = said.out.splitlines()
    names = ["weights", "trained", "activations", "cache", "solver", "process", "together", "seconds"]
    assert head.split() == ["GiB", *names]
    assert [row.split()[0] for row in rows] == list(NAMES)
    assert "seconds are an estimate" in said.err
    assert "a CPU core (measured on" in said.err
    assert main(["plan", "-f", str(manifest), "--gpu", "24", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert list(stages) == list(NAMES)
    assert all(row["together"] >= row["weights"] + row["trained"] for row in stages.values())
    assert stages["improve"]["trained"] > 0
    assert all(row["seconds"] > 0 for row in stages.values())


def test_seconds_go_with_the_device_and_with_what_is_said_of_conversations(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def seconds(*words: str) -> float:
        assert main(["plan", "-f", str(manifest), "--json", *words]) == 0
        return float(json.loads(capsys.readouterr().out)["fit-q"]["seconds"])

    assert seconds() > seconds("--tokens", "100") > seconds("--tokens", "100", "--gpu", "80")
    assert (
        seconds("--gpu", "80")
        == seconds("--device", "h100", "--gpu", "80")
        < seconds("--device", "a100", "--gpu", "80")
    )
    assert main(["plan", "-f", str(manifest), "--gpu", "40", "--device", "a100", "--turns", "3"]) == 0
    said = capsys.readouterr().err
    assert "an A100 (extrapolated from the H100" in said
    assert "conversations of 3 turns and 512 tokens" in said


def test_a_gpu_that_is_too_small_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 128256} | sizes))
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(base="s3://models/big"))
    assert main(["plan", "-f", str(path), "--gpu", "16", "--config", str(tmp_path)]) == 0
    assert "note: improve does not fit into 16 GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "0"], "given 0, allowed are 1 to 10000 GiB"),
        (["--config", "/no/such"], "there is no folder /no/such"),
        (["--tokens", "0"], "given 0, allowed are 1 to 10000000"),
        (["--device", "h100"], "--device h100 needs --gpu: its memory in GiB"),
        (["--device", "cpu", "--gpu", "80"], "--device cpu has no --gpu"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(base="s3://models/big"))
    try:
        code = main(["plan", "-f", str(path), *words])
    except SystemExit as error:
        code = int(str(error.code))
    assert code in (64, 65)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "told"), [("512Mi", True), ("4Gi", False), (4 << 30, False), (None, False)])
def test_pods_that_are_too_small_are_told(
    limit: str | int | None, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    limits = "" if limit is None else f"memory: {limit}"
    path.write_text(RUN.format(base="tiny:d32-l2") + f"  pods: {{common: {{resources: {{limits: {{{limits}}}}}}}}}\n")
    assert main(["plan", "-f", str(path)]) == 0
    errors = capsys.readouterr().err
    assert (f"GiB, and spec.pods limits its memory to {limit}: raise spec.pods.warmStart.resources" in errors) == told
    assert main(["plan", "-f", str(path), "--gpu", "80"]) == 0
    assert "limits its memory" not in capsys.readouterr().err


def test_the_example_for_a_cluster_fits_into_its_pods(capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[4] / "examples/sr-funnel-cluster.yaml"
    assert main(["plan", "-f", str(example)]) == 0
    assert "raise spec.pods" not in capsys.readouterr().err
