"""`ippo serve`: asks the policy of a run in a folder, by the server that clusters use."""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

from ippo_trainer.contract.layout import SERVED
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.contract.stages import IMPROVE, WARM_START
from ippo_trainer.contract.variables import POLICY_DIGEST

from ippo_operator.api.resource import IterativePPORun
from ippo_operator.api.status import RunStatus
from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.trainer import check_trainer, trainer_errors
from ippo_operator.local.folder import FolderError, RunFolder


def command(arguments: Namespace) -> int:
    """Serves until it is told to stop."""
    folder = RunFolder(Path(arguments.run))
    try:
        run = folder.read()
    except FolderError as error:
        raise CommandError(f"{error}; in a cluster, spec.serve serves each promoted policy") from None
    policy = _policy(run, arguments.iteration)
    check_trainer()
    from ippo_trainer.serve.cli import main
    from ippo_trainer.store import artifact, open_store

    longest = arguments.max_tokens or (run.spec.serve and run.spec.serve.max_tokens) or run.spec.policy.max_new_tokens
    with tempfile.TemporaryDirectory(prefix="ippo-serve-") as place:
        model = Path(place) / "policy"
        with trainer_errors():
            artifact.fetch(open_store(folder.store(run)), policy, model, "policy")
        os.environ[POLICY_DIGEST] = policy.digest
        options = {"policy": model, "port": arguments.port, "engine": arguments.engine}
        options |= {"name": run.metadata.name, "max-tokens": longest}
        if arguments.log or (run.spec.serve is not None and run.spec.serve.log is not None):
            location = folder.store(run).below(SERVED)
            options["log"] = location.model_dump_json(by_alias=True, exclude_none=True)
            print(f"what is suggested is logged in {open_store(location).describe('')}")
        return main([f"--{name}={value}" for name, value in options.items()])


def _policy(run: IterativePPORun, iteration: int | None) -> ArtifactRef:
    """The current policy, or the one that an iteration made, promoted or not."""
    status = run.status or RunStatus()
    if iteration is None:
        if status.policy is None:
            raise CommandError(f"{run.metadata.name} has no policy yet: its warm start is not done")
        return status.policy.artifact
    policies = {row.iteration: row.artifact(IMPROVE) or row.artifact(WARM_START) for row in status.iterations}
    policy = policies.get(iteration)
    if policy is None:
        iterations = ", ".join(str(number) for number, ref in policies.items() if ref is not None)
        raise CommandError(f"iteration {iteration} has made no policy; those that have: {iterations or 'none'}")
    return policy
