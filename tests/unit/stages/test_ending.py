"""A stage's process ends in bounded time, whatever a simulator left behind, with the stage's own exit code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params

from .test_collect import spec_of

LEFT = {
    "a thread": ("threading.Thread(target=forever, name='poll').start()", "thread 'poll'"),
    "a pool of threads": (
        "concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='pool').submit(forever)",
        "thread 'pool_0'",
    ),
    "a process": (
        "multiprocessing.get_context('fork').Process(target=forever, name='shop').start()",
        "process 'shop'",
    ),
    "an exit handler": ("atexit.register(forever)", "an exit handler"),
}
PROGRAM = """
import atexit, concurrent.futures, multiprocessing, sys, threading
from ippo_trainer.stages import ending

def forever():
    threading.Event().wait()

if __name__ == "__main__":
    ending.GRACE_SECONDS = {grace}
    {left}
    sys.exit(ending.bounded({code}))
"""


def run(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("name", "code"), [(name, code) for name in LEFT for code in (0, 75)])
def test_whatever_is_left_the_process_ends_with_the_stages_code_and_says_why(name: str, code: int) -> None:
    left, words = LEFT[name]
    ended = run(PROGRAM.format(grace=0.2, left=left, code=code))
    assert ended.returncode == code, ended.stderr
    assert f"the stage is over (exit code {code})" in ended.stderr
    assert f"because of {words}: it is killed" in ended.stderr


def test_a_process_that_ends_by_itself_says_nothing() -> None:
    ended = run(PROGRAM.format(grace=100.0, left="threading.Thread(target=print).start()", code=65))
    assert (ended.returncode, ended.stderr) == (65, "")


CLINGING = """
import threading
from ippo_trainer.environments.funnel.environment import Funnel

class Clinging(Funnel):
    def __init__(self, **options):
        super().__init__(**options)
        threading.Thread(target=threading.Event().wait, name="crm").start()
"""


def test_a_stage_whose_simulator_started_a_thread_ends_after_its_result(small_world: Any, tmp_path: Path) -> None:
    source = tmp_path / "clinging.py"
    source.write_text(CLINGING)
    environment = params.EnvironmentSpec(name=f"{source}:Clinging", options={"horizon": 2})
    spec = spec_of(small_world, conversations=4).model_copy(update={"environment": environment})
    (tmp_path / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    program = (
        "import sys\nfrom ippo_trainer.stages import cli, ending\nending.GRACE_SECONDS = 0.2\n"
        f"sys.argv[1:] = ['collect', '--spec', {str(tmp_path / 'spec.json')!r}]\ncli.command()"
    )
    ended = run(program)
    assert ended.returncode == 0, ended.stderr
    assert "because of thread 'crm': it is killed" in ended.stderr
    assert '"stage":"collect"' in ended.stdout
    small_world.store.read("iterations/0001/collect/shards/00000/result.json", 1 << 16)
