"""Checkpoints of conversations that are being held: by time, between turns, and when a stage ends early."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.errors import BadDataError, StageError, TryAgainError
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import read_turns, write_turns
from ippo_trainer.environments.rollout import Newest, OpenBatch
from ippo_trainer.stages.runtime import StageContext
from ippo_trainer.stages.stop import Interrupted
from ippo_trainer.training.cadence import Cadence

_TURNS, _WAITING = "unfinished.parquet", "unfinished.json"


class Keeper:
    """Saves the conversations of a stage.

    Args:
        ctx: of the stage.
        save: makes what there is a checkpoint; it is given the batch that is under way, if one is.
    """

    def __init__(self, ctx: StageContext, save: Callable[[OpenBatch | None], None]) -> None:
        self._ctx, self._write, self._cadence = ctx, save, Cadence()
        self.unfinished: OpenBatch | None = None
        """The batch under way, after its latest turn."""
        self._saved = True

    def note(self, unfinished: OpenBatch | None) -> None:
        """Takes the state after a turn, or after a batch (None). Saves it if that is due; raises if told to stop."""
        self.unfinished, self._saved = unfinished, False
        stopped = self._ctx.stop.is_set()
        if stopped or self._cadence.due():
            self._save()
        self._ctx.check_stop()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Around the conversations: what is there is saved if they end early, and the next attempt goes on from it."""
        try:
            yield
        except (Interrupted, TryAgainError, BadDataError):
            with self._ctx.stop.deferred():
                self._save_at_last()
            raise

    def _save(self) -> None:
        self._saved = True  # also if it fails: nobody waits for a store that is down twice
        with self._cadence.saving():
            self._write(self.unfinished)

    def _save_at_last(self) -> None:
        if self._saved:
            return
        try:
            self._save()
        except StageError as error:
            self._ctx.log.warning("what was held since the last checkpoint is lost: %s", error)


def write_unfinished(directory: Path, unfinished: OpenBatch | None) -> None:
    """Writes a batch under way into a checkpoint's directory; without one, removes what is there."""
    for name in (_TURNS, _WAITING):
        (directory / name).unlink(missing_ok=True)
    if unfinished is not None:
        write_turns(directory / _TURNS, unfinished.conversations)
        waiting = [[slot, *newest] for slot, newest in sorted(unfinished.waiting.items())]
        (directory / _WAITING).write_bytes(canonical_json(waiting))


def read_unfinished(directory: Path) -> OpenBatch | None:
    """What `write_unfinished` left there, which is removed."""
    if not (directory / _WAITING).exists():
        return None
    waiting: Sequence[list[Any]] = json.loads((directory / _WAITING).read_bytes())
    conversations: list[Conversation] = read_turns(directory / _TURNS)
    for name in (_TURNS, _WAITING):
        (directory / name).unlink()
    # Release 0.2 wrote no messages of tools.
    return OpenBatch(conversations, {slot: Newest(message, *map(tuple, tools)) for slot, message, *tools in waiting})
