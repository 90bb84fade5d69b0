"""What surrounds a stage: its spec, store, inputs, result, signals and exit code."""

import importlib
import json
import logging
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import JsonValue, ValidationError

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.layout import BASE, ENVIRONMENT, result_key, stage_key
from ippo_trainer.contract.spec import ArtifactRef, StageResult, StageSpec
from ippo_trainer.contract.stages import BY_NAME, COLLECT
from ippo_trainer.environments.checked import CheckedEnvironment
from ippo_trainer.environments.loading import load
from ippo_trainer.environments.source import source_digest
from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.logs.stderr import logging_to_stderr
from ippo_trainer.models import memory, needs
from ippo_trainer.models.files import base_of
from ippo_trainer.stages.base_model import fetch_base
from ippo_trainer.stages.output import error_message, write_termination_log
from ippo_trainer.stages.stop import StopFlag
from ippo_trainer.stages.workdir import work_directory
from ippo_trainer.store import artifact, open_store
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError, Store
from ippo_trainer.store.checkpoint import StageCheckpoint
from ippo_trainer.store.disk import FULL, disk_error
from ippo_trainer.training.progress import ProgressBar

_log = logging.getLogger(__name__)
_FULL_TEXT = ("No space left on device", "Disk quota exceeded")


@dataclass
class StageContext:
    """What a stage gets. `work` is empty at the start and removed at the end; keep what must last in the store."""

    spec: StageSpec
    store: Store
    work: Path
    shard_index: int | None = None
    progress: Callable[..., ProgressBar] = ProgressBar
    stop: StopFlag = field(default_factory=StopFlag)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("ippo_trainer.stage"))

    def __post_init__(self) -> None:
        self._inputs: dict[str, Path] = {}
        self._fits = False
        self.warnings: list[str] = []
        """Of `warn`, for the result."""
        self.others = 0
        """Bytes that processes of its own held at most, besides this one."""
        self.source: str | None = None
        """Digest of the environment's files, once it was loaded; None where it has none."""

    @property
    def folder(self) -> str:
        """The key of the folder that this stage, or this shard of it, owns: artifacts go there."""
        return stage_key(self.spec.iteration, self.spec.stage, self.shard_index, self.spec.collection)

    @property
    def checkpoint(self) -> StageCheckpoint:
        """This stage's (or shard's); cleared when the result is published."""
        return StageCheckpoint(self.store, f"{self.folder}/checkpoint", self.spec.input_digest(), self.source)

    def input(self, name: str, kind: str) -> Path:
        """The local directory of an input artifact, verified.

        Raises:
            BadSpecError: the spec does not name it.
            BadDataError: it is damaged or of another kind, or the stage's models need more memory than there is; then
                none of them is downloaded.
        """
        if name not in self.spec.inputs:
            raise BadSpecError(
                f"stage spec: inputs.{name} is missing, {self.spec.stage} needs it", "Add its key and digest."
            )
        if name not in self._inputs:
            directory = self.work / "inputs" / name
            if kind in needs.KINDS:
                self._check_memory()
            artifact.fetch(self.store, self.spec.inputs[name], directory, kind, self.work)
            self._inputs[name] = directory
        return self._inputs[name]

    def base(self) -> Path:
        """The local directory of `policy.base`; errors of `base_model.fetch_base`.

        Before a download the sizes in S3 tell how much memory it needs; that weights in half precision double is in
        their headers, so it is known before they are loaded.
        """

        def check(size: int) -> None:
            needs.check(self.spec, {needs.BASE: size})

        return fetch_base(self.spec.policy.base, self.work, self.spec.store, check)

    def environment(self) -> CheckedEnvironment:
        """The environment of the spec. Its files are an input of the stage, although the spec has only their names.

        The run's first stage keeps their digest. One that differs later on is told: what was measured with the one and
        with the other does not compare.
        """
        spec = self.spec.environment
        if spec is None:
            raise BadSpecError("stage spec: environment is missing", "Add the section.")
        environment = load(spec)
        self.source = source_digest(spec)
        if self.source is not None and self._first_source(self.source) != self.source:
            self.warn(
                f"the source of environment {spec.name} changed since the run began: figures of before and after do "
                "not compare. Put it back, or start a new run"
            )
        return environment

    def _first_source(self, source: str) -> str:
        """The digest that the run keeps; this one, if there is none yet."""
        try:
            self.store.put(ENVIRONMENT, canonical_json({"source": source}), if_absent=True)
        except ObjectExistsError:
            try:
                return str(json.loads(self.store.read(ENVIRONMENT, 1 << 16))["source"])
            except (ValueError, KeyError, TypeError):
                return "damaged"
        return source

    def publish(
        self, folder: str, directory: Path, kind: str, metadata: dict[str, JsonValue] | None = None
    ) -> ArtifactRef:
        """Publishes `directory` as an artifact below `folder`, with the digests of this stage's inputs."""
        inputs = {name: ref.digest for name, ref in self.spec.inputs.items()}
        if self.source is not None:
            inputs["environment"] = self.source
        base = base_of(directory)
        if base is not None:
            inputs[artifact.BASE_INPUT] = base.digest
        with self.stop.deferred():
            return artifact.publish(self.store, folder, directory, kind, inputs, metadata)

    def publish_base(self, directory: Path) -> ArtifactRef:
        """Publishes the base of the run's adapters, once; it depends on nothing else of the run."""
        with self.stop.deferred():
            return artifact.publish(self.store, BASE, directory, artifact.BASE_KIND, reuse=True)

    def result(self, **fields: Any) -> StageResult:
        """A StageResult with this stage's name, iteration and input digest, and the given fields."""
        return StageResult(
            stage=self.spec.stage, iteration=self.spec.iteration, input_digest=self.spec.input_digest(), **fields
        )

    def warn(self, text: str) -> None:
        """Logs something that a user ought to know although the stage goes on, and puts it into the result: it reaches
        the status, the terminal and the report. Most important first: a result holds few."""
        self.log.warning("%s", text)
        self.warnings.append(text)

    def save_checkpoint(self, directory: Path, step: int) -> None:
        """Makes the files of `directory` this stage's checkpoint at `step`."""
        with self.stop.deferred():
            self.checkpoint.save(directory, step)

    def load_checkpoint(self, directory: Path) -> int | None:
        """Writes the newest checkpoint into `directory` and returns its step; None if there is none to resume from."""
        return self.checkpoint.load(directory)

    def _check_memory(self) -> None:
        """Once, for all models that the stage holds: their manifests are read, and nothing else."""
        if not self._fits:
            refs = {name: self.spec.inputs[name] for name in needs.copies(self.spec) if name in self.spec.inputs}
            manifests = {name: artifact.read_manifest(self.store, ref) for name, ref in refs.items()}
            base = next(filter(None, map(artifact.base_of, manifests.values())), None)
            manifests |= {} if base is None else {needs.BASE: artifact.read_manifest(self.store, base)}
            sizes = {name: memory.stored_bytes(each.sizes()) for name, each in manifests.items()}
            needs.check(self.spec, sizes, self._config() if self.spec.samples_with_vllm() else None)
            self._fits = True

    def _config(self) -> dict[str, Any] | None:
        """What the policy's config.json says; None where nothing can be made of it, which loading will tell."""
        try:
            content = json.loads(self.store.read(f"{self.spec.inputs['policy'].key}/config.json", 1 << 20))
        except (ValueError, ObjectNotFoundError):
            return None
        return content if isinstance(content, dict) else None

    def note_others(self) -> None:
        """Counts the processes that this one has started and that are about to end: the stage's peak is theirs, too."""
        self.others = max(self.others, memory.peak_of_descendants())

    def check_stop(self) -> None:
        """Raises StoppedError if SIGTERM or Ctrl-C came. Call it between units of work, after saving a checkpoint."""
        self.stop.check()


def run_stage(
    spec_path: Path,
    shard_index: int | None = None,
    termination_log: Path | None = None,
    work_dir: Path | None = None,
    *,
    stage: str | None = None,
) -> int:
    """Runs one stage in this process and returns its exit code; what went wrong is logged, never raised.

    The result goes to the store (`result.json`), standard output and the termination log.

    Args:
        spec_path: the StageSpec as JSON.
        shard_index: which shard, of a sharded stage.
        termination_log: file for the result, or the error, in at most 3 KiB.
        work_dir: parent of the working directory.
        stage: the stage that the caller means; another one in the spec is an error.
    """
    redact = Redactor()
    stop = StopFlag()
    with logging_to_stderr(redact):
        try:
            with stop.listening():
                body = _run(spec_path, shard_index, work_dir, stop, stage).to_message()
        except (Exception, SystemExit) as error:
            failure = _expected(error)
            if failure is None:
                _log.error("the stage failed unexpectedly", exc_info=error)
                message = f"{type(error).__name__}: {error}"
            else:
                message = str(failure)
            _log.error("%s", message)
            reason = failure.reason if failure else StageError.reason
            write_termination_log(termination_log, error_message(reason, redact(message)))
            return failure.exit_code if failure else StageError.exit_code
        write_termination_log(termination_log, body)
    print(body.decode(), flush=True)
    return 0


def read_spec(path: Path) -> StageSpec:
    """The stage spec in a file. Raises BadSpecError that names the field."""
    try:
        return StageSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadSpecError(
            f"cannot read the stage spec {path}: {error.strerror}", "Give its path with --spec."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field_path = ".".join(map(str, first["loc"])) or "the file"
        raise BadSpecError(f"stage spec {path}: {field_path}: {first['msg']}", "Correct the field.") from error


def _run(
    spec_path: Path, shard_index: int | None, work_dir: Path | None, stop: StopFlag, stage: str | None
) -> StageResult:
    spec = read_spec(spec_path)
    if stage is not None and stage != spec.stage:
        raise BadSpecError(
            f"stage spec {spec_path} is for {spec.stage}, not for {stage}", "Give the spec of this stage."
        )
    shard = _check_shard(spec, shard_index)
    store = open_store(spec.store)
    key = result_key(spec.iteration, spec.stage, shard, spec.collection)
    result = _published(store, key, spec)
    with work_directory(work_dir) as work:
        ctx = StageContext(spec, store, work, shard, stop=stop)
        if result is not None and result.shard is not None and not result.shard.complete and _outdated(ctx):
            store.delete(key)
            result = None
        if result is None:
            ctx.checkpoint.check_writable()
            result = _publish_result(store, key, spec, _work(ctx))
        else:
            _log.info("%s is there already, nothing to do", store.describe(key))
        _clear_checkpoint(ctx)
    return result


def _check_shard(spec: StageSpec, index: int | None) -> int | None:
    """Only collect has shards, where it reads no log; its first is the default where it is the only one."""
    if spec.stage != COLLECT or spec.history is not None or spec.logged is not None:
        if index is not None:
            raise BadSpecError(f"--shard-index {index}: {spec.stage} has no shards", "Leave it out.")
        return None
    if spec.collect is None:
        raise BadSpecError("stage spec: collect is missing", "Add the section.")
    count = spec.collect.parallelism
    if index is None and count == 1:
        return 0
    if index is None or not 0 <= index < count:
        raise BadSpecError(f"--shard-index {index}: collect has shards 0 to {count - 1}", "Name one of them.")
    return index


def _outdated(ctx: StageContext) -> bool:
    """Whether a shard of a stage that is not complete was made with another source of the environment."""
    ctx.environment()
    outdated: bool = _module(ctx.spec).outdated(ctx)
    return outdated


def _module(spec: StageSpec) -> ModuleType:
    """The stage's own code."""
    return importlib.import_module(f"ippo_trainer.stages.{BY_NAME[spec.stage].section}")


def _work(ctx: StageContext) -> StageResult:
    """Runs the stage's module and checks what it hands back."""
    module = _module(ctx.spec)
    _make_deterministic(ctx.spec)
    ctx.check_stop()
    _log.info("%s, iteration %d, attempt %d: started", ctx.spec.stage, ctx.spec.iteration, ctx.spec.attempt)
    with ctx.stop.interrupting():
        result: StageResult = module.run(ctx)
    _log.info("%s: peak memory %.1f GB", ctx.spec.stage, (_peak_memory() + ctx.others) / 1e9)
    if (result.stage, result.input_digest) != (ctx.spec.stage, ctx.spec.input_digest()):
        raise RuntimeError(f"the stage's result is of {result.stage} {result.input_digest}")
    for name, value in result.metrics.items():
        if not math.isfinite(value):
            raise BadDataError(f"metric {name} of {result.stage} is {value}", "It diverged: try a lower learning rate.")
    return result.with_warnings(ctx.warnings)


def _peak_memory() -> int:
    """Bytes that this process held at most. With what the others of the stage held it is what a pod of it needs."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _make_deterministic(spec: StageSpec) -> None:
    """Fixes torch's threads, on which sums depend, and on a CPU forbids sums in the order in which threads arrive.

    Without the latter the gradient of `x[index]` differs from run to run as soon as there are two threads. On a GPU
    some operations have no deterministic form, so results there are reproducible up to rounding only.
    """
    if "torch" not in sys.modules:
        return
    torch = sys.modules["torch"]
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(spec.device == "cpu" or not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time


def _published(store: Store, key: str, spec: StageSpec) -> StageResult | None:
    """The result that is already in the store, if it was made from the same inputs."""
    where = store.describe(key)
    try:
        result = StageResult.model_validate_json(store.read(key, 1 << 16))
    except ObjectNotFoundError:
        return None
    except ValidationError as error:
        raise BadDataError(f"{where} is no valid stage result", "Delete it to run the stage again.") from error
    if result.input_digest != spec.input_digest() or result.stage != spec.stage:
        raise BadDataError(
            f"{where} was made from other inputs ({result.input_digest}, this spec has {spec.input_digest()})",
            "Start a new run, or delete the iteration's folder to do it again.",
        )
    return result


def _publish_result(store: Store, key: str, spec: StageSpec, result: StageResult) -> StageResult:
    """Puts the result if nobody did; a race's loser goes on with the winner's."""
    try:
        store.put(key, result.to_message(), if_absent=True)
    except ObjectExistsError:
        _log.info("%s was published meanwhile by another attempt, using that one", store.describe(key))
        winner = _published(store, key, spec)
        if winner is None:
            raise TryAgainError(f"{store.describe(key)} came and went", "Start the stage again.") from None
        return winner
    return result


def _clear_checkpoint(ctx: StageContext) -> None:
    try:
        ctx.checkpoint.clear()
    except StageError as error:
        _log.warning("the result is published, but its checkpoint was not deleted: %s", error)


def _expected(error: BaseException) -> StageError | None:
    """The failure that an exception stands for: a StageError, or a full disk, however a library reported it."""
    if isinstance(error, StageError):
        return error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return disk_error(cause, cause.filename or "the working directory")
        if any(text in str(cause) for text in _FULL_TEXT):
            return TryAgainError("the disk that holds the working directory is full", "Give it a larger volume.")
        cause = cause.__cause__ or cause.__context__
    return None
