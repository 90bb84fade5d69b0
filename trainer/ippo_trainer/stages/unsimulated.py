"""Stage `evaluate` where nobody can simulate a customer: what logged states tell of a candidate before it is deployed.

On held-out conversations both policies are sampled in every state. Q says what the suggestions of each are worth,
with an interval by conversation, and the KL how far the candidate went from the policy whose outcomes Q learnt from.
That is an estimate by the very Q that was optimised, so a human has the last word on it. Beside it stand both
policies' values by fitted Q evaluation on the held-out conversations, which say how far that Q is to be trusted; their
intervals say how little so few conversations tell, and are wider where weights say something else.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import COMPARISONS, GROUPS, UNSIMULATED
from ippo_trainer.contract.spec import Decision, StageResult
from ippo_trainer.contract.stages import EVALUATE
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.own import explored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.by_group import values_by_group
from ippo_trainer.evaluation.comparisons import Comparisons, compare
from ippo_trainer.evaluation.divergence import suggestion_logprobs
from ippo_trainer.evaluation.doubly_robust import DoublyRobust, cautious, doubly_robust
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.evaluation.groups import GroupValues
from ippo_trainer.evaluation.ledger import record
from ippo_trainer.evaluation.logged_features import LoggedFeatures
from ippo_trainer.evaluation.off_policy import EvaluatedTurns, policy_values
from ippo_trainer.improve.heldout import HeldOut, HeldOutSums
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.budget import budget_of
from ippo_trainer.models.halves import cast
from ippo_trainer.models.load import LoadedPolicy, load_policy, load_q
from ippo_trainer.models.packing import Group
from ippo_trainer.models.sampling import Sampled, Sampling
from ippo_trainer.models.verify import SHORT
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.logged import Separation, finished, read_calibration, read_logged
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stats.intervals import Interval, ratio_interval
from ippo_trainer.text.render import Renderer

ROLES = {"candidate": "candidate", "current": "policy"}
"""Of the policies that are compared, with the inputs that they are."""
MOST_CONVERSATIONS, MOST_EVALUATED = 512, 4096
"""Held-out ones, at most, of which Q's word is asked, and from which values are estimated."""
MOST_TURNS = 50_000
"""Of the latter: of each turn there are some hundred numbers of 8 bytes for the log and for each policy, and the
trunk's features of state and suggestions, 4 bytes for each of them."""
VALUE_PENALTY = 10.0
"""Of the least squares behind the values: ridge, in turns."""
SAMPLES = 8
"""Suggestions of each policy in each state."""
_BATCH = 32
_TOKENS = 4096


@dataclass(frozen=True)
class _Evidence:
    """Both policies on the same held-out states."""

    conversations: int
    lift: Interval
    kl: Interval
    q: dict[str, float]
    length: dict[str, float]
    unended: float
    values: dict[str, Interval]
    """Of candidate and current policy, by fitted Q evaluation."""
    value_lift: Interval
    comparisons: Comparisons
    robust: DoublyRobust | None
    """Of both, where the log says how likely each suggestion was."""
    groups: GroupValues


def run(ctx: StageContext, section: params.Evaluate) -> StageResult:
    """Compares the policies on held-out logged states, decides as the gate would, and publishes the evidence.

    Raises:
        BadSpecError: an input that is not named.
        BadDataError: policies, Q or data that do not fit together.
    """
    evidence = _measure(ctx, section)
    decision = _decide(section.gate, evidence)
    metrics = {
        "heldOutQLift": evidence.lift.estimate,
        "heldOutQLiftLow": evidence.lift.low,
        "heldOutQLiftHigh": evidence.lift.high,
        "heldOutQ": evidence.q["candidate"],
        "heldOutQCurrent": evidence.q["current"],
        "kl": evidence.kl.estimate,
        "length": evidence.length["candidate"],
        "truncated": evidence.unended,
        "heldOutConversations": float(evidence.conversations),
    } | _value_metrics(evidence)
    directory = ctx.work / "evaluation"
    directory.mkdir()
    content = {"metrics": metrics, "lengthCurrent": evidence.length["current"], "decision": decision.model_dump()}
    (directory / UNSIMULATED).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    (directory / COMPARISONS).write_text(evidence.comparisons.model_dump_json(indent=1) + "\n", "utf-8")
    if evidence.groups.groups:
        (directory / GROUPS).write_text(evidence.groups.model_dump_json(indent=1) + "\n", "utf-8")
    ref = ctx.publish(ctx.folder, directory, "evaluation")
    record(ctx.store, ctx.spec, metrics, decision)
    return ctx.result(artifacts={"evaluation": ref}, metrics=metrics, decision=decision, message=decision.reason)


def _value_metrics(evidence: _Evidence) -> dict[str, float]:
    named = {
        "offPolicyValue": evidence.values["candidate"],
        "offPolicyValueCurrent": evidence.values["current"],
        "offPolicyLift": evidence.value_lift,
    }
    robust, effective = evidence.robust, dict[str, float]()
    if robust is not None:
        named |= {"doublyRobustValue": robust.values[0], "doublyRobustLift": robust.lifts[0]}
        effective = {"effectiveConversations": robust.effective[0]}
    return effective | {
        f"{name}{end}": figure
        for name, interval in named.items()
        for end, figure in (("", interval.estimate), ("Low", interval.low), ("High", interval.high))
    }


def _decide(gate: params.Gate, evidence: _Evidence) -> Decision:
    return decide(
        gate,
        GateInputs(
            lift=evidence.lift,
            acceptance=None,
            kl=evidence.kl.estimate,
            evidence=f"{evidence.conversations} held-out conversations of the log, KL {evidence.kl.estimate:z.2f} nats "
            f"per suggestion, nothing simulated{_value_in_words(evidence)}",
            measured="E[Q] per logged state",
        ),
    )


def _value_in_words(evidence: _Evidence) -> str:
    lift = evidence.value_lift
    words = f"; value by fitted Q evaluation {lift.estimate:+.4f} ({lift.low:+.4f} to {lift.high:+.4f})"
    if evidence.robust is None:
        return words
    lift = evidence.robust.lifts[0]
    return f"{words}, doubly robust {lift.estimate:+.4f} ({lift.low:+.4f} to {lift.high:+.4f})"


def _measure(ctx: StageContext, section: params.Evaluate) -> _Evidence:
    device = device_of(ctx.spec)
    policies: dict[str, LoadedPolicy] = {}
    for role, name in ROLES.items():
        beside = next((policy.model for policy in policies.values()), None)
        policies[role] = load_policy(ctx.input(name, "policy"), device, SHORT, beside)
    current = policies["current"]
    renderer = Renderer.load(current.directory, current.tokenizer)
    q = load_q(ctx.input("q", "q"), device, current.model).requires_grad_(False)
    for name, size in (("candidate", policies["candidate"].model.config.vocab_size), ("Q", q.config.vocab_size)):
        if size != current.model.config.vocab_size:
            raise BadDataError(f"{name} has {size} tokens, the policy {current.model.config.vocab_size}", "Start anew.")
    precision = precision_for(ctx.spec, device)
    for model in (policies["candidate"].model, current.model, q):
        cast(model, precision.dtype)
    conversations, censoring = _held_out(ctx)
    held = LoggedStates(conversations[:MOST_CONVERSATIONS], renderer)
    sampling = Sampling(
        samples=SAMPLES,
        max_new_tokens=ctx.spec.policy.max_new_tokens,
        temperature=ctx.spec.temperature(),
        stop_ids=renderer.stop_ids,
        pad_id=current.tokenizer.pad_token_id,
    )
    seed = derive_seed(ctx.spec.seed, EVALUATE, ctx.spec.iteration)
    sampler = Sampler(q, sampling, seed, budget_of(q, _TOKENS, trained=0).tokens)
    both: dict[str, list[HeldOutSums]] = {role: [] for role in ROLES}
    with ctx.progress(2 * len(held), "evaluating on logged states", "conversations") as shown:
        for start in range(0, len(held), _BATCH):
            numbers = range(start, min(len(held), start + _BATCH))
            states = HeldOut(sampler, held, numbers, _BATCH, "evaluation")
            for role, policy in policies.items():
                reference = current.model if role == "candidate" else None
                both[role].append(states.measure(policy.model, reference))
                shown.update(len(numbers))
            ctx.check_stop()
    models = {role: policy.model for role, policy in policies.items()}
    turns, features, comparisons = _evaluated(ctx, sampler, conversations, renderer, models, censoring)
    confidence = float(section.gate.confidence)
    settings = (float(ctx.spec.discount), VALUE_PENALTY, confidence)
    ratios, has_logprobs = _log_ratios(conversations, renderer, [models[role] for role in ROLES], sampling.temperature)
    whole, robust = _drawn_in_full(conversations), None
    values, lifts = policy_values(turns, features, *settings)
    if len(whole) > 1:
        part, columns = turns.part([*features, *ratios], whole)
        robust = doubly_robust(part, columns[:2], columns[2:], *settings)
        values, lifts = cautious(values, robust.values), cautious(lifts, robust.lifts)
    groups = values_by_group(conversations, turns, (features, ratios), *settings)
    sums = {role: HeldOutSums.joined(parts) for role, parts in both.items()}
    named = dict(zip(ROLES, values, strict=True))
    return _evidence(sums, confidence, named, lifts[0], comparisons, robust if has_logprobs else None, groups)


def _drawn_in_full(conversations: list[Conversation]) -> list[int]:
    """Numbers of those in which nobody explored. A persona may leave out unlikely tokens: then it cannot say all that a
    policy may, which no weight of what it does say makes up for. It holds whole conversations, so the rest is a sample.
    """
    return [number for number, each in enumerate(conversations) if not any(map(explored, each.turns))]


def _log_ratios(
    conversations: list[Conversation], renderer: Renderer, models: list[Any], temperature: float
) -> tuple[list[Tensor], bool]:
    """How much likelier each policy is than who drew it to suggest what was suggested, in nats, (turns,) each; and
    whether the log says how likely that was, of every suggestion of those that drew in full.

    Where it does not, the last policy stands for the writers, whom it imitates.
    """
    kept = [conversations[number] for number in _drawn_in_full(conversations)]
    turns = [turn for each in kept for turn in each.turns]
    has_logprobs = len(kept) > 1 and all(turn.token_ids and turn.sampler_logprobs and turn.displayed for turn in turns)
    every = [(each, index, turn) for each in conversations for index, turn in enumerate(each.turns)]
    groups = [
        Group(
            renderer.prompt(*each.state(index)).ids,
            [list(turn.token_ids or []) if has_logprobs and turn.token_ids else renderer.response(turn.suggestion)],
        )
        for each, index, turn in every
    ]
    logprobs = [torch.from_numpy(each) for each in suggestion_logprobs(models, groups, temperature)]
    drawn = logprobs[-1].clone()
    for row, (_, _, turn) in enumerate(every):
        if has_logprobs and turn.sampler_logprobs:
            drawn[row] = sum(turn.sampler_logprobs)
    shown = torch.tensor([turn.displayed for _, _, turn in every], dtype=torch.double)
    return [(each - drawn) * shown for each in logprobs], has_logprobs


def _evaluated(
    ctx: StageContext,
    sampler: Sampler,
    conversations: list[Conversation],
    renderer: Renderer,
    models: dict[str, Any],
    censoring: Censoring,
) -> tuple[EvaluatedTurns, list[Tensor], Comparisons]:
    """The logged turns in features of Q's trunk, the mean features of each policy's own suggestions there, and some of
    these suggestions for people to judge."""
    features = LoggedFeatures.of(sampler.q, conversations, renderer, censoring, sampler.max_tokens)
    logged = LoggedStates(conversations, renderer)
    means, texts = [], dict[str, list[str | None]]()
    for role, model in models.items():
        drawn: list[list[Sampled]] = []
        with ctx.progress(len(logged), f"suggestions of the {role} policy", "conversations") as shown:
            for start in range(0, len(logged), _BATCH):
                numbers = range(start, min(len(logged), start + _BATCH))
                drawn += sampler.sample(model, [logged.of(number) for number in numbers], "value")
                shown.update(len(numbers))
                ctx.check_stop()
        means.append(features.of_policy([[response.ids for response in responses] for responses in drawn]))
        texts[role] = [renderer.decode(responses[0].ids)[0] for responses in drawn]
    names = [(state.conversation, state.turn) for number in range(len(logged)) for state in logged.of(number)]
    compared = compare(conversations, names, texts["candidate"], texts["current"], sampler.seed)
    return features.turns, means, compared


def _evidence(
    sums: dict[str, HeldOutSums],
    confidence: float,
    values: dict[str, Interval],
    value_lift: Interval,
    comparisons: Comparisons,
    robust: DoublyRobust | None,
    groups: GroupValues,
) -> _Evidence:
    candidate, current = sums["candidate"], sums["current"]
    responses = candidate.responses.sum()
    return _Evidence(
        conversations=len(candidate.states),
        lift=ratio_interval(candidate.q - current.q, candidate.states, confidence),
        kl=ratio_interval(candidate.kl, candidate.responses, confidence),
        q={role: float(each.q.sum() / each.states.sum()) for role, each in sums.items()},
        length={role: float(each.tokens.sum() / each.responses.sum()) for role, each in sums.items()},
        unended=float(candidate.truncated.sum() / responses),
        values=values,
        value_lift=value_lift,
        comparisons=comparisons,
        robust=robust,
        groups=groups,
    )


def _held_out(ctx: StageContext) -> tuple[list[Conversation], Censoring]:
    """Conversations that neither Q nor the policy were trained on, and how the log that they are from is cut off."""
    separation, everything = Separation.of(read_calibration(ctx.input("q", "q"))), read_logged(ctx)
    held = finished(separation.sides(everything)[1])
    if len(held) < 2:
        raise BadDataError(f"{len(held)} held-out conversations: at least 2 are needed", "Raise fitQ.holdout.")
    turns = np.cumsum([len(each.turns) for each in held])
    kept = max(2, min(MOST_EVALUATED, int(np.searchsorted(turns, MOST_TURNS, side="right"))))
    return held[:kept], Censoring.of(everything)
