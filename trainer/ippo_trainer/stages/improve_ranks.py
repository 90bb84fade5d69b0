"""Starts the stage `improve` on several processes: torchrun's launcher with a stage's exit codes and messages.

torchrun itself ends with 1 whatever its processes end with. Here the pod ends as the process that failed did, and its
termination message is that process's own.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from ippo_trainer.contract.command_line import RENDEZVOUS_PORT
from ippo_trainer.contract.errors import FINAL, StageError, StoppedError, TryAgainError
from ippo_trainer.contract.stages import IMPROVE
from ippo_trainer.contract.variables import COMPLETION_INDEX, LOCAL_RANK
from ippo_trainer.stages.ending import bounded
from ippo_trainer.stages.output import error_message, write_termination_log

MEETING_SECONDS = 900
"""How long a pod waits for the others to start, and for their host names."""
GRACE_SECONDS = 3600
"""Of processes that are told to stop; the pod's own grace period is what ends them."""
_WORKER = "IPPO_RANK_LOG_FOLDER"
_FOLLOWING = (TryAgainError.exit_code, StoppedError.exit_code, -signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments, rest = _parser().parse_known_args(argv)
    if os.environ.get(_WORKER) and LOCAL_RANK in os.environ:
        return _work(rest, Path(os.environ[_WORKER]), int(os.environ[LOCAL_RANK]))
    log: Path | None = arguments.termination_log
    with tempfile.TemporaryDirectory(prefix="ippo-ranks-") as folder:
        os.environ[_WORKER] = folder
        try:
            code, rank = _launch(arguments, rest)
        except TryAgainError as error:
            print(error, file=sys.stderr)
            write_termination_log(log, error_message(error.reason, str(error)))
            return error.exit_code
        finally:
            del os.environ[_WORKER]
        message = Path(folder) / f"{rank}.json"
        if log is not None and message.exists():
            shutil.copyfile(message, log)
        elif code:
            write_termination_log(log, error_message(StageError.reason, _silent(code, rank)))
    return code


def first_failure(exit_codes: Mapping[int, int]) -> tuple[int, int]:
    """The exit code (as a shell has it) and the local rank that tell what went wrong.

    A process that lost another one, or was told to stop, only follows.

    Args:
        exit_codes: of the processes that failed, by local rank; negative: the signal that ended it.
    """

    def order(rank: int) -> tuple[bool, bool, int]:
        code = exit_codes[rank]
        return code in _FOLLOWING, code not in FINAL, rank

    rank = min(exit_codes, key=order)
    code = exit_codes[rank]
    return (StoppedError.exit_code if code == -signal.SIGTERM else 128 - code if code < 0 else code), rank


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ippo_trainer.stages.improve_ranks",
        description=__doc__,
        epilog="All other options are those of ippo-stage.",
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="pods that work together (default: 1)")
    parser.add_argument(
        "--node", type=int, metavar="N", help="which of them this is, from 0 (default: $JOB_COMPLETION_INDEX, or 0)"
    )
    parser.add_argument("--master", default="127.0.0.1", metavar="HOST", help="host name of pod 0")
    parser.add_argument(
        "--port", type=int, default=RENDEZVOUS_PORT, metavar="PORT", help="where pod 0 listens (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes in this pod, one for each GPU (default: 1)"
    )
    parser.add_argument("--termination-log", type=Path, metavar="FILE", help="as for ippo-stage")
    return parser


def _launch(arguments: argparse.Namespace, rest: list[str]) -> tuple[int, int]:
    """Exit code, and the local rank whose message counts. Raises TryAgainError if the pods do not meet."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    node = int(os.environ.get(COMPLETION_INDEX, "0")) if arguments.node is None else arguments.node
    config = LaunchConfig(
        min_nodes=arguments.nodes,
        max_nodes=arguments.nodes,
        nproc_per_node=arguments.processes,
        run_id=IMPROVE,
        rdzv_backend="static",
        rdzv_endpoint=f"{arguments.master}:{arguments.port}",
        rdzv_configs={"rank": node, "timeout": MEETING_SECONDS},
        max_restarts=0,  # the planner owns the retries
        shutdown_timeout=GRACE_SECONDS,
    )
    command = [sys.executable, "-m", __spec__.name, *rest]
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return first_failure({failure.local_rank: failure.exitcode for failure in error.failures.values()})
    except SignalException:
        return StoppedError.exit_code, 0
    except (DistError, RendezvousError) as error:
        raise TryAgainError(
            f"the {arguments.nodes} pods did not meet at {arguments.master} within {MEETING_SECONDS} s "
            f"({str(error).splitlines()[0][:200]})",
            "See which of them do not start; a queue starts all at once or none.",
        ) from error
    return 0, 0


def _work(rest: list[str], folder: Path, rank: int) -> int:
    """One process: a stage as ever, with a termination log of its own; the first of a pod prints the result."""
    from ippo_trainer.stages import cli

    command = [IMPROVE, *rest, "--termination-log", str(folder / f"{rank}.json")]
    if rank == 0:
        return cli.main(command)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return cli.main(command)


def _silent(code: int, rank: int) -> str:
    if code > 128 and code != StoppedError.exit_code:
        name = signal.Signals(code - 128).name
        return f"process {rank} of the pod was ended by {name}; if it ran out of memory, raise resources of spec.pods."
    return f"process {rank} of the pod ended with {code} without a word; see the pod's log."


if __name__ == "__main__":
    sys.exit(bounded(main()))
