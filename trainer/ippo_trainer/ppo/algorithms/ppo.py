"""Token-level PPO (arXiv 1707.06347) with a separate critic."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.packing import PackedBatch, hidden_states
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.ppo.control import has_plateaued
from ippo_trainer.ppo.credit import Credit, generalised_advantages, token_rewards
from ippo_trainer.ppo.losses import aggregate, clipped_policy_loss, value_loss
from ippo_trainer.ppo.maths import (
    explained_variance,
    kl_estimate,
    log_ratio,
    masked_mean,
    masked_sum,
    only,
    truncated_importance_weights,
    trusted_sequences,
    whiten,
)
from ippo_trainer.ppo.operators import Experience
from ippo_trainer.ppo.rollout import Part, Rollout
from ippo_trainer.ppo.settings import Settings
from ippo_trainer.training.checkpoint import StatePart, Weights
from ippo_trainer.training.distributed import ALONE, Ranks
from ippo_trainer.training.optimiser import Optimiser

PLATEAU_WINDOW = 3
PLATEAU_TOLERANCE = 0.02


class Critic(nn.Module):
    """The value of the state before each response token, in units of the normalised reward.

    Its trunk starts from Q's, which already tells good states from bad ones; its head starts from zero, because Q's own
    saw ends of responses only.
    """

    def __init__(self, q: Any) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(decoder(q)).requires_grad_(True)
        self.head = nn.Linear(q.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(next(q.parameters()).device)

    def forward(self, packed: PackedBatch) -> Tensor:
        """(T,) values, flat over the response tokens of a packed batch."""
        states = hidden_states(self.trunk, packed)[packed.predict_index]
        values: Tensor = self.head(states.to(self.head.weight.dtype)).squeeze(-1).float()
        return values.clone()  # sharded modules return no views


class PPO:
    """The improvement operator; see `operators.ImprovementOperator`."""

    def __init__(self, policy: Any, q: Any, settings: Settings, ranks: Ranks = ALONE) -> None:
        self.policy, self.settings, self.ranks = policy, settings, ranks
        self.critic = Critic(q).eval()
        for module in (policy, self.critic):
            ranks.shard(module)
        # No weight decay: the KL to pi_i is the anchor, not the origin.
        self.policy_optimiser, self.critic_optimiser = (
            Optimiser(module.parameters(), rate, epsilon=settings.adam_epsilon)
            for module, rate in ((policy, settings.learning_rate), (self.critic, settings.critic_learning_rate))
        )
        self.history: list[float] = []
        """Explained variance by warm-up update, each on samples not yet trained on."""

    def parts(self) -> dict[str, StatePart]:
        return {
            "critic": Weights(self.critic),
            "policy-optimiser": self.policy_optimiser,
            "critic-optimiser": self.critic_optimiser,
        }

    def facts(self) -> dict[str, Any]:
        return {"history": self.history}

    def restore(self, facts: dict[str, Any]) -> None:
        self.history = facts["history"]

    def warm_up(self, experience: Experience) -> tuple[dict[str, float], bool]:
        credit, figures = self._credit(experience)
        self.history.append(figures["explained_variance"])
        losses = [
            self._critic_step(experience.rollout, minibatch, credit.returns)
            for _ in range(self.settings.epochs)
            for minibatch in experience.rollout.minibatches
        ]
        figures |= _means(losses)
        return figures, has_plateaued(self.history, PLATEAU_WINDOW, PLATEAU_TOLERANCE)

    def improve(self, experience: Experience) -> dict[str, float]:
        settings, rollout = self.settings, experience.rollout
        credit, figures = self._credit(experience)
        trained = self._trained(experience)
        advantages = whiten(credit.advantages, rollout.mask)
        weights = truncated_importance_weights(
            experience.old_logprobs, rollout.sampler_logprobs, rollout.mask, settings.importance_cap
        )
        losses = [self._critic_step(rollout, minibatch, credit.returns) for minibatch in rollout.minibatches]
        steps: list[dict[str, float]] = []
        limit = settings.update_kl_share * settings.kl_target
        for minibatch in settings.epochs * rollout.minibatches:
            if steps and steps[-1]["moved"] > limit:
                break
            step = self._policy_step(experience, minibatch, advantages, trained, weights)
            if not steps:
                self._check_ratio(step["ratio_error"])
            steps.append(step)
        figures |= (
            _means(losses)
            | _means(steps)
            | {
                "ratio_max": max(step["ratio_max"] for step in steps),
                "policy_steps": float(len(steps)),
                "learning_rate": settings.learning_rate * experience.rate_share,
                "untrusted_share": 1.0 - float((trained.any(1)).float().mean()),
            }
        )
        del figures["ratio_error"], figures["moved"]
        return figures

    def _credit(self, experience: Experience) -> tuple[Credit, dict[str, float]]:
        """GAE from the values before the update, and how good those were."""
        rollout, settings = experience.rollout, self.settings
        values = torch.zeros(rollout.mask.shape, device=rollout.mask.device)
        with torch.no_grad():
            for part, counts in self.ranks.share(list(rollout.parts)):
                found = self.critic(part.packed)
                if counts:
                    values[part.rows] = rollout.padded(found, part)
        self.ranks.sum(values)
        rewards = token_rewards(
            experience.rewards,
            experience.old_logprobs,
            experience.ref_logprobs,
            rollout.mask,
            experience.kl_coefficient,
        )
        credit = generalised_advantages(rewards, values, rollout.mask, settings.gae_lambda, settings.lambda_value)
        figures = {
            "explained_variance": explained_variance(values, credit.returns, rollout.mask),
            "value_error": float(masked_mean((values - credit.returns).square(), rollout.mask).sqrt()),
        }
        return credit, figures

    def _trained(self, experience: Experience) -> Tensor:
        """(N, T): response tokens less those of responses whose sampler cannot have been this policy."""
        rollout, (low, high) = experience.rollout, self.settings.trusted_ratio
        trusted = trusted_sequences(experience.old_logprobs, rollout.sampler_logprobs, rollout.mask, low, high)
        return rollout.mask & trusted.unsqueeze(1)

    def _policy_step(
        self, experience: Experience, minibatch: list[Part], advantages: Tensor, trained: Tensor, weights: Tensor
    ) -> dict[str, float]:
        """One optimiser step on the policy; gradients accumulate over the minibatch's parts."""
        settings, rollout = self.settings, experience.rollout
        tokens = max(1, int(trained[_rows(minibatch)].sum()))
        sums: dict[str, Tensor] = {}
        highest = {name: torch.zeros((), device=trained.device) for name in ("ratio_max", "ratio_error")}
        for part, counts in self.ranks.share(minibatch):
            rows, mask = part.rows, trained[part.rows] & counts
            scores = self.ranks.call(token_logprobs, self.policy, part.packed, settings.temperature)
            logprobs, entropy = rollout.padded(scores.logprobs, part), rollout.padded(scores.entropy, part)
            old = experience.old_logprobs[rows]
            clipped = clipped_policy_loss(
                logprobs, old, advantages[rows], mask, settings.clip_low, settings.clip_high, settings.dual_clip
            )
            loss = aggregate(clipped.loss * weights[rows], tokens)
            bonus = settings.entropy_coefficient
            total = loss - bonus * aggregate(only(entropy, mask), tokens) if bonus else loss
            total.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                ratio = only(log_ratio(logprobs, old), mask).exp()
                for name, value in (("ratio_max", ratio), ("ratio_error", (ratio - 1.0).abs())):
                    highest[name] = torch.fmax(highest[name], value.max())  # without NaN: the loss tells of those
                _add(
                    sums,
                    policy_loss=loss.double() * tokens,
                    approx_kl=masked_sum(kl_estimate(old, logprobs, "k3"), mask),
                    entropy=masked_sum(entropy, mask),
                    clip_fraction_low=clipped.clipped_low.sum(),
                    clip_fraction_high=clipped.clipped_high.sum(),
                    dual_clip_fraction=clipped.dual_clipped.sum(),
                )
        totals = self.ranks.sums(_floats(sums))
        norm = self.policy_optimiser.step(experience.rate_share)
        responses = sum(part.rows.stop - part.rows.start for part in minibatch)
        figures = {name: value / tokens for name, value in totals.items()}
        ratios = {name: self.ranks.maximum(value) for name, value in _floats(highest).items()}
        return figures | ratios | {"moved": totals["approx_kl"] / responses, "grad_norm": norm}

    def _critic_step(self, rollout: Rollout, minibatch: list[Part], returns: Tensor) -> dict[str, float]:
        """One optimiser step on the critic."""
        tokens = max(1, int(rollout.mask[_rows(minibatch)].sum()))
        total = torch.zeros((), dtype=torch.double, device=rollout.mask.device)
        for part, counts in self.ranks.share(minibatch):
            values = rollout.padded(self.critic(part.packed), part)
            loss = aggregate(value_loss(values, returns[part.rows], rollout.mask[part.rows] & counts), tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = self.critic_optimiser.step()
        return self.ranks.sums({"value_loss": float(total)}) | {"critic_grad_norm": norm}

    def _check_ratio(self, error: float) -> None:
        """Before the first step the policy is the one that sampled, so the ratio is 1 everywhere."""
        if not error <= self.settings.ratio_tolerance:
            raise BadDataError(
                f"the ratio of the first minibatch differs from 1 by {error:.2g}, more than "
                f"{self.settings.ratio_tolerance:.0e}: two forwards of the same policy disagree",
                "Use a model whose forward is deterministic in fp32, without dropout and without sampling inside.",
            )


def make(policy: Any, q: Any, settings: Settings, ranks: Ranks = ALONE) -> PPO:
    """The operator for a policy, with a critic that starts from Q, which must not be sharded yet."""
    return PPO(policy, q, settings, ranks)


def _rows(minibatch: list[Part]) -> slice:
    """The rows of a minibatch, which lie together."""
    return slice(minibatch[0].rows.start, minibatch[-1].rows.stop)


def _add(sums: dict[str, Tensor], **values: Tensor) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value.double() if name in sums else value.double()


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Numbers of one device, fetched at once."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _means(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
