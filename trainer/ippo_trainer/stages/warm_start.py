"""Stage `warm-start`: the first policy, a base model that learnt from logged conversations what the business writes.

Without a `warmStart` section the base is taken as it is. The artifact, of kind `policy`, is a transformers directory
with `prompt.json` (how states are rendered) and `training.json` (the loss curve).
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import TRAINING
from ippo_trainer.contract.params import Adapter, WarmStart
from ippo_trainer.contract.spec import StageResult
from ippo_trainer.contract.stages import WARM_START
from ippo_trainer.data.context import TOOLS, kinds_in
from ippo_trainer.data.logs import read_log
from ippo_trainer.data.own import by_writers, own_part, writer_of
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.environments.protocol import Environment
from ippo_trainer.models import adapters
from ippo_trainer.models.attention import limits
from ippo_trainer.models.files import loaded_files, unheeded
from ippo_trainer.models.load import build_tiny, check_context, load_policy, save_policy
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.sizing import PROBES
from ippo_trainer.sft.trainer import SupervisedFit, SupervisedSettings
from ippo_trainer.stages.base_model import is_policy
from ippo_trainer.stages.device import device_of
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.train import several, train
from ippo_trainer.store.uri import fetch_file
from ippo_trainer.text.chat import MARKED
from ippo_trainer.text.render import PromptTooLongError, Renderer
from ippo_trainer.text.rows import Row, check_contexts, training_rows
from ippo_trainer.text.tokenizer import build_tokenizer

_CURVE_POINTS = 200
_MANY_UNENDED = 0.1
_NAMED = 3


@dataclass
class _Base:
    model: Any
    tokenizer: Any
    renderer: Renderer
    is_policy: bool = False
    """Whether it was a run's, which has met the notes in prompts."""


def run(ctx: StageContext) -> StageResult:
    """Trains and publishes the first policy.

    Raises:
        BadSpecError: no or two sources of conversations, a base or environment that cannot be what it should,
            or a device that is not there.
        BadDataError: a log or base model that is wrong, or a loss that is no longer finite.
        StoppedError: told to stop; a checkpoint is saved.
    """
    spec = ctx.spec
    environment = ctx.environment() if spec.environment else None
    system_prompt = spec.policy.system_prompt or (getattr(environment, "system_prompt", "") if environment else "")
    settings = spec.warm_start
    if settings:
        device_of(spec)  # before the base is downloaded
    conversations = _conversations(ctx, settings, environment) if settings else []
    base = _base(ctx, conversations, system_prompt)
    losses: list[float] = []
    metrics: dict[str, float] = {}
    if settings:
        rows = _rows(ctx, settings, base, conversations)
        fit = _train(ctx, settings, base, rows)
        losses, new = fit.losses, fit.new_loss()
        metrics = {
            "conversations": float(len(conversations)),
            "tokens": float(sum(sum(row.response_mask) for row in rows)),
            "updates": float(len(losses)),
            "loss": _mean(losses[-max(1, len(losses) // 20) :]),
            "unended": _unended(ctx, base, conversations),
        } | ({} if new is None else {"heldOutPerplexity": math.exp(new)})
        if new is not None:
            _check_imitation(ctx, rows, new)
    elif base.renderer.history_format == MARKED and not base.is_policy:
        ctx.warn(
            "there is no warmStart, so the base has never met the notes in its prompts ([accepted], [edited], "
            "[rejected], [abstain]) and does not know what they mean: collect with it will be worse than it could be. "
            "policy.historyFormat: Plain leaves the notes out"
        )
    if ctx.spec.policy.adapter is not None and not adapters.is_adapted(base.model):
        # A tiny model has no words before its warm start, so that makes the base.
        _adapt(ctx, ctx.spec.policy.adapter, base, lambda place: _save_whole(base, place))
    directory = ctx.work / "policy"
    save_policy(directory, base.model.cpu(), base.tokenizer, base.renderer)
    training = {"kind": WARM_START, "curves": _curve(losses)}
    (directory / TRAINING).write_text(json.dumps(training, indent=1) + "\n")
    reference = ctx.publish(ctx.folder, directory, "policy")
    return ctx.result(artifacts={"policy": reference}, metrics=metrics)


def _conversations(ctx: StageContext, settings: WarmStart, environment: Environment | None) -> list[Conversation]:
    """The log, or demonstrations of the environment."""
    if (settings.conversations is None) == (settings.demonstrations is None):
        raise BadSpecError(
            "warmStart needs exactly one of conversations and demonstrations", "Set one, leave the other out."
        )
    if settings.conversations is not None:
        path = fetch_file(settings.conversations, ctx.work / "log", ctx.spec.store, "warmStart.conversations")
        conversations = read_log(path, ctx.warn)
        if settings.writers is not None:
            conversations = _written_by(ctx, conversations, settings.writers)
        won = sum(conversation.outcome for conversation in conversations)
        ctx.log.info("%d conversations in %s, %d with the outcome", len(conversations), path.name, won)
        if won in {0, len(conversations)}:
            ctx.warn(
                f"{path.name}: {'every' if won else 'no'} conversation has the outcome. The warm start only imitates, "
                "but a policy that never or always reaches it teaches Q nothing: check how the log says outcome"
            )
        return conversations
    if environment is None or ctx.spec.environment is None:
        raise BadSpecError(
            "warmStart.demonstrations needs an environment to hold them",
            "Give warmStart.conversations, a log, instead.",
        )
    assert settings.demonstrations is not None
    seeds = [derive_seed(ctx.spec.seed, WARM_START, index) for index in range(settings.demonstrations)]
    with ctx.progress(len(seeds), "demonstrations", "conversations") as bar:
        return demonstrate(environment, seeds, ctx.spec.environment.name, bar.update)


def _written_by(ctx: StageContext, conversations: list[Conversation], writers: tuple[str, ...]) -> list[Conversation]:
    """What these writers wrote, up to where somebody else went on."""
    part = own_part(conversations, by_writers(writers))
    if not part.conversations:
        present = sorted({writer_of(turn) for conversation in conversations for turn in conversation.turns})
        raise BadDataError(
            f"warmStart.writers began none of the {len(conversations)} conversations; the log names "
            + ", ".join(f"{name!r:.80}" for name in present[:_NAMED]),
            "Name some of these, or leave writers out.",
        )
    if part.others or part.handed_over:
        ctx.warn(
            f"{part.others} of {len(conversations)} conversations were begun by other writers and are not imitated; "
            f"{part.handed_over} are up to where another writer went on"
        )
    return part.conversations


def _base(ctx: StageContext, conversations: list[Conversation], system_prompt: str) -> _Base:
    """The model to start from: a new tiny one with a tokenizer made from the log, or the user's own."""
    policy = ctx.spec.policy
    loaded = None
    if policy.base.startswith("tiny:"):
        if not conversations:
            raise BadSpecError(
                f"policy.base {policy.base} has no words of its own and there is no warmStart",
                "Add warmStart.conversations or warmStart.demonstrations.",
            )
        tokenizer: Any = build_tokenizer(_texts(conversations, system_prompt), tools=TOOLS in kinds_in(conversations))
        model = build_tiny(policy.base, tokenizer, derive_seed(ctx.spec.seed, WARM_START, "weights"))
    else:
        device = device_of(ctx.spec) if ctx.spec.warm_start else "cpu"
        loaded = load_policy(ctx.base(), device, policy.max_prompt_tokens + policy.max_new_tokens)
        for line in unheeded(loaded.directory):
            ctx.warn(f"policy.base: {line}")
        model, tokenizer = loaded.model, loaded.tokenizer
    check_context(model.config, policy.max_prompt_tokens, policy.max_new_tokens)
    if policy.adapter is not None:
        adapters.check(model, policy.adapter)
    renderer = Renderer(
        tokenizer,
        system_prompt,
        policy.max_prompt_tokens,
        in_steps=True,
        history_format=policy.history_format or MARKED,
        reads=kinds_in(conversations, system_prompt),
    )
    base = _Base(model, tokenizer, renderer, loaded is not None and is_policy(loaded.directory))
    if policy.adapter is not None and loaded is not None:
        names = [path.relative_to(loaded.directory).as_posix() for path in loaded.directory.rglob("*")]
        _adapt(ctx, policy.adapter, base, lambda place: _copy(loaded.directory, loaded_files(names), place))
    return base


def _adapt(ctx: StageContext, adapter: Adapter, base: _Base, write: Callable[[Path], None]) -> None:
    """Publishes the base, which stays as it is from now on, and puts a new adapter on it.

    Args:
        write: its files, into a directory that is not there yet.
    """
    directory = ctx.work / "base-artifact"
    write(directory)
    reference = ctx.publish_base(directory)
    shutil.rmtree(directory)
    model = adapters.add(adapters.share(base.model), adapter, derive_seed(ctx.spec.seed, WARM_START, "adapter"))
    adapters.name_base(model, reference)
    base.model = adapters.trainable(model)


def _copy(source: Path, names: Iterable[str], directory: Path) -> None:
    """Links, where the file system can: a base may be large."""
    for name in names:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link((source / name).resolve(), target)
        except OSError:
            shutil.copyfile(source / name, target)


def _save_whole(base: _Base, directory: Path) -> None:
    base.model.save_pretrained(directory)
    base.tokenizer.save_pretrained(directory)


def _texts(conversations: list[Conversation], system_prompt: str) -> Iterator[str]:
    """Everything that is ever rendered. The prompt twice: one occurrence makes no word."""
    yield from (system_prompt, system_prompt)
    for conversation in conversations:
        if conversation.context:
            yield conversation.context
        for turn in conversation.turns:
            yield from turn.tool_messages
            yield turn.customer_message
            yield turn.sent_message
            if turn.suggestion is not None:
                yield turn.suggestion


def _rows(ctx: StageContext, settings: WarmStart, base: _Base, conversations: list[Conversation]) -> list[Row]:
    """Training rows; says what did not fit and what will happen to it."""
    policy = ctx.spec.policy
    check_contexts(base.renderer, conversations)
    positions = min((limit.tokens for limit in limits(base.model.config)), default=None)
    choice = settings.on_too_long or "Skip"
    rows: list[Row] = []
    cut: list[str] = []
    long: list[str] = []
    unfit: list[tuple[str, str]] = []
    for conversation in conversations:
        result = training_rows(base.renderer, conversation, choice, positions)
        if result.dropped_turns:
            cut.append(conversation.id)
        if result.longest_response > policy.max_new_tokens:
            long.append(conversation.id)
        unfit += [(f"conversation {conversation.id!r:.80}, turn {turn}", why) for turn, why in result.too_long.items()]
        rows += result.rows
    _report_unseen(ctx, conversations)
    if unfit:
        _tell_unfit(ctx, unfit, sum(len(conversation.turns) for conversation in conversations), bool(rows), choice)
    if long:
        ctx.warn(
            f"{len(long)} of {len(conversations)} conversations hold a suggestion of more than policy.maxNewTokens = "
            f"{policy.max_new_tokens} tokens (first: {long[0]!r:.80}): the policy learns it whole but will be cut off "
            "when it samples one"
        )
    if cut:
        ctx.warn(
            f"{len(cut)} of {len(conversations)} conversations are longer than policy.maxPromptTokens = "
            f"{policy.max_prompt_tokens} tokens (first: {cut[0]!r:.80}): their later prompts lose the oldest turns"
        )
    return rows


def _report_unseen(ctx: StageContext, conversations: list[Conversation]) -> None:
    """Says how many suggestions nobody saw. Raises BadDataError where nothing else is there to imitate."""
    turns = [turn for conversation in conversations for turn in conversation.turns]
    unseen = sum(not turn.displayed for turn in turns)
    if unseen == len(turns):
        raise BadDataError(
            f"none of the {len(turns)} suggestions was displayed: there is nothing to imitate",
            "Set the column 'displayed' to what the business saw.",
        )
    if unseen:
        ctx.warn(f"{unseen} of {len(turns)} suggestions were never displayed: they are not imitated")


def _tell_unfit(ctx: StageContext, unfit: list[tuple[str, str]], turns: int, rows: bool, choice: str) -> None:
    """What became of turns that are too long, given by name and reason."""
    names = "; ".join(name for name, _ in unfit[:_NAMED]) + ("; …" if len(unfit) > _NAMED else "")
    if not rows:
        raise BadDataError(
            f"no turn fits into a prompt. {unfit[0][0]}: {unfit[0][1]}",
            "Raise policy.maxPromptTokens, shorten policy.systemPrompt, or set warmStart.onTooLong: Truncate.",
        )
    what = "are not learnt" if choice == "Skip" else "are cut"
    other = "Truncate" if choice == "Skip" else "Skip"
    ctx.warn(
        f"{len(unfit)} of {turns} turns are too long and {what} ({names}). Of the first, {unfit[0][1]}. Another "
        f"policy.maxPromptTokens, or warmStart.onTooLong: {other}, changes that"
    )


def _check_imitation(ctx: StageContext, rows: list[Row], loss: float) -> None:
    """Says where the policy finds new suggestions no likelier than one does who knows how frequent each token is."""
    tokens = Counter(token for row in rows for token, own in zip(row.ids, row.response_mask, strict=True) if own)
    total = tokens.total()
    entropy = -sum(count / total * math.log(count / total) for count in tokens.values())
    if loss >= entropy:
        ctx.warn(
            f"the policy finds suggestions that it has not learnt yet at a perplexity of {math.exp(loss):.1f} per "
            f"token, and one who knows the frequencies of tokens alone at {math.exp(entropy):.1f}: it does not imitate "
            "these writers, whose outcomes say little of it then. Train longer (warmStart.epochs, learningRate), take "
            "another policy.base, or name fewer writers (warmStart.writers)"
        )


def _train(ctx: StageContext, settings: WarmStart, base: _Base, rows: list[Row]) -> SupervisedFit:
    training = SupervisedSettings(
        epochs=settings.value("epochs"),
        learning_rate=float(settings.value("learning_rate")),
        batch_size=settings.value("batch_size"),
        seed=derive_seed(ctx.spec.seed, WARM_START, "order"),
        pad_id=base.tokenizer.pad_token_id,
    )
    model = base.model.to(device_of(ctx.spec))
    with several(ctx, model) as ranks:
        fit = SupervisedFit(model, rows, training, ranks)
        train(ctx, fit, "warm start", ranks)
    return fit


def _first_prompts(renderer: Renderer, conversations: list[Conversation]) -> Iterator[list[int]]:
    for conversation in conversations:
        with suppress(PromptTooLongError):
            yield renderer.prompt_at(conversation, 0).ids


def _unended(ctx: StageContext, base: _Base, conversations: list[Conversation]) -> float:
    """Share of suggestions, sampled for first customer messages, that did not end within policy.maxNewTokens."""
    prompts = list(islice(_first_prompts(base.renderer, conversations), PROBES))
    keys = [derive_seed(ctx.spec.seed, WARM_START, "probe", index) for index in range(len(prompts))]
    limit, stops = ctx.spec.policy.max_new_tokens, base.renderer.stop_ids
    samples = sample(base.model, prompts, keys, Sampling(1, limit, 1.0, stops, base.tokenizer.pad_token_id))
    share = _mean([0.0 if response.ended else 1.0 for (response,) in samples])
    if share > _MANY_UNENDED:
        ctx.warn(
            f"{100 * share:.0f} % of the suggestions sampled from the trained policy do not end within "
            f"policy.maxNewTokens = {ctx.spec.policy.max_new_tokens}: train it longer (warmStart.epochs, more "
            "conversations) or raise policy.maxNewTokens"
        )
    return share


def _curve(losses: list[float]) -> list[dict[str, float]]:
    """At most 200 points, each the mean of as many updates."""
    width = max(1, -(-len(losses) // _CURVE_POINTS))
    return [
        {"update": min(start + width, len(losses)), "loss": _mean(losses[start : start + width])}
        for start in range(0, len(losses), width)
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
