"""Stage `evaluate` where nobody can simulate a customer: what logged states tell of a candidate before it is deployed.

On held-out conversations both policies are sampled in every state. Q says what the suggestions of each are worth, with
an interval by conversation, and the KL how far the candidate went from the policy whose outcomes Q learnt from. That is
an estimate by the very Q that was optimised, so a human has the last word on it.
"""

import json
from dataclasses import dataclass

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import CALIBRATION, UNSIMULATED
from ippo_trainer.contract.spec import Decision, StageResult
from ippo_trainer.contract.stages import EVALUATE
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.gate import GateInputs, decide
from ippo_trainer.evaluation.ledger import write_line
from ippo_trainer.improve.heldout import HeldOut, HeldOutSums
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.budget import budget_of
from ippo_trainer.models.halves import cast
from ippo_trainer.models.load import load_policy, load_q
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.models.verify import SHORT
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.logged import read_logged, split_finished
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stats.intervals import Interval, ratio_interval
from ippo_trainer.text.render import Renderer

MOST_CONVERSATIONS = 512
"""Held-out ones, at most."""
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
    }
    directory = ctx.work / "evaluation"
    directory.mkdir()
    content = {"metrics": metrics, "lengthCurrent": evidence.length["current"], "decision": decision.model_dump()}
    (directory / UNSIMULATED).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    ref = ctx.publish(ctx.folder, directory, "evaluation")
    inputs = {name: ref.digest for name, ref in ctx.spec.inputs.items()}
    line = {"iteration": ctx.spec.iteration, "inputs": inputs, "metrics": metrics, "decision": decision.model_dump()}
    write_line(ctx.store, line)
    return ctx.result(artifacts={"evaluation": ref}, metrics=metrics, decision=decision, message=decision.reason)


def _decide(gate: params.Gate, evidence: _Evidence) -> Decision:
    return decide(
        gate,
        GateInputs(
            lift=evidence.lift,
            acceptance=None,
            kl=evidence.kl.estimate,
            evidence=f"{evidence.conversations} held-out conversations of the log, KL {evidence.kl.estimate:.2f} nats "
            "per suggestion, nothing simulated",
            measured="E[Q] per logged state",
        ),
    )


def _measure(ctx: StageContext, section: params.Evaluate) -> _Evidence:
    device = device_of(ctx.spec)
    policies = {role: load_policy(ctx.input(name, "policy"), device, SHORT) for role, name in _ROLES.items()}
    current = policies["current"]
    renderer = Renderer.load(current.directory, current.tokenizer)
    q = load_q(ctx.input("q", "q"), device).requires_grad_(False)
    for name, size in (("candidate", policies["candidate"].model.config.vocab_size), ("Q", q.config.vocab_size)):
        if size != current.model.config.vocab_size:
            raise BadDataError(f"{name} has {size} tokens, the policy {current.model.config.vocab_size}", "Start anew.")
    precision = precision_for(ctx.spec, device)
    for model in (policies["candidate"].model, current.model, q):
        cast(model, precision.dtype)
    held = LoggedStates(_held_out(ctx), renderer)
    sampling = Sampling(
        samples=SAMPLES,
        max_new_tokens=ctx.spec.policy.max_new_tokens,
        temperature=float((ctx.spec.collect or params.Collect()).temperature),
        stop_ids=renderer.stop_ids,
        pad_id=current.tokenizer.pad_token_id,
    )
    seed = derive_seed(ctx.spec.seed, EVALUATE, ctx.spec.iteration)
    sampler = Sampler(q, sampling, seed, budget_of(q, _TOKENS, trained=0).tokens)
    both: dict[str, list[HeldOutSums]] = {role: [] for role in _ROLES}
    with ctx.progress(2 * len(held), "evaluating on logged states", "conversations") as shown:
        for start in range(0, len(held), _BATCH):
            numbers = range(start, min(len(held), start + _BATCH))
            states = HeldOut(sampler, held, numbers, _BATCH, "evaluation")
            for role, policy in policies.items():
                reference = current.model if role == "candidate" else None
                both[role].append(states.measure(policy.model, reference))
                shown.update(len(numbers))
            ctx.check_stop()
    return _evidence({role: HeldOutSums.joined(parts) for role, parts in both.items()}, float(section.gate.confidence))


_ROLES = {"candidate": "candidate", "current": "policy"}


def _evidence(sums: dict[str, HeldOutSums], confidence: float) -> _Evidence:
    candidate, current = sums["candidate"], sums["current"]
    responses = candidate.responses.sum()
    return _Evidence(
        conversations=len(candidate.states),
        lift=ratio_interval(candidate.q - current.q, candidate.states, confidence),
        kl=ratio_interval(candidate.kl, candidate.responses, confidence),
        q={role: float(each.q.sum() / each.states.sum()) for role, each in sums.items()},
        length={role: float(each.tokens.sum() / each.responses.sum()) for role, each in sums.items()},
        unended=float(candidate.truncated.sum() / responses),
    )


def _held_out(ctx: StageContext) -> list[Conversation]:
    """Conversations that neither Q nor the policy were trained on."""
    split = json.loads((ctx.input("q", "q") / CALIBRATION).read_text("utf-8"))["split"]
    held = split_finished(read_logged(ctx), float(split["holdout"]), int(split["seed"]))[1]
    if len(held) < 2:
        raise BadDataError(f"{len(held)} held-out conversations: at least 2 are needed", "Raise fitQ.holdout.")
    return held[:MOST_CONVERSATIONS]
