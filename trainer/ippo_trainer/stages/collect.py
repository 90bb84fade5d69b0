"""Stage `collect`: the current policy talks to simulated customers, and every turn is logged. Or a log is there already
(`history`), or gateways wrote one (`live`).

Shard i of n holds a contiguous part of the conversations, in batches that do not depend on one another, and publishes
it (kind `turns-shard`) with a note (`turns.json`) of what it holds. A shard that finds the notes of all shards joins
them into one artifact (kind `data`). The note comes before the look around, so that of shards that end together at
least one sees all; if two do, both publish the same bytes.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ippo_trainer.contract.digests import canonical_json, derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import stage_key
from ippo_trainer.contract.params import Collect, EngineName, Model
from ippo_trainer.contract.personas import Persona, drawn
from ippo_trainer.contract.spec import ArtifactRef, Digest, Shard, StageResult
from ippo_trainer.contract.stages import COLLECT
from ippo_trainer.data.counts import count, count_personas, shares
from ippo_trainer.data.turns import write_turns
from ippo_trainer.engines.interface import PolicySampler
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.environments.protocol import Environment, ExactScorer
from ippo_trainer.environments.rollout import (
    Agent,
    Batch,
    ExploringAgent,
    MessageReader,
    OpenBatch,
    PersonasAgent,
    PolicyAgent,
    RolloutResult,
    rollout,
)
from ippo_trainer.environments.scoring import UNPARSED
from ippo_trainer.models.cache import MEMORY_BYTES, PATIENCE
from ippo_trainer.models.halves import cast
from ippo_trainer.models.load import check_context, load_policy, load_tokenizer
from ippo_trainer.models.verify import SHORT
from ippo_trainer.stages import history, live, samplers
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.keeping import Keeper, read_unfinished, write_unfinished
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.store.artifact import fetch, read_manifest
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError
from ippo_trainer.text.render import Renderer

_COUNTS = "counts.json"
_BY_VLLM = "vllmTurns"
NOTE = "turns.json"
SHARD_KIND = "turns-shard"
JOINED_KIND = "data"


class ShardNote(Model):
    """What a shard has published: `shards/<i>/turns.json`."""

    schema_version: Literal[1] = 1
    input_digest: Digest
    artifact: ArtifactRef
    counts: dict[str, int]
    source: Digest | None = None
    """Of the environment's files; None where it has none, or the shard was collected by release 0.2."""

    def of(self, source: str | None) -> bool:
        """Whether it may be joined with what has this source."""
        return self.source is None or source is None or self.source == source


@dataclass(frozen=True)
class _Players:
    """Who suggests replies."""

    renderer: Renderer
    agent: Agent
    sampler: EngineName
    personas: tuple[Persona, ...]
    """That a conversation may be of."""


@dataclass
class _Progress:
    """Where a shard stands: the batches that are done, in `directory`, and sums over them."""

    directory: Path
    batches: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    unfinished: OpenBatch | None = None
    """The next batch, as far as an earlier attempt held it."""

    def add(self, counts: dict[str, int]) -> None:
        self.counts = _sum([self.counts, counts])
        self.batches += 1


def run(ctx: StageContext) -> StageResult:
    """Collects one shard's conversations; joins all shards' if they are all there. Takes a log's where that is said.

    Raises:
        BadSpecError: no environment, fewer conversations than shards, prompts that do not fit the model.
        BadDataError: a policy or environment that is wrong, or a note that was made from other inputs.
        StoppedError: told to stop; a checkpoint is saved.
    """
    if ctx.spec.history is not None:
        return history.run(ctx, ctx.spec.history)
    if ctx.spec.logged is not None:
        return live.run(ctx, ctx.spec.logged)
    settings = ctx.spec.collect
    if settings is None or ctx.spec.environment is None:
        missing = COLLECT if settings is None else "environment"
        raise BadSpecError(f"stage spec: {missing} is missing, collect needs it", "Add the section.")
    if settings.conversations < settings.parallelism:
        raise BadSpecError(
            f"collect.simulate.parallelism {settings.parallelism} exceeds collect.simulate.conversations "
            f"{settings.conversations}",
            "Lower parallelism: every shard needs a conversation.",
        )
    environment = ctx.environment()
    index = ctx.shard_index or 0
    if outdated(ctx):
        ctx.log.warning("the source of the environment changed since this shard was collected: collecting it anew")
        ctx.store.delete(f"{_shard_folder(ctx, index)}/{NOTE}")
    note = _read_note(ctx, index)
    if note is None:
        collected = _collect(ctx, settings, environment, index)
        with ctx.stop.deferred():
            note = _write_note(ctx, index, *collected)
    notes = [note if other == index else _read_note(ctx, other) for other in range(settings.parallelism)]
    complete = [note for note in notes if note is not None and note.of(ctx.source)]
    shard = Shard(index=index, count=settings.parallelism, complete=len(complete) == settings.parallelism)
    if not shard.complete:
        waiting = settings.parallelism - len(complete)
        message = f"{note.counts['conversations']} conversations; {waiting} of {shard.count} shards are not done yet."
        return ctx.result(shard=shard, metrics=_metrics(note.counts), message=message)
    counts = _sum([note.counts for note in complete] + _counts_before(ctx))
    joined = _join(ctx, complete, counts)
    message = f"{counts['conversations']} conversations, {counts['outcomes']} with the outcome."
    return ctx.result(shard=shard, artifacts={JOINED_KIND: joined}, metrics=_metrics(counts), message=message)


def outdated(ctx: StageContext) -> bool:
    """Whether this shard was collected with another source of the environment than it has now."""
    note = _read_note(ctx, ctx.shard_index or 0)
    return note is not None and not note.of(ctx.source)


def _collect(ctx: StageContext, settings: Collect, environment: Environment, index: int) -> tuple[Path, dict[str, int]]:
    """Holds the shard's conversations; returns the directory of its Parquet files, and the counts."""
    collection = ctx.spec.collection or 1
    part = _part(settings.conversations, index, settings.parallelism)
    prefix = "turns" if collection == 1 else f"turns-{collection}"
    before = settings.conversations * (collection - 1)  # numbers go on where the collection before ended
    numbers = range(before + part.start, before + part.stop)
    batches = [numbers[start : start + settings.batch_size] for start in range(0, len(numbers), settings.batch_size)]
    with _talking(ctx, settings) as players:
        return _hold(ctx, environment, players, batches, f"{prefix}-{index:05d}")


def _hold(
    ctx: StageContext, environment: Environment, players: _Players, batches: list[range], prefix: str
) -> tuple[Path, dict[str, int]]:
    """What `_collect` returns. The files of the batches begin with the prefix."""
    hearing, state = MessageReader(players.renderer), _resume(ctx)
    keeper = Keeper(ctx, lambda unfinished: _save(ctx, state, unfinished))
    held = sum(map(len, batches[: state.batches]))
    with ctx.progress(sum(map(len, batches)), "collecting", "conversations", initial=held) as bar, keeper.holding():
        while state.batches < len(batches):
            batch = batches[state.batches]
            name = f"{prefix}-{state.batches:05d}.parquet"
            seeds, ids = _names(ctx, batch)
            personas = [drawn(players.personas, str(seed)) for seed in seeds]
            conversations = Batch(seeds, ids, state.unfinished, hearing, personas)
            result = rollout(environment, players.agent, conversations, bar.update, keeper.note)
            with ctx.stop.deferred():
                state.unfinished = keeper.unfinished = None
                write_turns(state.directory / name, result.conversations)
                state.add(_count(result, environment, players.sampler))
            bar.update(0, success=state.counts["outcomes"] / max(1, state.counts["conversations"]))
            if state.batches < len(batches):
                keeper.note(None)
    for text in hearing.warnings():
        ctx.warn(text)
    return state.directory, state.counts


@contextmanager
def _talking(ctx: StageContext, settings: Collect) -> Iterator[_Players]:
    """The policy, exploring if the spec says so: the explorer is the warm-start policy, flattened."""
    device_of(ctx.spec)  # one that is not there is named before any download
    share, directory = settings.explored(ctx.spec.iteration), ctx.input("policy", "policy")
    alone = share == 0 or ctx.spec.explorer_is_policy()
    sampler = samplers.sampler_of(ctx, directory, share > 0)
    with ExitStack() as engines:
        policy = _policy_agent(ctx, settings, sampler, "policy", engines)
        agent: Agent = policy
        if share > 0:
            warm = policy if alone else _policy_agent(ctx, settings, sampler, "explorer", engines, policy)
            explorer = replace(
                warm,
                sampler=warm.sampler.twin(),
                behaviour="explore",
                temperature=settings.explorer_temperature,
                min_p=settings.explorer_min_p,
            )
            agent = ExploringAgent(policy, explorer, share)
        if settings.on:
            agent = PersonasAgent(agent, {each.name: _persona_agent(policy, each) for each in settings.on})
        yield _Players(policy.renderer, agent, sampler, settings.on)


def _persona_agent(policy: PolicyAgent, persona: Persona) -> PolicyAgent:
    """The policy as a persona. Raises BadSpecError if its instructions leave no room for a message."""
    least, limit = policy.renderer.least(persona.instructions.strip()), policy.renderer.max_prompt_tokens
    if least > limit:
        raise BadSpecError(
            f"collect.simulate.personas: the instructions of {persona.name} make a prompt of at least {least} tokens "
            f"by themselves, more than policy.maxPromptTokens = {limit}",
            "Shorten the instructions, or raise policy.maxPromptTokens.",
        )
    return replace(
        policy,
        sampler=policy.sampler.twin(),
        behaviour="explore",
        persona=persona.name,
        temperature=policy.temperature if persona.temperature is None else float(persona.temperature),
        min_p=float(persona.min_p or 0),
    )


def _policy_agent(
    ctx: StageContext,
    settings: Collect,
    sampler: EngineName,
    name: str,
    engines: ExitStack,
    beside: PolicyAgent | None = None,
) -> PolicyAgent:
    """An input as an agent.

    Args:
        ctx, settings: of the stage.
        sampler: its kind.
        name: of the input.
        engines: what is started for it ends with these.
        beside: another policy, with which its base may be shared.
    """
    directory, new_tokens = ctx.input(name, "policy"), ctx.spec.policy.max_new_tokens
    source: PolicySampler
    if sampler == samplers.VLLM:
        renderer = Renderer.load(directory, load_tokenizer(directory))
        check_context(samplers.config_of(directory), renderer.max_prompt_tokens, new_tokens)
        source = engines.enter_context(samplers.vllm(ctx, directory))
    else:
        device = device_of(ctx.spec)
        shared = beside.sampler.policy if beside and isinstance(beside.sampler, TransformersSampler) else None
        loaded = load_policy(directory, device, SHORT, shared)
        renderer = Renderer.load(directory, loaded.tokenizer)
        check_context(loaded.model.config, renderer.max_prompt_tokens, new_tokens)
        cast(loaded.model, precision_for(ctx.spec, device).dtype)
        # Of a policy and its personas, each remembers its own conversations: together no more than one alone.
        patience = PATIENCE if settings.explored(ctx.spec.iteration) > 0 else 0
        source = TransformersSampler(loaded.model, MEMORY_BYTES // (1 + len(settings.on)), patience)
    return PolicyAgent(source, renderer, ctx.spec.inputs[name].digest, new_tokens, float(settings.temperature))


def _part(total: int, index: int, count: int) -> range:
    """The conversations of shard `index` of `count`: contiguous, sizes that differ by at most one."""
    return range(total * index // count, total * (index + 1) // count)


def _names(ctx: StageContext, numbers: range) -> tuple[list[int], list[str]]:
    """Seeds and ids of conversations."""
    iteration = ctx.spec.iteration
    seeds = [derive_seed(ctx.spec.seed, "conversation", iteration, number) for number in numbers]
    return seeds, [f"i{iteration:04d}-{number:06d}" for number in numbers]


def _count(result: RolloutResult, environment: Environment, sampler: EngineName) -> dict[str, int]:
    turns = [turn for conversation in result.conversations for turn in conversation.turns]
    counts = count(result.conversations) | {
        "explored": sum(turn.behaviour == "explore" for turn in turns),
        "tokens": sum(len(turn.token_ids or []) for turn in turns),
        "truncated": result.truncated,
        "droppedTurns": result.dropped_turns,
    }
    counts |= count_personas(result.conversations)
    if sampler == samplers.VLLM:
        counts[_BY_VLLM] = len(turns)
    if isinstance(environment, ExactScorer):
        texts = [turn.as_shown().suggestion for turn in turns]
        counts["unparsed"] = sum(environment.intent_of(text) == UNPARSED for text in texts if text is not None)
    return counts


def _metrics(counts: dict[str, int]) -> dict[str, float]:
    """The figures of the stage's result."""
    turns = counts["turns"]
    metrics = shares(counts) | {
        "exploredShare": counts["explored"] / turns,
        "truncatedShare": counts["truncated"] / turns,
        "droppedTurns": float(counts["droppedTurns"]),
        "responseLength": counts["tokens"] / turns,
    }
    further = {"unparsed": "unparsedShare", _BY_VLLM: "vllmShare"}
    return metrics | {name: counts[key] / turns for key, name in further.items() if key in counts}


def _sum(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(chain(*parts))}


def _resume(ctx: StageContext) -> _Progress:
    state = _Progress(ctx.work / "turns")
    step = ctx.load_checkpoint(state.directory)
    state.directory.mkdir(exist_ok=True)
    if step is not None:
        file = state.directory / _COUNTS
        state.batches, state.counts = step, json.loads(file.read_bytes())
        file.unlink()
        state.unfinished = read_unfinished(state.directory)
        over = len(state.unfinished.conversations) - len(state.unfinished.waiting) if state.unfinished else 0
        ctx.log.info("resumed after %d conversations", state.counts.get("conversations", 0) + over)
    return state


def _save(ctx: StageContext, state: _Progress, unfinished: OpenBatch | None) -> None:
    file = state.directory / _COUNTS
    file.write_bytes(canonical_json(state.counts))
    write_unfinished(state.directory, unfinished)
    ctx.save_checkpoint(state.directory, state.batches)
    write_unfinished(state.directory, None)
    file.unlink()


def _counts_before(ctx: StageContext) -> list[dict[str, int]]:
    """The counts of what an earlier collection of this iteration holds, if there was one."""
    if "data" not in ctx.spec.inputs:
        return []
    ref = ctx.spec.inputs["data"]
    counts = read_manifest(ctx.store, ref).metadata.get("counts")
    if not isinstance(counts, dict):
        raise BadDataError(f"{ctx.store.describe(ref.key)} holds no counts", "Pass the artifact of a collect stage.")
    return [{name: int(str(count)) for name, count in counts.items()}]


def _shard_folder(ctx: StageContext, index: int) -> str:
    return stage_key(ctx.spec.iteration, COLLECT, index, ctx.spec.collection)


def _folder(ctx: StageContext) -> str:
    return stage_key(ctx.spec.iteration, COLLECT, collection=ctx.spec.collection)


def _write_note(ctx: StageContext, index: int, directory: Path, counts: dict[str, int]) -> ShardNote:
    """Publishes a shard and its note. Of two attempts of a shard the first note stands."""
    folder = _shard_folder(ctx, index)
    artifact = ctx.publish(folder, directory, SHARD_KIND, {"counts": dict(counts)})
    note = ShardNote(input_digest=ctx.spec.input_digest(), artifact=artifact, counts=counts, source=ctx.source)
    body = canonical_json(note.model_dump(mode="json", by_alias=True, exclude_none=True))
    try:
        ctx.store.put(f"{folder}/{NOTE}", body, if_absent=True)
    except ObjectExistsError:
        return _read_note(ctx, index) or note
    return note


def _read_note(ctx: StageContext, index: int) -> ShardNote | None:
    key = f"{_shard_folder(ctx, index)}/{NOTE}"
    where = ctx.store.describe(key)
    try:
        note = ShardNote.model_validate_json(ctx.store.read(key, 1 << 16))
    except ObjectNotFoundError:
        return None
    except ValidationError as error:
        raise BadDataError(f"{where} is no valid note of a shard", "Delete it to collect the shard again.") from error
    if note.input_digest != ctx.spec.input_digest():
        raise BadDataError(
            f"{where} was made from other inputs ({note.input_digest}, this spec has {ctx.spec.input_digest()})",
            "Start a new run, or delete the iteration's folder to do it again.",
        )
    return note


def _join(ctx: StageContext, notes: list[ShardNote], counts: dict[str, int]) -> ArtifactRef:
    """Publishes the files of all shards, and those that were collected before, as one artifact."""
    directory = ctx.work / "joined"
    directory.mkdir()
    for index, note in enumerate(notes):
        part = ctx.work / f"shard-{index}"
        fetch(ctx.store, note.artifact, part, SHARD_KIND)
        for file in sorted(part.glob("*.parquet")):
            file.rename(directory / file.name)
    if "data" in ctx.spec.inputs:
        for file in sorted(ctx.input("data", JOINED_KIND).glob("*.parquet")):
            file.rename(directory / file.name)
    return ctx.publish(_folder(ctx), directory, JOINED_KIND, {"counts": dict(counts)})
