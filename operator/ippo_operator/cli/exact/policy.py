"""A trained policy holds conversations in an environment and is scored against the exact solution."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ippo_trainer.contract.digests import derive_seed

from ippo_operator.cli.errors import CommandError

if TYPE_CHECKING:
    from ippo_trainer.environments.checked import CheckedEnvironment

_BATCH = 1000


def score(
    environment: "CheckedEnvironment", path: Path, count: int, discount: float, seed: int, new_tokens: int
) -> dict[str, Any]:
    """Value and success by the performance-difference estimate, with standard errors and where value is lost.

    Args:
        environment: one that can be solved exactly.
        path: folder of a policy artifact.
        count: of conversations that the policy holds; the standard error falls with its square root.
        discount: per turn.
        seed: of the conversations.
        new_tokens: after so many a suggestion is cut off, as spec.policy.maxNewTokens.

    Raises:
        StageError: a policy or an environment that cannot be used.
    """
    if not path.is_dir():
        raise CommandError(f"{path}: no such folder; give that of a policy artifact, e.g. DIR/artifacts/iterations/…")
    from ippo_trainer.engines.transformers_sampler import TransformersSampler
    from ippo_trainer.environments import ExactScorer
    from ippo_trainer.environments.rollout import Batch, PolicyAgent, rollout
    from ippo_trainer.models.load import load_policy
    from ippo_trainer.text.render import Renderer
    from ippo_trainer.training.progress import ProgressBar

    policy = load_policy(path)
    renderer = Renderer.load(path, policy.tokenizer)
    agent = PolicyAgent(TransformersSampler(policy.model), renderer, str(path), new_tokens, temperature=1.0)
    seeds = [derive_seed(seed, "exact", number) for number in range(count)]
    conversations = []
    bar = ProgressBar(count, "scoring", "conversations")
    with bar:
        for start in range(0, count, _BATCH):
            batch = seeds[start : start + _BATCH]
            names = [f"exact-{start + index:07d}" for index in range(len(batch))]
            conversations += rollout(environment, agent, Batch(batch, names), bar.update).conversations
    if not isinstance(environment, ExactScorer):
        raise TypeError("the environment cannot be solved exactly")
    return environment.score(conversations, discount).to_json()
