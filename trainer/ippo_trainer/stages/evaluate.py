"""The stage evaluate: candidate and current policy on the same seeds, and the gate's decision.

Every iteration meets customers of its own. Nothing of an earlier evaluation is used again, not even the conversations
of the policy that is current in both: they took part in the decision that made or kept it current, so given that
decision their mean is too high, and a second verdict on the same customers is no second evidence.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import METRICS, TRAINING, TRANSCRIPTS
from ippo_trainer.contract.spec import Decision, StageResult
from ippo_trainer.contract.stages import EVALUATE
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import read_turns, write_turns
from ippo_trainer.engines.interface import PolicySampler
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.environments import Environment, ExactScore, ExactScorer
from ippo_trainer.environments.rollout import Batch, MessageReader, OpenBatch, PolicyAgent, rollout
from ippo_trainer.evaluation.divergence import kl_per_suggestion
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.evaluation.ledger import record
from ippo_trainer.evaluation.measure import Measurement, lift, lift_outcome_bounds, measure
from ippo_trainer.evaluation.transcripts import transcripts
from ippo_trainer.models.halves import cast
from ippo_trainer.models.load import LoadedPolicy, load_policy
from ippo_trainer.models.verify import SHORT
from ippo_trainer.stages import samplers, unsimulated
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.keeping import Keeper, read_unfinished, write_unfinished
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stats.intervals import Interval
from ippo_trainer.text.render import Renderer

READINGS = 4
"""Customers that are the same in every iteration, so that people can read the first policy beside the last; no figure
comes from them."""


@dataclass(frozen=True)
class _Player:
    """One of the two policies, ready to talk."""

    policy: LoadedPolicy
    renderer: Renderer
    digest: str


@dataclass(frozen=True)
class _Findings:
    """All that was found out, for the result, the metrics file and the ledger."""

    measured: dict[str, Measurement]
    exact: dict[str, ExactScore | None]
    truncated: dict[str, float]
    lift: Interval
    kl: Interval | None
    decision: Decision


def run(ctx: StageContext) -> StageResult:
    """Measures both policies on the same customers, decides, and publishes the evidence. Where there is no environment,
    logged states are the evidence (`unsimulated`).

    The gate sees outcomes, reactions and KL only, as a business would. Where the environment knows its exact solution,
    that is for the report.

    Raises:
        BadSpecError: no `evaluate` section, or an input that is not named.
        BadDataError: policies that do not fit together, or an environment that breaks its contract.
        StoppedError: told to stop; the next attempt resumes.
    """
    section = ctx.spec.evaluate
    if section is None:
        raise BadSpecError(f"stage spec: {EVALUATE} is missing", "Add the section.")
    if ctx.spec.environment is None:
        return unsimulated.run(ctx, section)
    environment = ctx.environment()
    players = _players(ctx)
    customers = _customers(ctx, section)
    sampler = samplers.sampler_of(ctx, players["current"].policy.directory)
    held = _hold(ctx, environment, players, customers, sampler)
    measured = {role: conversations[READINGS:] for role, conversations in held.items()}
    findings = _find(ctx, section, environment, players, measured)
    _report_unseen(ctx, findings.measured)
    directory = _write(ctx, section, environment, measured, findings)
    spoken = transcripts(held["candidate"], held["current"], [seed for _, seed in customers])
    _write_json(directory / TRANSCRIPTS, spoken)
    ref = ctx.publish(ctx.folder, directory, "evaluation")
    metrics = _metrics(findings) | ({"vllmShare": 1.0} if sampler == samplers.VLLM else {})
    record(ctx.store, ctx.spec, metrics, findings.decision)
    return ctx.result(
        artifacts={"evaluation": ref},
        metrics=metrics,
        decision=findings.decision,
        message=findings.decision.reason,
    )


def _players(ctx: StageContext) -> dict[str, _Player]:
    device = device_of(ctx.spec)
    players: dict[str, _Player] = {}
    for role, name in unsimulated.ROLES.items():
        beside = next((player.policy.model for player in players.values()), None)
        policy = load_policy(ctx.input(name, "policy"), device, SHORT, beside)
        renderer = Renderer.load(policy.directory, policy.tokenizer)
        cast(policy.model, precision_for(ctx.spec, device).dtype)
        players[role] = _Player(policy, renderer, ctx.spec.inputs[name].digest)
    one, other = players["candidate"], players["current"]
    if one.policy.tokenizer.get_vocab() != other.policy.tokenizer.get_vocab():
        raise BadDataError("candidate and current policy have different tokenizers", "Start a new run.")
    return players


def _customers(ctx: StageContext, section: params.Evaluate) -> list[tuple[str, int]]:
    """(id of the conversation, seed): those that are only read, then the iteration's own."""
    seed, iteration = ctx.spec.seed, ctx.spec.iteration
    readings = [(f"reading-{index:07d}", derive_seed(seed, "reading", index)) for index in range(READINGS)]
    return readings + [
        (f"evaluation-i{iteration:04d}-{index:07d}", derive_seed(seed, "evaluation", iteration, index))
        for index in range(section.conversations)
    ]


def _hold(
    ctx: StageContext,
    environment: Environment,
    players: dict[str, _Player],
    customers: Sequence[tuple[str, int]],
    sampler: params.EngineName,
) -> dict[str, list[Conversation]]:
    """The conversations of both policies, one per customer; resumes from the checkpoint."""
    held, unfinished = _resume(ctx, players, customers)
    keeper = Keeper(ctx, lambda under_way: _save(ctx, held, under_way))
    count, batch_size = sum(map(len, held.values())), (ctx.spec.collect or params.Collect()).batch_size
    with ctx.progress(2 * len(customers), "evaluating", "conversations", initial=count) as bar, keeper.holding():
        for role, player in players.items():
            if len(held[role]) == len(customers):
                continue
            hearing = MessageReader(player.renderer)
            with _agent(ctx, player, sampler) as agent:
                while len(held[role]) < len(customers):
                    ids, seeds = zip(*customers[len(held[role]) : len(held[role]) + batch_size], strict=True)
                    batch = Batch(seeds, ids, unfinished, hearing)
                    result = rollout(environment, agent, batch, bar.update, keeper.note)
                    with ctx.stop.deferred():
                        unfinished = keeper.unfinished = None
                        held[role] += result.conversations
                    keeper.note(None)
            for text in hearing.warnings():
                ctx.warn(f"{role}: {text}")
    return held


@contextmanager
def _agent(ctx: StageContext, player: _Player, sampler: params.EngineName) -> Iterator[PolicyAgent]:
    """A policy as an agent; of engines there is one at a time."""
    with ExitStack() as engines:
        source: PolicySampler = TransformersSampler(player.policy.model)
        if sampler == samplers.VLLM:
            source = engines.enter_context(samplers.vllm(ctx, player.policy.directory))
        yield PolicyAgent(
            source, player.renderer, player.digest, ctx.spec.policy.max_new_tokens, ctx.spec.temperature()
        )


def _save(ctx: StageContext, held: dict[str, list[Conversation]], unfinished: OpenBatch | None) -> None:
    directory = ctx.work / "checkpoint"
    directory.mkdir(exist_ok=True)
    for role, conversations in held.items():
        if conversations:
            write_turns(directory / f"{role}.parquet", conversations)
    write_unfinished(directory, unfinished)
    ctx.save_checkpoint(directory, sum(map(len, held.values())))


def _resume(
    ctx: StageContext, players: dict[str, _Player], customers: Sequence[tuple[str, int]]
) -> tuple[dict[str, list[Conversation]], OpenBatch | None]:
    """The checkpoint's conversations, if they are these policies' with these customers: release 0.2 chose others."""
    nothing: dict[str, list[Conversation]] = {role: [] for role in unsimulated.ROLES}
    directory = ctx.work / "resume"
    if ctx.load_checkpoint(directory) is None:
        return nothing, None
    files = {role: directory / f"{role}.parquet" for role in unsimulated.ROLES}
    held = {role: read_turns([path]) if path.exists() else [] for role, path in files.items()}
    for role, conversations in held.items():
        names = [name for name, _ in customers[: len(conversations)]]
        speakers = {turn.policy_digest for each in conversations for turn in each.turns}
        if [each.id for each in conversations] != names or speakers - {players[role].digest}:
            ctx.log.warning("the checkpoint holds conversations with other customers: evaluating from the start")
            return nothing, None
    ctx.log.info("resumed after %d conversations", sum(map(len, held.values())))
    return held, read_unfinished(directory)


def _find(
    ctx: StageContext,
    section: params.Evaluate,
    environment: Environment,
    players: dict[str, _Player],
    held: dict[str, list[Conversation]],
) -> _Findings:
    gate, discount = section.gate, float(ctx.spec.discount)
    confidence = float(gate.confidence)
    pairs = sum(not (one.censored or other.censored) for one, other in zip(*held.values(), strict=True))
    if pairs < 2:
        raise BadDataError(
            f"{pairs} of {section.conversations} pairs of evaluation conversations have a known outcome, 2 are needed",
            "Let the environment censor fewer conversations, or set evaluate.conversations higher.",
        )
    measured = {role: measure(conversations, discount, confidence) for role, conversations in held.items()}
    change = lift(held["candidate"], held["current"], gate.metric, discount, confidence)
    candidate, current = players["candidate"], players["current"]
    kl = kl_per_suggestion(
        candidate.policy.model,
        current.policy.model,
        held["candidate"][: params.KL_CONVERSATIONS],
        candidate.renderer,
        ctx.spec.temperature(),
        confidence,
    )
    acceptance = measured["candidate"].acceptance
    inputs = GateInputs(
        lift=change,
        acceptance=acceptance.estimate if acceptance else None,
        kl=kl.estimate if kl else None,
        evidence=_evidence(measured, section) + _promise(candidate.policy.directory),
    )
    return _Findings(
        measured=measured,
        exact={role: _exact(environment, conversations, discount) for role, conversations in held.items()},
        truncated={role: _truncated(conversations, players[role].renderer) for role, conversations in held.items()},
        lift=change,
        kl=kl,
        decision=decide(gate, inputs),
    )


def _report_unseen(ctx: StageContext, measured: dict[str, Measurement]) -> None:
    for role, figures in measured.items():
        if figures.unseen:
            ctx.warn(
                f"nobody could see how an estimated {figures.unseen:.1%} of the {role} policy's conversations end: "
                "success and value are those of the others"
            )


def _evidence(measured: dict[str, Measurement], section: params.Evaluate) -> str:
    """What the lift was measured on; with censored conversations also what it may be at worst and at best."""
    text = f"{section.conversations} pairs of conversations on the same seeds"
    censored = sum(figures.censored for figures in measured.values())
    if not censored:
        return text
    bounds = lift_outcome_bounds(measured["candidate"], measured["current"], section.gate.metric)
    whatever = f"whatever became of them, {bounds.low:+.4f} to {bounds.high:+.4f}"
    return f"{text}, {censored} conversations censored and weighted for: {whatever}"


def _promise(candidate: Path) -> str:
    """What Q promised of the candidate where it was made, in words; nothing for a policy that Q did not make."""
    try:
        figures = json.loads((candidate / TRAINING).read_text("utf-8"))["held_out"]
        lift, least = float(figures["heldOutQLift"]), figures.get("heldOutQLiftLeast")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    less = "" if least is None else f", at least {float(least):+.4f} less its error"
    return f"; Q promised {lift:+.4f} a suggestion{less}"


def _exact(environment: Environment, conversations: Sequence[Conversation], discount: float) -> ExactScore | None:
    """None also where a conversation is censored: the rest would not be a sample of the policy."""
    whole = not any(each.censored for each in conversations)
    return environment.score(conversations, discount) if whole and isinstance(environment, ExactScorer) else None


def _truncated(conversations: Sequence[Conversation], renderer: Renderer) -> float:
    """Share of outputs that were cut off before they ended."""
    outputs = [turn.token_ids for each in conversations for turn in each.turns if turn.token_ids]
    return sum(ids[-1] not in renderer.stop_ids for ids in outputs) / max(1, len(outputs))


def _write(
    ctx: StageContext,
    section: params.Evaluate,
    environment: Environment,
    held: dict[str, list[Conversation]],
    findings: _Findings,
) -> Path:
    directory = ctx.work / "evaluation"
    directory.mkdir()
    content: dict[str, Any] = {}
    for role, name in unsimulated.ROLES.items():
        exact = findings.exact[role]
        content[role] = {
            "digest": ctx.spec.inputs[name].digest,
            **findings.measured[role].to_json(),
            "truncated": findings.truncated[role],
            "kl": findings.kl.to_json() if findings.kl and role == "candidate" else None,
            "exact": exact.to_json() if exact else None,
        }
    candidate, current = (findings.measured[role] for role in unsimulated.ROLES)
    ladder = environment.ladder(float(ctx.spec.discount)) if isinstance(environment, ExactScorer) else []
    content |= {
        "metric": section.gate.metric,
        "confidence": float(section.gate.confidence),
        "lift": findings.lift.to_json(),
        "liftBounds": lift_outcome_bounds(candidate, current, section.gate.metric).to_json(),
        "decision": findings.decision.model_dump(),
        "references": [{"name": row.name, "value": row.value, "success": row.success} for row in ladder],
    }
    _write_json(directory / METRICS, content)
    write_turns(directory / "turns.parquet", held["candidate"])
    return directory


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _metrics(findings: _Findings) -> dict[str, float]:
    """The figures of the stage's result; what does not exist is left out."""
    candidate, current = findings.measured["candidate"], findings.measured["current"]
    exact, exact_current = findings.exact["candidate"], findings.exact["current"]
    figures: dict[str, float | None] = {
        "success": candidate.success.estimate,
        "value": candidate.value.estimate,
        "successCurrent": current.success.estimate,
        "valueCurrent": current.value.estimate,
        "lift": findings.lift.estimate,
        "liftLow": findings.lift.low,
        "liftHigh": findings.lift.high,
        "acceptance": candidate.acceptance.estimate if candidate.acceptance else None,
        "abstention": candidate.abstention.estimate,
        "length": candidate.length.estimate if candidate.length else None,
        "truncated": findings.truncated["candidate"],
        "kl": findings.kl.estimate if findings.kl else None,
        "exactValue": exact.value if exact else None,
        "exactStandardError": exact.standard_error if exact else None,
        "exactSuccess": exact.success if exact else None,
        "exactShareOfOptimum": exact.share_of_optimum if exact else None,
        "exactValueCurrent": exact_current.value if exact_current else None,
        "exactStandardErrorCurrent": exact_current.standard_error if exact_current else None,
        "exactSuccessCurrent": exact_current.success if exact_current else None,
        "exactShareOfOptimumCurrent": exact_current.share_of_optimum if exact_current else None,
    }
    if candidate.censored or current.censored:
        for name, figure in (("", candidate), ("Current", current)):
            figures[f"censored{name}"] = float(figure.censored)
            figures[f"successAtLeast{name}"] = figure.success_bounds.low
            figures[f"successAtMost{name}"] = figure.success_bounds.high
    return {name: value for name, value in figures.items() if value is not None}
