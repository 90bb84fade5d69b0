"""What `ippo erase` does, wherever the run is, and what it prints."""

import time
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ippo_trainer.contract.lines import one_line
from ippo_trainer.contract.spec import StoreLocation

from ippo_operator.api.status import RunStatus

if TYPE_CHECKING:
    from ippo_trainer.live.erase import Erasure

_WEIGHTS = ("policy", "q")
"""Kinds of artifacts that hold numbers, and no texts."""


def erase(arguments: Namespace, location: StoreLocation, status: RunStatus) -> None:
    """Erases, and prints the account. Raises StageError."""
    from ippo_trainer.live import erase as live
    from ippo_trainer.store import open_store

    store = open_store(location)
    erasure = live.erase(store, arguments.conversation, time.time(), arguments.dry_run)
    current = status.policy.artifact.digest if status.policy is not None else ""
    print("\n".join(lines(erasure, one_line(arguments.conversation, 100), arguments.dry_run, current)))


def lines(erasure: "Erasure", name: str, dry_run: bool, current: str) -> Iterator[str]:
    """The account in words.

    Args:
        erasure: what was done, or would be.
        name: of the conversation.
        dry_run: whether it only would be.
        current: digest of the run's policy.
    """
    done = "would be erased" if dry_run else "erased"
    yield f"{name}: {erasure.events} events in {len(erasure.segments)} segments {done}"
    if not dry_run:
        yield "Gateways may hold more that is not in the store yet: run the same command again once they have put it."
    if not erasure.artifacts:
        yield "No data of the run hold it, so nothing has learnt from it."
        return
    yield "The run's artifacts that hold it or were made of what does:"
    for each in erasure.artifacts:
        mark = "  the current policy" if each.digest == current else ""
        yield f"  {each.kind:10}  {each.key}{mark}"
    texts = sorted({each.kind for each in erasure.artifacts if each.kind not in _WEIGHTS})
    yield f"Of these, {', '.join(texts)} may hold its texts: delete these folders; nothing but a repetition reads them."
    if any(each.kind in _WEIGHTS for each in erasure.artifacts):
        yield (
            "Its outcome went into the numbers of q and policy: to be rid of that too, start a new run with the policy "
            "of an iteration before as policy.base, and delete the rest of these folders."
        )
