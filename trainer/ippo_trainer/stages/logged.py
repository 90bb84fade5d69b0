"""The logged conversations of the current policy, as fit-q, improve and evaluate read them: the same, split alike."""

from collections.abc import Sequence

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.own import own_part
from ippo_trainer.data.returns import uncensored
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.splits import split
from ippo_trainer.data.turns import read_turns
from ippo_trainer.stages.runtime import StageContext


def read_logged(ctx: StageContext) -> list[Conversation]:
    """The input `data`, without turns after the outcome and without what another than the input `policy` said.

    Raises:
        BadSpecError: an input that is not named.
        BadDataError: unusable turns, or none of them is the policy's own.
    """
    everything = read_turns(sorted(ctx.input("data", "data").rglob("*.parquet")))
    digest = ctx.spec.inputs["policy"].digest
    part = own_part(everything, digest)
    if not part.conversations:
        raise BadDataError(
            f"none of the {len(everything)} conversations was held by the policy {digest[:19]}",
            "Collect with this policy; column 'policy_digest' says who suggested what.",
        )
    if part.others or part.handed_over:
        ctx.warn(
            f"{part.others} of {len(everything)} conversations were held by another policy and are left out; "
            f"{part.handed_over} changed hands and count as censored there"
        )
    return part.conversations


def finished(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Those with a known end and a turn before it: what Q is fitted to and held out of."""
    return [each for each in uncensored(conversations) if each.turns]


def split_finished(
    conversations: Sequence[Conversation], holdout: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(training, held out), each in the order given. Every stage that is told fit-q's share and seed splits alike."""
    by_id = {each.id: each for each in finished(conversations)}
    train, held = split(list(by_id), holdout, seed)
    return [by_id[name] for name in train], [by_id[name] for name in held]
