"""Stage `improve`: the next policy, by `improve.algorithm` on the logged states with Q as the reward.

The artifact, of kind `policy`, is a transformers directory with `prompt.json` and `training.json`: the curves, what
ended the updates, and how much better the policy is on held-out states in the terms of Theorem 2 (arXiv 2511.21638).
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ippo_trainer.contract.algorithms import ALGORITHMS, WITH_ENGINE, Holdings
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import TRAINING
from ippo_trainer.contract.params import Collect, Improve
from ippo_trainer.contract.spec import ArtifactRef, StageResult
from ippo_trainer.contract.stages import IMPROVE
from ippo_trainer.contract.variables import LOCAL_RANK
from ippo_trainer.data.context import kinds_in
from ippo_trainer.engines.interface import PolicySampler
from ippo_trainer.engines.vllm_sampler import check_temperature
from ippo_trainer.improve.algorithm import Algorithm, Task, find
from ippo_trainer.improve.heldout import HeldOut, HeldOutSums
from ippo_trainer.improve.improvement import Improvement, ImprovementPosition, frozen_copy
from ippo_trainer.improve.promise import least_gain
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.settings import ImproveSettings
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.budget import IMPROVE_TOKENS, Budget, budget_of
from ippo_trainer.models.halves import cast, halve, unite
from ippo_trainer.models.load import LoadedPolicy, check_context, load_policy, load_q, save_policy
from ippo_trainer.models.memory import foreign_bytes
from ippo_trainer.models.parking import park
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.precision import Precision
from ippo_trainer.models.recompute import recompute
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.models.verify import SHORT
from ippo_trainer.stages import samplers
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.logged import Separation, read_calibration, read_logged
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.train import several, train
from ippo_trainer.text.render import Renderer
from ippo_trainer.training.checkpoint import Weights, load_part, save_part
from ippo_trainer.training.distributed import Ranks, joined

REPORT_BATCHES = 4
"""Held-out conversations that the reported lift and KL are measured on, at most, in batches of `improve.batchSize`."""


LEAST_HELD_OUT = 8
"""Conversations. A quarter is for the guards, and figures need two."""


@dataclass(frozen=True, slots=True)
class _Models:
    policy: LoadedPolicy
    renderer: Renderer
    q: Any
    precision: Precision
    budget: Budget


@dataclass(frozen=True, slots=True)
class _States:
    train: LoggedStates
    held: LoggedStates
    q_error: float | None
    """Standard error of Q, where its last layer tells it."""


def run(ctx: StageContext) -> StageResult:
    """Improves the policy, publishes it, and reports what it gains on held-out states.

    Raises:
        BadSpecError: no `improve` section, an input that is not named, a device that is not there.
        BadDataError: data or models that do not fit together, or a forward that is not deterministic.
        StoppedError: told to stop; the next attempt resumes.
        TryAgainError: another process of the stage was lost; the next attempt resumes.
    """
    if ctx.spec.improve is None:
        raise BadSpecError("stage spec: improve is missing", "Add the section.")
    device = _device(ctx)
    with joined(device) as ranks:
        if not ranks.first:  # one voice is enough
            logging.getLogger("ippo_trainer").setLevel(logging.WARNING)
        # Processes that work together stop together, between two updates: one alone would leave the others waiting.
        with ctx.stop.deferred() if ranks.size > 1 else nullcontext():
            return _improve(ctx, ctx.spec.improve, device, ranks)


def _improve(ctx: StageContext, section: Improve, device: torch.device, ranks: Ranks) -> StageResult:
    """What `run` says, by all the ranks together; each returns the same."""
    holdings = _holdings(ctx, section, ranks)
    with _engine(ctx, section, ranks) as engine:  # first, for it looks at what is free
        models = _load(ctx, holdings, device, several=ranks.size > 1)
        states = _read(ctx, models.renderer)
        if ranks.first:
            _report_shortened(ctx, states)
        if ranks.size > 1 or engine is not None or not holdings.own_loop:
            return _train(ctx, section, models, states, ranks, engine)
        if "explorer" in ctx.spec.inputs and not ctx.spec.explorer_is_policy():
            ctx.input("explorer", "policy")
        with several(ctx, models.policy.model) as replicas:
            return _train(ctx, section, models, states, replicas)


def _holdings(ctx: StageContext, section: Improve, ranks: Ranks) -> Holdings:
    """Of the algorithm. BadSpecError where it cannot be divided over the processes that there are."""
    name = section.chosen(ctx.spec.collect)
    if ranks.size > 1 and not ALGORITHMS[name].own_loop:
        raise BadSpecError(
            f"improve.algorithm {name} runs on one process, and {ranks.size} work on this stage",
            "Give spec.pods.improve one node with one GPU, or use PPO or MPO.",
        )
    return ALGORITHMS[name]


@contextmanager
def _engine(ctx: StageContext, section: Improve, ranks: Ranks) -> Iterator[PolicySampler | None]:
    """vLLM, if the spec asks for it."""
    if section.sampler != samplers.VLLM:
        yield None
        return
    algorithm = section.chosen(ctx.spec.collect)
    if not ALGORITHMS[algorithm].engine:
        raise BadSpecError(
            f"improve.sampler is VLLM, which {algorithm} has no use for",
            f"Leave improve.sampler out, or choose {' or '.join(WITH_ENGINE)}.",
        )
    if ranks.size > 1:
        raise BadSpecError(
            f"improve.sampler is VLLM, and {ranks.size} processes divide the policy",
            "Leave improve.sampler out, or give improve one process.",
        )
    samplers.check_installed(ctx, "improve.sampler")
    check_temperature("collect.simulate.temperature", ctx.spec.temperature())
    with samplers.vllm(ctx, ctx.input("policy", "policy")) as engine:
        yield engine


def _train(
    ctx: StageContext,
    section: Improve,
    models: _Models,
    states: _States,
    ranks: Ranks,
    engine: PolicySampler | None = None,
) -> StageResult:
    task = _task(ctx, section, models, states.train, ranks, engine)
    probe, report = _held_out(task, states.held)
    improvement = Improvement(task, _algorithm(task), probe)
    train(ctx, improvement, "improving the policy", ranks)
    position = improvement.position
    ctx.log.info("%s; kept the policy of update %d", position.end, position.result_update)
    candidate = report.measure(task.policy, task.reference)
    gain = _gain(candidate, report.measure(task.reference, None), states.q_error)
    return ctx.result(
        artifacts={"policy": _publish(ctx, models, improvement, gain)},
        metrics=gain | _metrics(position, states),
        message=_message(position, gain),
    )


def _device(ctx: StageContext) -> torch.device:
    """Each process of a pod has a GPU of its own."""
    device = device_of(ctx.spec)
    local = os.environ.get(LOCAL_RANK) if torch.distributed.is_torchelastic_launched() else None
    return device if local is None or device.type == "cpu" else torch.device(device.type, int(local))


def _load(ctx: StageContext, holdings: Holdings, device: torch.device, several: bool) -> _Models:
    beside = ctx.spec.improve is not None and ctx.spec.improve.sampler == samplers.VLLM and device.type == "cuda"
    foreign = foreign_bytes(device) if beside else 0
    policy = load_policy(ctx.input("policy", "policy"), device, SHORT)
    renderer = Renderer.load(policy.directory, policy.tokenizer)
    q = load_q(ctx.input("q", "q"), device, policy.model).requires_grad_(False)
    if q.config.vocab_size != policy.model.config.vocab_size:
        raise BadDataError(
            f"Q has {q.config.vocab_size} tokens, the policy {policy.model.config.vocab_size}",
            "Q must be fitted from this policy's trunk: set fitQ.initFrom to Policy.",
        )
    check_context(policy.model.config, renderer.max_prompt_tokens, ctx.spec.policy.max_new_tokens)
    precision = precision_for(ctx.spec, device, several)
    return _Models(policy, renderer, q, precision, ready(holdings, policy.model, q, precision, foreign))


def ready(holdings: Holdings, policy: Any, q: Any, precision: Precision, foreign: int = 0) -> Budget:
    """Gives the models their types, before anything is copied of them; the budget of a forward of one of them, beside
    so many bytes of a GPU's memory that another process has."""
    halve(policy, precision.dtype)
    cast(q, precision.dtype)
    budget = budget_of(policy, IMPROVE_TOKENS, holdings.trained, holdings.read, foreign)
    if budget.recompute:
        for model in (policy, q):
            recompute(decoder(model))
    return budget


def _read(ctx: StageContext, renderer: Renderer) -> _States:
    """The logged states, split as fit-q split them. Censored conversations have states like any other."""
    conversations, calibration = read_logged(ctx), read_calibration(ctx.input("q", "q"))
    renderer.reads |= kinds_in(conversations, renderer.system_prompt)
    train, held_out = (LoggedStates(side, renderer) for side in Separation.of(calibration).sides(conversations))
    if not len(train) or len(held_out) < LEAST_HELD_OUT:
        raise BadDataError(
            f"{len(train)} training and {len(held_out)} held-out conversations: at least 1 and {LEAST_HELD_OUT} are "
            "needed, since the KL budget is kept by the held-out ones",
            "Collect more conversations, or set fitQ.holdout between 0.05 and 0.5.",
        )
    return _States(train, held_out, calibration.get("standard_error"))


def _report_shortened(ctx: StageContext, states: _States) -> None:
    shortened = states.train.count_shortened() + states.held.count_shortened()
    if shortened:
        count = len(states.train) + len(states.held)
        ctx.warn(
            f"{shortened} of {count} conversations are longer than policy.maxPromptTokens: "
            "their later prompts lose the oldest turns"
        )


def _task(
    ctx: StageContext,
    section: Improve,
    models: _Models,
    states: LoggedStates,
    ranks: Ranks,
    engine: PolicySampler | None,
) -> Task:
    """With whole models."""
    policy, seed = models.policy.model, derive_seed(ctx.spec.seed, IMPROVE, ctx.spec.iteration)
    max_tokens = models.budget.tokens
    sampling = Sampling(
        samples=section.samples_per_state,
        max_new_tokens=ctx.spec.policy.max_new_tokens,
        temperature=ctx.spec.temperature(),
        stop_ids=models.renderer.stop_ids,
        pad_id=models.policy.tokenizer.pad_token_id,
    )
    reference, algorithm = frozen_copy(policy), section.chosen(ctx.spec.collect)
    return Task(
        policy=policy,
        reference=reference,
        load_explorer=lambda: _explorer(ctx, models, reference),
        sampler=Sampler(models.q, sampling, seed, max_tokens, ranks, engine),
        states=states,
        settings=ImproveSettings(
            algorithm, section.batch_size, float(section.kl_target), seed, max_tokens, models.precision
        ),
        section=section,
        collect=ctx.spec.collect or Collect(),
    )


def _explorer(ctx: StageContext, models: _Models, reference: Any) -> Any:
    """The warm-start policy, frozen; `reference` where pi_i still is that one."""
    if ctx.spec.explorer_is_policy():
        return reference
    device = next(models.policy.model.parameters()).device
    explorer = load_policy(ctx.input("explorer", "policy"), device, SHORT, models.policy.model)
    if explorer.tokenizer.get_vocab() != models.policy.tokenizer.get_vocab():
        raise BadDataError("the explorer and the policy have different tokenizers", "Start a new run.")
    cast(explorer.model, models.precision.dtype)
    return explorer.model.requires_grad_(False)


def _algorithm(task: Task) -> Algorithm:
    """In this order: copies are made of whole models, optimisers for sharded ones, and the rest is sharded last."""
    algorithm = find(task.settings.algorithm)(task)
    for frozen in (task.reference, task.q):
        task.ranks.shard(frozen)
        if task.ranks.size == 1 and ALGORITHMS[task.settings.algorithm].parked:
            park(frozen)
    return algorithm


def _held_out(task: Task, states: LoggedStates) -> tuple[HeldOut, HeldOut]:
    """At most a batch for the guards, and others for the report: the guards choose a policy, which flatters theirs."""
    size = task.settings.batch_size
    guards = min(max(size, LEAST_HELD_OUT // 4), len(states) // 4)
    report = range(guards, min(len(states), guards + REPORT_BATCHES * size))
    return (
        HeldOut(task.sampler, states, range(guards), size, "probe"),
        HeldOut(task.sampler, states, report, size, "held-out"),
    )


def _gain(candidate: HeldOutSums, current: HeldOutSums, q_error: float | None) -> dict[str, float]:
    """What Theorem 2 asks of this stage: the change of E[Q], the KL, and what is left less the error of Q."""
    lift, kl = candidate.lift_over(current), candidate.mean_kl()
    states, responses = candidate.states.sum(), candidate.responses.sum()
    least = {} if q_error is None else {"heldOutQLiftLeast": least_gain(lift.low, kl.estimate, q_error)}
    return least | {
        "heldOutQLift": lift.estimate,
        "heldOutQLiftLow": lift.low,
        "heldOutQLiftHigh": lift.high,
        "heldOutQ": float(candidate.q.sum() / states),
        "kl": kl.estimate,
        "klLow": kl.low,
        "klHigh": kl.high,
        "responseLength": float(candidate.tokens.sum() / responses),
        "truncationRate": float(candidate.truncated.sum() / responses),
        "heldOutConversations": float(len(candidate.states)),
    }


def _metrics(position: ImprovementPosition, states: _States) -> dict[str, float]:
    last = position.curves[-1] if position.curves else {}
    names = {
        "kl_coefficient": "klCoefficient",
        "entropy": "entropy",
        "explained_variance": "explainedVariance",
        "ratio_max": "ratioMax",
    }
    return {
        "conversations": float(len(states.train)),
        "warmUps": float(len(position.warm_up_curves)),
        "updates": float(position.updates),
        "keptUpdate": float(position.result_update),
    } | {public: last[name] for name, public in names.items() if name in last}


def _publish(ctx: StageContext, models: _Models, improvement: Improvement, gain: dict[str, float]) -> ArtifactRef:
    ranks = improvement.task.ranks
    policy = _whole_policy(ctx, models, improvement.task)
    if ranks.first:
        published = ctx.publish(ctx.folder, _write(ctx, models, policy, improvement, gain), "policy")
    return ArtifactRef.model_validate(ranks.agreed(published.model_dump(mode="json") if ranks.first else {}))


def _whole_policy(ctx: StageContext, models: _Models, task: Task) -> Any:
    """The improved policy on the CPU, as it is saved; of several processes only the first has it."""
    ranks, path = task.ranks, ctx.work / "improved.safetensors"
    if ranks.size == 1:
        unite(task.policy)
        return task.policy.cpu()
    save_part(path, Weights(task.policy), ranks)
    if not ranks.first:
        return None
    policy = load_policy(models.policy.directory, longest=SHORT).model
    halve(policy, models.precision.dtype)
    load_part(path, Weights(policy))
    unite(policy)
    return policy


def _write(ctx: StageContext, models: _Models, policy: Any, improvement: Improvement, gain: dict[str, float]) -> Path:
    directory, position = ctx.work / "policy", improvement.position
    save_policy(directory, policy, models.policy.tokenizer, models.renderer)
    training = {
        "kind": IMPROVE,
        "algorithm": improvement.task.settings.algorithm,
        "curves": position.curves,
        "warmup": position.warm_up_curves,
        "ended": position.end,
        "kept": position.result,
        "kept_update": position.result_update,
        "held_out": gain,
    }
    if improvement.task.sampler.engine is not None:
        training["sampler"] = samplers.VLLM
    # Sorted: rows that went through a checkpoint have lost their order.
    content = json.dumps(training, indent=1, allow_nan=False, sort_keys=True)
    (directory / TRAINING).write_text(content + "\n", "utf-8")
    return directory


def _message(position: ImprovementPosition, gain: dict[str, float]) -> str:
    least = gain.get("heldOutQLiftLeast")
    return (
        f"E[Q] on held-out states changed by {gain['heldOutQLift']:+.4f} "
        f"(95% interval {gain['heldOutQLiftLow']:+.4f} to {gain['heldOutQLiftHigh']:+.4f}"
        f"{'' if least is None else f', at least {least:+.4f} less the error of Q'}) at a KL of {gain['kl']:z.2f} "
        f"nats per suggestion; {position.end}, the policy of update {position.result_update} was kept."
    )
