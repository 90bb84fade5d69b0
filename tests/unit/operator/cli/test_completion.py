"""What completes a command line, by the protocol and in real shells."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ippo_operator.api.reasons import Reason
from ippo_operator.cli import main as module
from ippo_operator.cli.completion.answers import FILES, NO_FILES, completions
from ippo_operator.cli.completion.command import SCRIPTS

from tests.kit.fake_server import Server
from tests.kit.ippo_command import Ippo

from .cluster_runs import begin


def names(*words: str) -> list[str]:
    return list(completions(words)[0])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], ["status"]),
        (["-n", "team", "--context=c", "st"], ["status"]),
        (["-nteam", "--insecure-skip-tls-verify", "st"], ["status"]),
        (["logs", "--st"], ["--stage"]),
        (["logs", "--follow", "--stage", "f"], ["fit-q"]),
        (["logs", "--stage=f"], ["--stage=fit-q"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--names"], ["--namespace"]),
        (["validate", "--kube"], []),
        (["status", "small", ""], []),
        (["nonsense", ""], []),
        (["explain", "Unsch"], ["Unschedulable"]),
    ],
)
def test_verbs_options_and_choices(server: Server, words: list[str], expected: list[str]) -> None:
    assert names(*words) == expected


def test_names_of_the_cluster_and_the_kubeconfig(server: Server) -> None:
    begin(server)
    begin(server, "sales", "elsewhere")
    for verb in ("status", "logs", "approve", "suspend", "report", "retry"):
        assert names(verb, "") == ["small"]
        assert names(verb, "-n", "elsewhere", "") == ["sales"]
        assert names("--namespace=elsewhere", verb, "s") == ["sales"]
    assert names("status", "--", "") == ["small"]
    assert set(names("explain", "")) == {"small", *map(str, Reason)}
    assert names("status", "--context", "") == names("--context", "h") == ["here"]
    assert names("--cluster", "") == names("--user", "") == ["here"]
    server.api.put("namespaces", {"metadata": {"name": "team"}})
    assert names("-n", "t") == ["team"]


def test_where_nothing_answers_nothing_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.installed = False
    assert completions(["status", ""]) == ({}, FILES)
    monkeypatch.setenv("KUBECONFIG", "/no/such")
    assert completions(["logs", ""]) == ({}, FILES)
    assert names("status", "--context", "") == []


@pytest.mark.parametrize(
    "words",
    [["validate", "-f", "x"], ["run", "--out", ""], ["status", "--kubeconfig", ""], ["serve", ""], ["chat", ""]],
)
def test_where_a_file_is_wanted(server: Server, words: list[str]) -> None:
    begin(server)
    assert completions(words) == ({}, FILES)


def test_the_protocol_of_kubectl(
    ippo: Ippo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ippo("__complete", "exa").out == f"exact\tsolve an environment exactly, score a policy\n:{NO_FILES}\n"
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-ippo", "logs", "--stage", "f"])
    assert module.kubectl_complete() == 0
    assert capsys.readouterr().out == f"fit-q\n:{NO_FILES}\n"


def test_kubectl_itself_asks_for_completions(server: Server, tmp_path: Path) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl here")
    begin(server)
    (tmp_path / "bin").mkdir()
    for name in ("kubectl-ippo", "kubectl_complete-ippo"):
        (tmp_path / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def asked(*words: str) -> list[str]:
        command = [program, *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()

    assert asked("__complete", "ippo", "-n", "team", "logs", "s") == ["small", f":{NO_FILES}"]
    assert asked("ippo", "-n", "team", "status")[1].startswith("small")


TYPED = {
    "bash": "source {script}\n"
    'try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ippo; printf \'%s\\n\' "${{COMPREPLY[@]}}"; }}\ntry {words}',
    "zsh": "compdef() {{ : }}\n_files() {{ print FILES }}\n_describe() {{ print -rl -- ${{(@P)4}} }}\n"
    "source {script}\nwords=({words}); CURRENT=${{#words}}; _ippo",
    "fish": "source {script}\ncomplete -C {line}",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_in_a_real_shell(ippo: Ippo, server: Server, tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    begin(server)
    script = tmp_path / "script"
    script.write_text(ippo("completion", shell).out)
    command = tmp_path / "bin/ippo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ippo_operator.cli.main "$@"\n')
    command.chmod(0o700)

    def typed(*words: str) -> list[str]:
        line = shlex.quote(" ".join(("ippo", *words)))
        text = TYPED[shell].format(script=script, words=shlex.join(("ippo", *words)), line=line)
        environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        done = subprocess.run([program, "-c", text], capture_output=True, text=True, env=environment, check=True)
        return [line.replace("\t", ":").partition(":")[0] for line in done.stdout.splitlines() if line]

    assert typed("st") == ["status"]
    assert typed("-n", "team", "logs", "s") == ["small"]
