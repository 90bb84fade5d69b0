"""The pages for one machine, command by command, in one folder: each scene finds what those before it left."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.kit.doc_scenes import PAGES_OF_ONE_MACHINE, TUTORIALS, Scene
from tests.kit.doc_shell import Shell, work_folder
from tests.kit.ports import free_port

pytestmark = pytest.mark.timeout(900)

_IPPO = """\
#!/bin/sh
# `ippo serve` gets a port that is free
[ "$1" = serve ] && set -- "$@" --port "$PORT"
exec {programs}/ippo "$@"
"""
_CURL = """\
#!/bin/bash
# asks the port that `ippo serve` got
exec {curl} "${{@//localhost:8000/localhost:$PORT}}"
"""
_HF = """\
#!/bin/sh
# in place of a download: the policy of the first tutorial is a model like any other
{programs}/hf "$@" --help > /dev/null && cp -r runs/tea/artifacts/iterations/0000/policy/*/ "$4"
"""
_AWS = """\
#!/bin/sh
# no bucket here: checks that what is to be copied is there
test -d "$3"
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A reader's machine: the repository, its commands, and stand-ins for what needs the internet."""
    folder = work_folder(tmp_path_factory.mktemp("machine"))
    shell = Shell(folder, PORT=str(free_port()))
    programs = Path(sys.executable).parent
    for name, text in {"ippo": _IPPO, "curl": _CURL, "hf": _HF, "aws": _AWS}.items():
        shell.program(name, text.format(programs=programs, curl=shutil.which("curl")))
    return shell


def check(machine: Shell, scene: Scene) -> None:
    done = machine.carry_out(scene)
    problems = done.problems(scene.fails)
    assert not problems, "\n".join(problems)


FIRST, *OTHERS = TUTORIALS
SLOW = [pytest.param(scene, marks=pytest.mark.slow) for scene in OTHERS]


@pytest.mark.parametrize("scene", [FIRST, *SLOW], ids=str)
def test_a_tutorial_is_carried_out(machine: Shell, scene: Scene) -> None:
    check(machine, scene)


@pytest.mark.parametrize("scene", PAGES_OF_ONE_MACHINE, ids=str)
def test_a_page_is_carried_out(machine: Shell, scene: Scene) -> None:
    check(machine, scene)
