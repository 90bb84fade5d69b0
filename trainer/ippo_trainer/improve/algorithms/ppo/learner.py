"""What PPO learns from one batch: advantages, steps of the policy with the clipped loss, steps of the critic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.improve.algorithm import Task
from ippo_trainer.improve.algorithms.ppo.credit import Credit, generalised_advantages, token_rewards
from ippo_trainer.improve.algorithms.ppo.critic import Critic
from ippo_trainer.improve.algorithms.ppo.losses import aggregate, clipped_policy_loss, value_loss
from ippo_trainer.improve.algorithms.ppo.settings import PPOSettings
from ippo_trainer.improve.maths import (
    explained_variance,
    kl_k3,
    log_ratio,
    masked_mean,
    masked_sum,
    only,
    truncated_importance_weights,
    trusted_sequences,
    whiten,
)
from ippo_trainer.improve.pieces import PackedResponses
from ippo_trainer.improve.sampler import ResponseBatch
from ippo_trainer.improve.settings import ADAM_EPSILON
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.training.checkpoint import StatePart, Weights
from ippo_trainer.training.optimiser import Optimiser


@dataclass(frozen=True, slots=True)
class Experience:
    """Scored responses of the current policy to a batch of states. Tables as in `ResponseBatch`."""

    batch: ResponseBatch
    rewards: Tensor
    """(N,) normalised Q, truncated responses penalised."""
    old_logprobs: Tensor
    """(N, T) under the current policy, by the trainer's own forward."""
    ref_logprobs: Tensor
    """(N, T) under pi_i."""
    kl_coefficient: float
    """Weight of KL(policy || pi_i), in units of the rewards."""
    rate_share: float
    """Share of the policy's peak learning rate in this update."""


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What the policy's steps are computed from; (N, T) each."""

    advantages: Tensor
    """Whitened."""
    learnt: Tensor
    """Bool: response tokens less those of responses whose sampler cannot have been this policy."""
    weights: Tensor
    """Truncated importance weights between sampler and trainer."""


class _PieceFigures(NamedTuple):
    """Of one piece, each a number on the device."""

    sums: dict[str, Tensor]
    """Over its tokens."""
    highest: dict[str, Tensor]


class Learner:
    """The policy of a task, a critic, and their optimisers."""

    def __init__(self, task: Task, settings: PPOSettings) -> None:
        self.policy, self.settings, self.ranks = task.policy, settings, task.ranks
        self.temperature = task.sampler.sampling.temperature
        self.critic = Critic(task.q).eval()
        for module in (self.policy, self.critic):
            self.ranks.shard(module)
        # No weight decay: the KL to pi_i is the anchor, not the origin.
        self._policy_optimiser, self._critic_optimiser = (
            Optimiser(module.parameters(), rate, epsilon=ADAM_EPSILON, ranks=self.ranks)
            for module, rate in ((self.policy, settings.learning_rate), (self.critic, settings.critic_learning_rate))
        )

    def parts(self) -> dict[str, StatePart]:
        """What a checkpoint needs of it."""
        return {
            "critic": Weights(self.critic),
            "policy-optimiser": self._policy_optimiser,
            "critic-optimiser": self._critic_optimiser,
        }

    def warm_up(self, experience: Experience) -> dict[str, float]:
        """The critic alone learns. Returns figures for the curves; the explained variance is that of before."""
        credit, figures = self._credit(experience)
        losses = [
            self._critic_step(experience.batch, minibatch, credit.returns)
            for _ in range(self.settings.epochs)
            for minibatch in experience.batch.minibatches
        ]
        return figures | _means(losses)

    def update(self, experience: Experience) -> dict[str, float]:
        """Policy and critic learn. Returns figures for the curves."""
        settings, batch = self.settings, experience.batch
        credit, figures = self._credit(experience)
        lesson = self._lesson(experience, credit)
        losses = [self._critic_step(batch, minibatch, credit.returns) for minibatch in batch.minibatches]
        steps: list[dict[str, float]] = []
        limit = settings.update_kl_share * settings.kl_target
        for minibatch in settings.epochs * batch.minibatches:
            if steps and steps[-1]["moved"] > limit:
                break
            step = self._policy_step(experience, minibatch, lesson)
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
                "untrusted_share": 1.0 - float((lesson.learnt.any(1)).float().mean()),
            }
        )
        del figures["ratio_error"], figures["moved"]
        return figures

    def _credit(self, experience: Experience) -> tuple[Credit, dict[str, float]]:
        """GAE from the values before the update, and how good those were."""
        batch, settings = experience.batch, self.settings
        values = torch.zeros(batch.mask.shape, device=batch.mask.device)
        with torch.no_grad():
            for piece, counts in self.ranks.share(batch.pieces):
                flat = self.critic(piece.packed)
                if counts:
                    values[piece.rows] = batch.padded(flat, piece)
        self.ranks.sum(values)
        rewards = token_rewards(
            experience.rewards,
            experience.old_logprobs,
            experience.ref_logprobs,
            batch.mask,
            experience.kl_coefficient,
        )
        credit = generalised_advantages(rewards, values, batch.mask, settings.gae_lambda, settings.lambda_value)
        figures = {
            "explained_variance": explained_variance(values, credit.returns, batch.mask),
            "value_error": float(masked_mean((values - credit.returns).square(), batch.mask).sqrt()),
        }
        return credit, figures

    def _lesson(self, experience: Experience, credit: Credit) -> _Lesson:
        batch, settings = experience.batch, self.settings
        old, sampler = experience.old_logprobs, batch.sampler_logprobs
        trusted = trusted_sequences(old, sampler, batch.mask, *settings.trusted_ratio)
        return _Lesson(
            advantages=whiten(credit.advantages, batch.mask),
            learnt=batch.mask & trusted.unsqueeze(1),
            weights=truncated_importance_weights(old, sampler, batch.mask, settings.importance_cap),
        )

    def _policy_step(
        self, experience: Experience, minibatch: Sequence[PackedResponses], lesson: _Lesson
    ) -> dict[str, float]:
        """One optimiser step on the policy; gradients accumulate over the minibatch's pieces."""
        tokens = max(1, int(lesson.learnt[_rows(minibatch)].sum()))
        sums: dict[str, Tensor] = {}
        highest = {name: torch.zeros((), device=lesson.learnt.device) for name in ("ratio_max", "ratio_error")}
        for piece, counts in self.ranks.share(minibatch):
            read = self._policy_gradients(experience, piece, lesson, counts, tokens)
            _add(sums, **read.sums)
            # Without NaN: the loss tells of those.
            highest = {name: torch.fmax(value, read.highest[name]) for name, value in highest.items()}
        totals = self.ranks.sums(_floats(sums))
        norm = self._policy_optimiser.step(experience.rate_share)
        responses = sum(piece.rows.stop - piece.rows.start for piece in minibatch)
        figures = {name: value / tokens for name, value in totals.items()}
        ratios = {name: self.ranks.maximum(value) for name, value in _floats(highest).items()}
        return figures | ratios | {"moved": totals["approx_kl"] / responses, "grad_norm": norm}

    def _policy_gradients(
        self, experience: Experience, piece: PackedResponses, lesson: _Lesson, counts: bool, tokens: int
    ) -> _PieceFigures:
        """Adds the gradients of one piece. What they were computed from is gone when the optimiser steps."""
        settings, batch, rows = self.settings, experience.batch, piece.rows
        mask, old = lesson.learnt[rows] & counts, experience.old_logprobs[rows]
        scores = self.ranks.call(token_logprobs, self.policy, piece.packed, self.temperature)
        logprobs, entropy = batch.padded(scores.logprobs, piece), batch.padded(scores.entropy, piece)
        clipped = clipped_policy_loss(
            logprobs, old, lesson.advantages[rows], mask, settings.clip_low, settings.clip_high, settings.dual_clip
        )
        loss = aggregate(clipped.loss * lesson.weights[rows], tokens)
        bonus = settings.entropy_coefficient
        total = loss - bonus * aggregate(only(entropy, mask), tokens) if bonus else loss
        total.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            ratio = only(log_ratio(logprobs, old), mask).exp()
            sums = {
                "policy_loss": loss.detach().double() * tokens,
                "approx_kl": masked_sum(kl_k3(old, logprobs), mask),
                "entropy": masked_sum(entropy, mask),
                "clip_fraction_low": clipped.clipped_low.sum(),
                "clip_fraction_high": clipped.clipped_high.sum(),
                "dual_clip_fraction": clipped.dual_clipped.sum(),
            }
            return _PieceFigures(sums, {"ratio_max": ratio.max(), "ratio_error": (ratio - 1.0).abs().max()})

    def _critic_step(
        self, batch: ResponseBatch, minibatch: Sequence[PackedResponses], returns: Tensor
    ) -> dict[str, float]:
        """One optimiser step on the critic."""
        tokens = max(1, int(batch.mask[_rows(minibatch)].sum()))
        total = torch.zeros((), dtype=torch.double, device=batch.mask.device)
        for piece, counts in self.ranks.share(minibatch):
            values = batch.padded(self.critic(piece.packed), piece)
            loss = aggregate(value_loss(values, returns[piece.rows], batch.mask[piece.rows] & counts), tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = self._critic_optimiser.step()
        return self.ranks.sums({"value_loss": float(total)}) | {"critic_grad_norm": norm}

    def _check_ratio(self, error: float) -> None:
        """Before the first step the policy is the one that sampled, so the ratio is 1 everywhere."""
        if not error <= self.settings.ratio_tolerance:
            raise BadDataError(
                f"the ratio of the first minibatch differs from 1 by {error:.2g}, more than "
                f"{self.settings.ratio_tolerance:.0e}: two forwards of the same policy disagree",
                "Use a model whose forward is deterministic in fp32, without dropout and without sampling inside.",
            )


def _rows(minibatch: Sequence[PackedResponses]) -> slice:
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
