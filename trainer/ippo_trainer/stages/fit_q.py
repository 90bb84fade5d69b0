"""The stage fit-q: from logged conversations to Q(s, a), with an honest account of what it knows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import CALIBRATION
from ippo_trainer.contract.spec import StageResult
from ippo_trainer.contract.stages import FIT_Q
from ippo_trainer.data.censoring import outcome_bounds
from ippo_trainer.data.notices import LEAST_FINISHED
from ippo_trainer.data.own import explored, foreign_share
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments import ExactScorer
from ippo_trainer.environments import load as load_environment
from ippo_trainer.models import halves
from ippo_trainer.models.budget import budget_of
from ippo_trainer.models.last_layer import LastLayer, attach, save
from ippo_trainer.models.load import LoadedPolicy, load_policy, load_q, new_q, save_policy
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.recompute import recompute
from ippo_trainer.models.verify import SHORT
from ippo_trainer.qfit.exact import Comparison, comparison_of, exact_states, read_intents
from ippo_trainer.qfit.procedure import Procedure, Split, language_head
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.refit import empty_features, fill_features
from ippo_trainer.qfit.report import Calibration, assess, confidence_of, mean_return
from ippo_trainer.qfit.targets import ReturnWeights, monte_carlo_targets, success_unexplored
from ippo_trainer.qfit.trainer import FitSettings
from ippo_trainer.stages.device import device_of, precision_for
from ippo_trainer.stages.logged import Separation, finished, read_logged
from ippo_trainer.stages.q_layer import fit_layer, logs_of, ranks_of, render, standard_error
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.train import several, stop_together, train
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import check_contexts
from ippo_trainer.training.distributed import Ranks

_MORE_LOGGED = "Log more conversations; `ippo check-log` says about how many Q needs."
_MORE_DATA = (
    "Collect more conversations (collect.simulate.conversations; of a live run collect.logged.minConversations), or "
    "let the policy explore (collect.simulate.exploration; personas)."
)


@dataclass(frozen=True, slots=True)
class _Data:
    """The policy's conversations; those that can be learnt from are split by conversation."""

    everything: list[Conversation]
    train: list[Conversation]
    held: list[Conversation]
    weights: ReturnWeights
    """Of everything."""

    @property
    def explored_share(self) -> float:
        """Of turns."""
        return foreign_share(self.everything, lambda turn: not explored(turn))

    @property
    def censored(self) -> int:
        """Conversations whose end is not known."""
        return sum(each.censored for each in self.everything)


def run(ctx: StageContext) -> StageResult:
    """Fits Q, publishes it with its calibration, and says whether it is informative.

    Raises:
        BadSpecError: no `fitQ` section, an input that is not named, or a device that is not there.
        BadDataError: nothing can be learnt from the data; the message says why.
        StoppedError: told to stop; the next attempt resumes.
    """
    fit_q = ctx.spec.fit_q
    if fit_q is None:
        raise BadSpecError("stage spec: fitQ is missing", "Add the section.")
    fit_q = fit_q.resolved()
    device = device_of(ctx.spec)
    policy = load_policy(ctx.input("policy", "policy"), device, SHORT)
    renderer = Renderer.load(policy.directory, policy.tokenizer)
    ranks_of(fit_q, policy.model)  # before hours of training
    data = _read(ctx, fit_q)
    _report_exploration(ctx, data)
    check_contexts(renderer, data.everything)
    split = Split(render(ctx, data.train, renderer), render(ctx, data.held, renderer), data.everything)
    model = _model(ctx, fit_q, policy)
    logs = logs_of(ctx, split, data.weights.censoring, renderer) if ranks_of(fit_q, policy.model) else []
    features = empty_features(model.config.hidden_size, logs)
    with several(ctx, model) as ranks:
        procedure = _procedure(ctx, fit_q, (policy, model), split, ranks)
        train(ctx, procedure, "fitting Q", ranks)
        for _ in fill_features(procedure.model, logs, features, procedure.settings.max_tokens, ranks):
            stop_together(ctx, ranks)
    layer = fit_layer(ctx, fit_q, procedure, logs, features) if logs else None
    q, v = read_all(procedure.model, split.held.examples, procedure.settings.max_tokens, device)
    confidence = confidence_of(ctx.spec.collection or 1)
    calibration = assess(data.held, q, v, mean_return(data.train, data.weights), data.weights, confidence)
    comparison = _comparison(ctx, data, procedure, renderer)
    error = standard_error(procedure, layer)
    metrics = (
        calibration.metrics()
        | _counts(data, procedure, ctx.spec.inputs["policy"].digest)
        | (comparison.metrics() if comparison else {})
    )
    metrics |= {} if error is None else {"qStandardError": error}
    account = calibration.to_json(procedure.curves) | {
        "exact": comparison.to_json() if comparison else None,
        "standard_error": error,
        "censoring": _censoring_account(data),
        # Whoever uses this Q must keep its hands off the same conversations.
        "split": {"holdout": fit_q.holdout, "seed": _separation(ctx, fit_q).seed},
    }
    ref = ctx.publish(ctx.folder, _write(ctx, (procedure.model, layer), account, policy, renderer), "q")
    return ctx.result(
        artifacts={"q": ref},
        metrics=metrics,
        informative=calibration.informative,
        message=_message(calibration, data, confidence),
    )


def _read(ctx: StageContext, fit_q: params.FitQ) -> _Data:
    """Reads the turns, leaves out what has no return, and splits. Raises BadDataError where nothing can be learnt."""
    everything = read_logged(ctx, fit_q)
    if all(each.censored for each in everything):
        raise BadDataError(
            f"all {len(everything)} conversations are censored: none has a known outcome",
            "Wait until conversations end.",
        )
    count = len(finished(everything))
    if count < LEAST_FINISHED:
        raise BadDataError(f"{count} finished conversations are fewer than {LEAST_FINISHED}", _more(everything))
    train, held = map(finished, _separation(ctx, fit_q).sides(everything))
    data = _Data(everything, train, held, ReturnWeights.of(everything, float(ctx.spec.discount)))
    _check(data)
    _report_censoring(ctx, data)
    return data


def _more(conversations: Sequence[Conversation]) -> str:
    """What to do where there are too few."""
    logged = any(turn.behaviour == "log" for each in conversations for turn in each.turns)
    return _MORE_LOGGED if logged else _MORE_DATA


def _report_censoring(ctx: StageContext, data: _Data) -> None:
    """Says what the open conversations may hide."""
    if not data.censored:
        return
    bounds = outcome_bounds(data.everything)
    ctx.warn(
        f"{data.censored} of {len(data.everything)} conversations are censored: finished ones stand in for them, "
        "weighted by turn as if being cut off had nothing to do with the end; "
        f"whatever became of them, success is between {bounds.low:.2%} and {bounds.high:.2%}"
    )
    if data.weights.censoring.unseen:
        ctx.warn(
            "nobody saw the end of conversations that go on longer than the longest finished ones, an estimated "
            f"{data.weights.censoring.unseen:.1%} of all: no weight makes up for them, and Q is one of the others"
        )


def _separation(ctx: StageContext, fit_q: params.FitQ) -> Separation:
    """Into training and held-out conversations, the same in every iteration."""
    return Separation(float(fit_q.holdout), derive_seed(ctx.spec.seed, "holdout"))


def _check(data: _Data) -> None:
    if len(data.train) < 2 or len(data.held) < 2:
        raise BadDataError(
            f"{len(data.train)} training and {len(data.held)} held-out conversations: at least 2 of each are needed",
            "Collect more conversations, or set fitQ.holdout between 0.05 and 0.5.",
        )
    _check_displayed(data)
    outcomes = sum(each.outcome for each in data.train)
    if not outcomes:
        raise BadDataError(f"none of the {len(data.train)} training conversations has the outcome", _more(data.train))
    returns = {target.value for each in data.train for target in monte_carlo_targets(each, data.weights)}
    if len(returns) == 1:
        raise BadDataError(
            f"all {len(data.train)} training conversations have the outcome at every turn alike: there is one class",
            "Check how outcomes are labelled; a discount below 1 would tell quick outcomes from slow ones.",
        )


def _check_displayed(data: _Data) -> None:
    """What the business never saw teaches nothing about suggestions, and what explored nothing about the policy. Raises
    BadDataError where little else is there."""
    if data.explored_share == 1.0:
        raise BadDataError(
            "every turn explored: no return belongs to the current policy", "Set collect.simulate.exploration below 1."
        )
    counts = []
    for side in (data.train, data.held):
        targets = (monte_carlo_targets(each, data.weights) for each in side)
        counts.append(sum(any(target.weight > 0 for target in row) for row in targets))
    if min(counts) < 2:
        raise BadDataError(
            f"{counts[0]} training and {counts[1]} held-out conversations have a displayed suggestion whose return is "
            "the policy's own: at least 2 of each are needed",
            f"See that the environment displays suggestions. {_MORE_DATA}",
        )


def _report_exploration(ctx: StageContext, data: _Data) -> None:
    """Says how much of the data Monte Carlo can use."""
    if data.explored_share == 0.0:
        return
    weights = [target.weight for each in data.train for target in monte_carlo_targets(each, data.weights)]
    clean = sum(weight > 0 for weight in weights)
    ctx.log.info(
        "%.1f%% of the turns explored: Monte Carlo uses the %d of %d training turns that nothing explored after, "
        "worth %.0f equal ones; lambda-returns (fitQ.traceLambda below 1) use all",
        100 * data.explored_share,
        clean,
        len(weights),
        sum(weights) ** 2 / sum(weight * weight for weight in weights),
    )


def _seed(ctx: StageContext) -> int:
    return derive_seed(ctx.spec.seed, FIT_Q, ctx.spec.iteration)


def _model(ctx: StageContext, fit_q: params.FitQ, policy: LoadedPolicy) -> Any:
    """The Q model to train."""
    device = next(policy.model.parameters()).device
    if fit_q.init_from == "PreviousQ" and "previousQ" in ctx.spec.inputs:
        model = load_q(ctx.input("previousQ", "q"), device, policy.model)
        attach(model, None)  # what is trained is the trunk, through its own head
        if model.config.vocab_size != policy.model.config.vocab_size:
            raise BadDataError(
                f"the previous Q has {model.config.vocab_size} tokens, the policy {policy.model.config.vocab_size}",
                "Set fitQ.initFrom to Policy.",
            )
        return model
    return new_q(policy.model, derive_seed(_seed(ctx), "head"))


def _procedure(
    ctx: StageContext, fit_q: params.FitQ, models: tuple[LoadedPolicy, Any], split: Split, ranks: Ranks
) -> Procedure:
    """Of the policy and the Q model."""
    policy, model = models
    precision = precision_for(ctx.spec, next(model.parameters()).device)
    settings = FitSettings(
        epochs=fit_q.value("epochs"),
        patience=fit_q.patience,
        learning_rate=float(fit_q.value("learning_rate")),
        batch_size=fit_q.batch_size,
        lm_loss_weight=float(fit_q.lm_loss_weight),
        discount=float(ctx.spec.discount),
        trace_lambda=float(fit_q.trace_lambda),
        seed=_seed(ctx),
    )
    head = language_head(policy.model, model) if settings.lm_loss_weight > 0 else None
    for part in (model, head) if head is not None else (model,):
        halves.halve(part, precision.dtype)
    budget = budget_of(model, settings.max_tokens, trained=1)
    if budget.recompute:
        recompute(decoder(model))
    return Procedure(model, head, replace(settings, max_tokens=budget.tokens), split, ranks)


def _counts(data: _Data, procedure: Procedure, digest: str) -> dict[str, float]:
    conversations = data.train + data.held
    return (
        {
            "conversations": float(len(conversations)),
            "censored": float(data.censored),
            "positives": float(sum(each.outcome for each in conversations)),
            "exploredShare": data.explored_share,
            "epochs": float(len(procedure.curves)),
        }
        | _success_bounds(data)
        | _success_unexplored(data)
        | _of_several_writers(data, digest)
    )


def _of_several_writers(data: _Data, digest: str) -> dict[str, float]:
    """How far the data are another's: share of others' turns, and how many equal turns the returns are worth that are
    the policy's own. Nothing where all turns are."""
    turns = [turn for each in data.everything for turn in each.turns]
    # A persona has a name, too, but it is this policy.
    foreign = sum(explored(turn) and turn.writer != "" and turn.policy_digest != digest for turn in turns)
    if not foreign:
        return {}
    weights = [target.value_weight for each in data.train for target in monte_carlo_targets(each, data.weights)]
    squares = sum(weight * weight for weight in weights)
    return {
        "foreignShare": foreign / len(turns),
        "effectiveOwnTurns": sum(weights) ** 2 / squares if squares else 0.0,
    }


def _success_unexplored(data: _Data) -> dict[str, float]:
    """What exploring costs the business shows beside the success of collect; nothing where nothing explored."""
    success = success_unexplored(data.everything, data.weights) if data.explored_share > 0 else None
    return {} if success is None else {"successUnexplored": success}


def _success_bounds(data: _Data) -> dict[str, float]:
    """Of the log, whatever became of its open conversations; nothing where there are none."""
    bounds = outcome_bounds(data.everything)
    return {"successAtLeast": bounds.low, "successAtMost": bounds.high} if data.censored else {}


def _comparison(ctx: StageContext, data: _Data, procedure: Procedure, renderer: Renderer) -> Comparison | None:
    """Against the exact Q; None where the environment does not know it."""
    environment = load_environment(ctx.spec.environment) if ctx.spec.environment else None
    if not isinstance(environment, ExactScorer):
        return None
    states = exact_states(environment, data.train, data.held, float(ctx.spec.discount))
    if states is None:
        return None
    readings = read_intents(procedure.model, renderer, environment, states, procedure.settings.max_tokens)
    return comparison_of(environment, states, *readings)


def _censoring_account(data: _Data) -> dict[str, Any] | None:
    """What the open conversations may hide; None where there are none."""
    if not data.censored:
        return None
    return {
        "conversations": len(data.everything),
        "censored": data.censored,
        "unseen": data.weights.censoring.unseen,
        "successBounds": outcome_bounds(data.everything).to_json(),
    }


def _write(
    ctx: StageContext,
    q: tuple[Any, LastLayer | None],
    account: dict[str, Any],
    policy: LoadedPolicy,
    renderer: Renderer,
) -> Path:
    """The weights as transformers knows them, and beside them the last layer that `load_q` puts on."""
    directory, (model, layer) = ctx.work / "q", q
    attach(model, None)
    halves.unite(model)
    save_policy(directory, model, policy.tokenizer, renderer)
    if layer is not None:
        save(directory, layer)
    (directory / CALIBRATION).write_text(json.dumps(account, indent=1, allow_nan=False) + "\n", "utf-8")
    return directory


def _message(calibration: Calibration, data: _Data, confidence: float) -> str:
    skill, slope = calibration.skill, calibration.slope
    level = f"{100 * confidence:.4g}% intervals"
    figures = (
        f"slope of the returns on Q {slope.estimate:.2f} ({slope.low:.2f} to {slope.high:.2f}), "
        f"skill {skill.estimate:.2%} ({skill.low:.2%} to {skill.high:.2%}; {level})"
    )
    where = f"on {len(data.held)} held-out conversations, {sum(each.outcome for each in data.held)} with the outcome"
    if data.censored:
        where += f"; {data.censored} of {len(data.everything)} conversations are censored and weighted for"
    if calibration.informative:
        return f"Q tells more than a constant: {figures} {where}."
    if calibration.slope.low > 0.0:
        remedy = "Q exaggerates what it knows: lower fitQ.learningRate or fitQ.epochs, or raise fitQ.ridge."
        return f"a constant predicts better than Q, so it must not be optimised: {figures} {where}. {remedy}"
    return f"Q does not tell more than a constant, so it must not be optimised: {figures} {where}. {_more(data.held)}"
