"""The frozen inputs of one attempt of a stage (`StageSpec`), and what it hands back (`StageResult`)."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ippo_trainer.contract import fields, params
from ippo_trainer.contract.digests import DIGEST, canonical_json, digest_of
from ippo_trainer.contract.lines import Line, one_line
from ippo_trainer.contract.params import Model
from ippo_trainer.contract.stages import BY_NAME, COLLECT, EVALUATE, IMPROVE, StageName

Digest = Annotated[str, Field(pattern=DIGEST)]
Name = Annotated[str, Field(pattern=fields.NAME)]
MAX_RESULT_BYTES = 3072
MAX_ITERATION = MAX_ATTEMPT = 9999  # four digits in names and keys
MAX_METRICS = 32
MAX_WARNING = 300  # bytes
MAX_WARNINGS = 6
Warnings = Annotated[tuple[Annotated[Line, Field(max_length=MAX_WARNING)], ...], Field(max_length=MAX_WARNINGS)]


class ArtifactRef(Model):
    """An artifact by place and by content."""

    key: Annotated[str, Field(max_length=900)]
    digest: Digest


Encryption = Literal["SSE-S3", "SSE-KMS"]


class S3Location(Model):
    """A bucket and prefix. Credentials come from the environment or from mounted files, never from here."""

    bucket: Annotated[str, Field(min_length=3, max_length=63)]
    prefix: Annotated[str, Field(max_length=1024)] = ""
    """At most as long as a key may be: the run's name and UID come after what a manifest gives."""
    endpoint_url: Annotated[str, Field(max_length=512)] | None = None
    region: Annotated[str, Field(max_length=64)] | None = None
    encryption: Encryption | None = None
    """What every write asks of the store, for buckets that refuse others; None leaves it to the bucket."""
    kms_key_id: Annotated[str, Field(max_length=512)] | None = None
    """Of SSE-KMS; None takes the store's own key."""


class StoreLocation(Model):
    """Exactly one of a local directory and an S3 prefix; the run's own folder is already part of it."""

    directory: Annotated[str, Field(max_length=4096)] | None = None
    s3: S3Location | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.directory is None) == (self.s3 is None):
            raise ValueError("set exactly one of directory and s3")
        return self

    def below(self, folder: str) -> "StoreLocation":
        """A folder of this store, as a store."""
        if self.s3 is None:
            return StoreLocation(directory=f"{self.directory}/{folder}")
        prefix = f"{self.s3.prefix.rstrip('/')}/{folder}".lstrip("/")
        return StoreLocation(s3=self.s3.model_copy(update={"prefix": prefix}))


class StageSpec(Model):
    """Everything that a stage's result may depend on, and where to put it.

    `stages.STAGES` says which inputs and which sections a stage has.
    """

    schema_version: Literal[1] = 1
    stage: StageName
    run: Name
    iteration: Annotated[int, Field(ge=0, le=MAX_ITERATION)]
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPT)] = 1
    collection: Annotated[int, Field(ge=2, le=99)] | None = None
    """Of collect and fit-q, from the second time on that an iteration collects into the same data."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """CPU threads of torch; part of the identity because sums depend on it."""
    device: params.Device = "auto"
    discount: fields.Share
    store: StoreLocation
    inputs: dict[str, ArtifactRef] = {}
    environment: params.EnvironmentSpec | None = None
    policy: params.Policy
    warm_start: params.WarmStart | None = None
    collect: params.Collect | None = None
    history: params.LogHistory | None = None
    """In the iteration whose data are a log's: where collect takes them from, and whose turns are the policy's own."""
    logged: params.Logged | None = None
    """Where collect compacts what gateways logged."""
    until: Annotated[int, Field(ge=0)] | None = None
    """With `logged`: seconds since 1970 UTC; what happened later is not there yet."""
    fit_q: params.FitQ | None = None
    improve: params.Improve | None = None
    evaluate: params.Evaluate | None = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Fills in the defaults that depend on the base, so that the digest holds what the stage computes with."""
        kind = self.policy.kind
        self.__dict__.update(  # frozen for others only
            warm_start=self.warm_start and self.warm_start.filled(kind),
            fit_q=self.fit_q and self.fit_q.filled(kind),
            improve=self.improve and self.improve.fitted(kind, self.collect),
        )
        return self

    def input_digest(self) -> str:
        """Digest of what the result may depend on: not the attempt, the run's name or the place of the store.

        Inputs count by content, not by key. Equal digests promise interchangeable results.
        """
        value = self.model_dump(by_alias=True, exclude={"attempt", "run", "store", "inputs"}, exclude_none=True)
        if self.collect is not None and self.collect.sampler == "Auto":  # the same as nothing
            del value[BY_NAME[COLLECT].field]["sampler"]
        value["inputs"] = {name: ref.digest for name, ref in self.inputs.items()}
        return digest_of(value)

    def temperature(self) -> float:
        """Of a policy's suggestions: it is evaluated and improved as it is deployed."""
        return float((self.collect or params.Collect()).temperature)

    def explorer_is_policy(self) -> bool:
        """Whether the explorer, if there is one, is the policy itself."""
        return "explorer" in self.inputs and self.inputs["explorer"].digest == self.inputs["policy"].digest

    def samples_with_vllm(self) -> bool:
        """Whether the stage is told to sample with vLLM. What `Auto` takes, only the stage knows."""
        if self.stage == IMPROVE:
            return self.improve is not None and self.improve.sampler == "VLLM"
        # A log takes the place of what collect would simulate; evaluate, which reads it too, simulates all the same.
        simulates = self.stage == EVALUATE or (self.stage == COLLECT and self.history is None)
        if not simulates or self.environment is None:
            return False
        return self.collect is not None and self.collect.sampler == "VLLM"


Outcome = Literal["Promote", "Reject", "Inconclusive"]


class Decision(Model):
    """The gate's answer on a candidate."""

    outcome: Outcome
    reason: Annotated[Line, Field(max_length=512)]


class Shard(Model):
    """One part of a sharded stage. `complete` is set on the shard that saw all others published and joined them."""

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]
    complete: bool


class StageResult(Model):
    """What `result.json` and the termination message hold: digests and a few named figures.

    `artifacts` names the stage's artifact, as `stages.STAGES` calls it; of a sharded stage only where
    `shard.complete`. `informative` is fit-q's verdict; `decision` evaluate's.
    """

    schema_version: Literal[1] = 1
    stage: StageName
    iteration: int
    input_digest: Digest
    artifacts: dict[str, ArtifactRef] = {}
    metrics: Annotated[dict[Annotated[Line, Field(max_length=63)], float], Field(max_length=MAX_METRICS)] = {}
    shard: Shard | None = None
    decision: Decision | None = None
    informative: bool | None = None
    message: Annotated[Line, Field(max_length=512)] = ""
    warnings: Warnings | None = None
    """What a user ought to know of a result that stands. None where there is nothing: 0.2 has no such field."""

    def with_warnings(self, texts: Iterable[str]) -> Self:
        """The result with as many of these warnings, each said once, as there is room for; the log has them all."""
        result = self
        lines = (one_line(text, MAX_WARNING) for text in texts)
        for line in filter(None, dict.fromkeys(lines)):
            warnings = (*(result.warnings or ()), line)
            more = result.model_copy(update={"warnings": warnings})
            if len(warnings) > MAX_WARNINGS or len(more._body()) > MAX_RESULT_BYTES:
                break
            result = more
        return result

    def to_message(self) -> bytes:
        """Canonical JSON for the termination message; raises ValueError beyond 3 KiB."""
        body = self._body()
        if len(body) > MAX_RESULT_BYTES:
            raise ValueError(f"a stage result has {len(body)} bytes, more than {MAX_RESULT_BYTES}")
        return body

    def _body(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))
