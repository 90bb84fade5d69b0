"""The stage fit-q: from logged conversations to Q(s, a), with an honest account of what it knows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.spec import StageResult
from ippo_trainer.data.returns import uncensored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.splits import split
from ippo_trainer.data.turns import read_turns
from ippo_trainer.environments import ExactScorer
from ippo_trainer.environments import load as load_environment
from ippo_trainer.models.load import LoadedPolicy, load_policy, load_q, new_q, save_policy
from ippo_trainer.qfit.examples import make_examples
from ippo_trainer.qfit.procedure import Part, Procedure, language_head
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.report import CONFIDENCE, Calibration, advantage_correlation, assess, mean_return
from ippo_trainer.qfit.targets import before_outcome, explored_share, monte_carlo_targets
from ippo_trainer.qfit.trainer import FitSettings
from ippo_trainer.stages.device import device_of
from ippo_trainer.stages.pace import Pace
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.text.render import Renderer

MIN_CONVERSATIONS = 10
_MORE_DATA = "Collect more conversations (collect.conversations), or let the policy explore (collect.exploration)."


@dataclass(frozen=True, slots=True)
class _Data:
    """Conversations that can be learnt from, split by conversation."""

    train: list[Conversation]
    held: list[Conversation]
    censored: int


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
    device = device_of(ctx.spec)
    policy = load_policy(ctx.input("policy", "policy"), device)
    renderer = Renderer.load(policy.directory, policy.tokenizer)
    data = _read(ctx, fit_q)
    _report_exploration(ctx, data, explored_share(data.train + data.held))
    train, held = (_render(ctx, part, renderer) for part in (data.train, data.held))
    procedure = _procedure(ctx, fit_q, policy, train, held)
    _train(ctx, procedure)
    q, v = read_all(procedure.model, held.examples, procedure.settings.max_tokens, device)
    share = procedure.explore_share
    constant = mean_return(data.train, procedure.discount, share)
    calibration = assess(data.held, q, v, constant, procedure.discount, share)
    metrics = calibration.metrics() | _counts(data, procedure)
    correlation = _exact_correlation(ctx, data, q, v)
    if correlation is not None:
        metrics["advantageCorrelation"] = correlation
    ref = ctx.publish(ctx.folder, _write(ctx, fit_q, procedure, calibration, policy, renderer), "q")
    return ctx.result(
        artifacts={"q": ref},
        metrics=metrics,
        informative=calibration.informative,
        message=_message(calibration, data),
    )


def _read(ctx: StageContext, fit_q: params.FitQ) -> _Data:
    """Reads the turns, leaves out what has no return, and splits. Raises BadDataError where nothing can be learnt."""
    directory = ctx.input("data", "data")
    everything = read_turns(sorted(directory.rglob("*.parquet")))
    known = [found for found in map(before_outcome, uncensored(everything)) if found.turns]
    censored = sum(found.censored for found in everything)
    if censored:
        ctx.log.info("%d of %d conversations are censored and left out", censored, len(everything))
    if everything and censored == len(everything):
        raise BadDataError(
            f"all {censored} conversations are censored: none has a known outcome", "Wait until conversations end."
        )
    if len(known) < MIN_CONVERSATIONS:
        raise BadDataError(f"{len(known)} finished conversations are fewer than {MIN_CONVERSATIONS}", _MORE_DATA)
    train_ids, held_ids = split([found.id for found in known], float(fit_q.holdout), holdout_seed(ctx.spec.seed))
    by_id = {found.id: found for found in known}
    data = _Data([by_id[key] for key in train_ids], [by_id[key] for key in held_ids], censored)
    _check(data, float(ctx.spec.discount))
    return data


def holdout_seed(seed: int) -> int:
    """The seed of the split into training and held-out conversations, the same in every iteration and stage."""
    return derive_seed(seed, "holdout")


def _check(data: _Data, discount: float) -> None:
    if len(data.train) < 2 or len(data.held) < 2:
        raise BadDataError(
            f"{len(data.train)} training and {len(data.held)} held-out conversations: at least 2 of each are needed",
            "Collect more conversations, or set fitQ.holdout between 0.05 and 0.5.",
        )
    outcomes = sum(found.outcome for found in data.train)
    if not outcomes:
        raise BadDataError(f"none of the {len(data.train)} training conversations has the outcome", _MORE_DATA)
    returns = {target.value for found in data.train for target in monte_carlo_targets(found, discount, 0.0)}
    if len(returns) == 1:
        raise BadDataError(
            f"all {len(data.train)} training conversations have the outcome at every turn alike: there is one class",
            "Check how outcomes are labelled; a discount below 1 would tell quick outcomes from slow ones.",
        )


def _report_exploration(ctx: StageContext, data: _Data, share: float) -> None:
    """Says how much of the data Monte Carlo can use. Raises BadDataError where nothing is the policy's own."""
    if share == 0.0:
        return
    if share == 1.0:
        raise BadDataError(
            "every turn explored: no return belongs to the current policy", "Set collect.exploration below 1."
        )
    weights = [t.weight for found in data.train for t in monte_carlo_targets(found, float(ctx.spec.discount), share)]
    clean = sum(weight > 0 for weight in weights)
    ctx.log.info(
        "%.1f%% of the turns explored: Monte Carlo uses the %d of %d training turns that nothing explored after, "
        "worth %.0f equal ones; lambda-returns (fitQ.traceLambda below 1) use all",
        100 * share,
        clean,
        len(weights),
        sum(weights) ** 2 / sum(weight * weight for weight in weights),
    )


def _render(ctx: StageContext, conversations: Sequence[Conversation], renderer: Renderer) -> Part:
    examples, dropped = make_examples(conversations, renderer)
    if dropped:
        ctx.log.info("%d old turns did not fit into policy.maxPromptTokens and were dropped from prompts", dropped)
    return Part(conversations, examples)


def _procedure(ctx: StageContext, fit_q: params.FitQ, policy: LoadedPolicy, train: Part, held: Part) -> Procedure:
    seed = derive_seed(ctx.spec.seed, "fit-q", ctx.spec.iteration)
    device = next(policy.model.parameters()).device
    if fit_q.init_from == "PreviousQ" and "previousQ" in ctx.spec.inputs:
        model = load_q(ctx.input("previousQ", "q"), device)
        if model.config.vocab_size != policy.model.config.vocab_size:
            raise BadDataError(
                f"the previous Q has {model.config.vocab_size} tokens, the policy {policy.model.config.vocab_size}",
                "Set fitQ.initFrom to Policy.",
            )
    else:
        model = new_q(policy.model, derive_seed(seed, "head"))
    settings = FitSettings(
        epochs=fit_q.epochs,
        patience=fit_q.patience,
        learning_rate=float(fit_q.learning_rate),
        batch_size=fit_q.batch_size,
        lm_loss_weight=float(fit_q.lm_loss_weight),
        seed=seed,
    )
    head = language_head(policy.model, model) if settings.lm_loss_weight > 0 else None
    return Procedure(model, head, settings, train, held, float(ctx.spec.discount), float(fit_q.trace_lambda))


def _train(ctx: StageContext, procedure: Procedure) -> None:
    """Resumes from the checkpoint, if there is one, and trains to the end, saving after epochs and now and then."""
    if _resume(ctx, procedure):
        ctx.log.info("resumed after %d updates", procedure.updates)
    total = procedure.updates_per_phase * len(procedure.phases)
    with ctx.progress(total, "fitting Q", "updates", initial=procedure.updates) as bar:
        procedure.run(_after_update(ctx, procedure, bar))
        bar.close()


def _after_update(ctx: StageContext, procedure: Procedure, bar: Any) -> Callable[[], None]:
    pace, shown = Pace(), procedure.updates

    def after_update() -> None:
        nonlocal shown
        position = procedure.fit.position
        bar.update(procedure.updates - shown, **_figures(procedure))
        shown = procedure.updates
        if position.batch == 0 or ctx.stop.is_set() or pace.due():
            with pace.saving():
                _save(ctx, procedure)
        ctx.check_stop()

    return after_update


def _figures(procedure: Procedure) -> dict[str, float]:
    position = procedure.fit.position
    figures = {"epoch": float(position.epoch)}
    if position.curves:
        figures["held_out_loss"] = position.curves[-1]["held_out_loss"]
    return figures


def _save(ctx: StageContext, procedure: Procedure) -> None:
    directory = ctx.work / "checkpoint"
    directory.mkdir(exist_ok=True)
    tensors, facts = procedure.state()
    save_file(tensors, directory / "state.safetensors")
    (directory / "state.json").write_text(json.dumps(facts))
    ctx.save_checkpoint(directory, procedure.updates)


def _resume(ctx: StageContext, procedure: Procedure) -> bool:
    directory = ctx.work / "resume"
    if ctx.load_checkpoint(directory) is None:
        return False
    facts = json.loads((directory / "state.json").read_text())
    procedure.restore(load_file(directory / "state.safetensors"), facts)
    return True


def _counts(data: _Data, procedure: Procedure) -> dict[str, float]:
    conversations = data.train + data.held
    return {
        "conversations": float(len(conversations)),
        "censored": float(data.censored),
        "positives": float(sum(found.outcome for found in conversations)),
        "exploredShare": procedure.explore_share,
        "epochs": float(len(procedure.curves)),
    }


def _exact_correlation(ctx: StageContext, data: _Data, q: Any, v: Any) -> float | None:
    if ctx.spec.environment is None:
        return None
    environment = load_environment(ctx.spec.environment)
    if not isinstance(environment, ExactScorer):
        return None
    return advantage_correlation(environment, data.train, data.held, q, v, float(ctx.spec.discount))


def _write(
    ctx: StageContext,
    section: params.FitQ,
    procedure: Procedure,
    calibration: Calibration,
    policy: LoadedPolicy,
    renderer: Renderer,
) -> Path:
    directory = ctx.work / "q"
    save_policy(directory, procedure.model, policy.tokenizer, renderer)
    # Whoever uses this Q must keep its hands off the same conversations.
    separation = {"holdout": section.holdout, "seed": holdout_seed(ctx.spec.seed)}
    content = {**calibration.to_json(procedure.curves), "split": separation}
    (directory / "calibration.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    return directory


def _message(calibration: Calibration, data: _Data) -> str:
    skill = calibration.skill
    figures = f"skill {skill.estimate:.2%} ({CONFIDENCE:.0%} interval {skill.low:.2%} to {skill.high:.2%})"
    where = f"on {len(data.held)} held-out conversations, {sum(found.outcome for found in data.held)} with the outcome"
    if calibration.informative:
        return f"Q tells more than a constant: {figures} {where}."
    return f"Q does not tell more than a constant, so it must not be optimised: {figures} {where}. {_MORE_DATA}"
