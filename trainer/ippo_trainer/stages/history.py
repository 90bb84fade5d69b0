"""Stage `collect` where a log is there already: its conversations, as turns with outcomes, in files of bounded size."""

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ippo_trainer.contract.digests import canonical_json, file_sha256
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.fields import window_seconds
from ippo_trainer.contract.layout import LOG
from ippo_trainer.contract.params import LogHistory
from ippo_trainer.contract.spec import StageResult, StoreLocation
from ippo_trainer.data.counts import shares
from ippo_trainer.data.logs import LogReader
from ippo_trainer.data.outcomes import Outcomes
from ippo_trainer.data.problems import Problems
from ippo_trainer.data.reaction_file import Reactions
from ippo_trainer.data.server_log import is_segment, segments_in, write_served
from ippo_trainer.data.survey import Account
from ippo_trainer.data.turns import iter_turns
from ippo_trainer.stages.keeping import Keeper
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.tally import Import, pieces
from ippo_trainer.store.uri import fetch_directory, fetch_file, is_directory

KIND = "data"
_STATE = "history.json"


@dataclass
class _Progress(Import):
    """Of a log."""

    reader: dict[str, Any] | None = None
    """Where the reader of the log stood after the last of the files."""
    matches: int = 0
    """Conversations that the file of outcomes names."""
    log: str = ""
    """Digest of the log, where it is made of segments: more of them may come while an import waits to go on."""


@dataclass(frozen=True)
class LocalLog:
    """A log as one file here."""

    path: Path
    digest: str = ""
    """Where it was made of segments."""
    left_out: Counter[str] = field(default_factory=Counter)
    notices: Problems | None = None
    """Of the file of reactions, if there is one: what is worth a look."""


FIELDS = ("collect.history.conversations", "collect.history.reactions")


def local_log(
    uri: str,
    directory: Path,
    place: StoreLocation,
    reactions: str | None = None,
    fields: tuple[str, str] = FIELDS,
) -> LocalLog:
    """A log that is a file, or one file made of the segments in a folder.

    Args:
        uri: of the log.
        directory: receives what has to be written; made if need be.
        place: as `fetch_file` takes it.
        reactions: of what became of suggestions; None for none.
        fields: what names the two, for errors.

    Raises:
        BadSpecError: a place that cannot be read.
        BadDataError: what is there is no log, or reactions that do not belong to it.
    """
    where, other = fields
    if not is_directory(uri, where):
        if reactions is not None:
            raise BadSpecError(
                f"{other} belongs to a folder of served suggestions, and {uri} is a file",
                "Write reactions into the log, or give the folder that ippo-serve --log had.",
            )
        return LocalLog(fetch_file(uri, directory, place, where))
    keys = fetch_directory(uri, directory / "segments", place, where, selection=lambda names: filter(is_segment, names))
    rows = None
    if reactions is not None:
        rows = Reactions(fetch_file(reactions, directory / "reactions", place, other))
    target = directory / "served.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    left_out = write_served(segments_in(keys), target, directory / "parts", rows)
    if rows is not None and (others := rows.check()):
        left_out["reactions to no suggestion of the log"] += others
    return LocalLog(target, file_sha256(target), left_out, None if rows is None else rows.notices)


def run(ctx: StageContext, section: LogHistory) -> StageResult:
    """Publishes the log's conversations as the data of the iteration.

    Raises:
        BadSpecError: a place that cannot be read.
        BadDataError: a log or outcomes that are wrong; all that is wrong comes at once.
        StoppedError: told to stop; the next attempt goes on where this one was.
    """
    place = ctx.spec.store
    source = local_log(section.conversations, ctx.work / "log", place, section.reactions)
    log, outcomes = source.path, None
    if section.outcomes is not None:
        window = None if section.window is None else window_seconds(section.window)
        path = fetch_file(section.outcomes, ctx.work / "outcomes", place, "collect.history.outcomes")
        outcomes = Outcomes(path, window)
    state = _resume(ctx, source.digest)
    if outcomes is not None:
        outcomes.matches = state.matches
    reader = LogReader(log, "collect.history.conversations", state.reader)
    if state.reader is None:
        reader.omissions.update(source.left_out)
    account = Account(reader, outcomes, source.notices, time.time())
    for conversation in iter_turns(sorted(state.directory.glob("*.parquet"))):
        account.sums.add(conversation)  # those of the attempts before
    _import(ctx, state, account, outcomes)
    _tell(ctx, account)
    (state.directory / LOG).write_bytes(canonical_json(account.figures()))
    counts = state.tally.counts
    published = ctx.publish(ctx.folder, state.directory, KIND, state.tally.metadata())
    finished = counts["conversations"] - counts["censored"]
    message = (
        f"{counts['conversations']} conversations of {log.name}, {counts['outcomes']} of {finished} with the outcome."
    )
    return ctx.result(artifacts={KIND: published}, metrics=shares(counts), message=message)


def _import(ctx: StageContext, state: _Progress, account: Account, outcomes: Outcomes | None) -> None:
    """Writes what the reader has not had yet; raises all that is wrong at the end."""
    reader = account.reader
    keeper = Keeper(ctx, lambda _: _save(ctx, state))
    with (
        ctx.progress(reader.size, f"reading {reader.path.name}", "bytes", initial=reader.bytes) as shown,
        keeper.holding(),
    ):
        for piece in pieces(account.conversations()):
            with ctx.stop.deferred():
                state.write(piece)
                state.reader, state.matches = reader.position(), outcomes.matches if outcomes is not None else 0
            shown.update(reader.bytes - shown.count, conversations=state.tally.counts["conversations"])
            if not reader.problems.total:  # else nothing of it will ever be published
                keeper.note(None)
        shown.update(reader.size - shown.count)
    account.close()
    reader.problems.check()


def _tell(ctx: StageContext, account: Account) -> None:
    """What a user ought to know of a log that can be read."""
    for kind in (*account.notices(), *account.clock_notices()):
        ctx.warn(f"{account.reader.path.name}: {kind.words()}")
    for text in account.reader.left_out():
        ctx.warn(text)


def _resume(ctx: StageContext, log: str) -> _Progress:
    state = _Progress(ctx.work / "turns", _STATE, log=log)
    content = state.resume(ctx)
    if content is None:
        return state
    if content.get("log", "") != log:
        ctx.warn("the folder of served suggestions has grown since this import began: it begins anew")
        shutil.rmtree(state.directory)
        state.directory.mkdir()
        return _Progress(state.directory, _STATE, log=log)
    state.reader, state.matches = content["reader"], content["matches"]
    ctx.log.info("resumed after %d conversations", state.tally.counts["conversations"])
    return state


def _save(ctx: StageContext, state: _Progress) -> None:
    log = {"log": state.log} if state.log else {}
    state.save(ctx, {"reader": state.reader, "matches": state.matches, **log})
