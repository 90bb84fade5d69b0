"""What a user can set for each stage. The same models are the sections of an IterativePPORun's spec.

Decimals are strings (`"0.95"`), never floats, so that every tool keeps them exactly; read them with `float(...)`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ippo_trainer.contract import defaults
from ippo_trainer.contract.algorithms import ALGORITHMS, AlgorithmName
from ippo_trainer.contract.defaults import BaseKind, ByBase, kind_of
from ippo_trainer.contract.fields import (
    Base,
    Confidence,
    Decimal,
    Positive,
    Share,
    Uri,
    Window,
    Writers,
)
from ippo_trainer.contract.model import Model as Model
from ippo_trainer.contract.personas import Personas
from ippo_trainer.contract.stages import EARLIER_DATA

BUILT_IN_ENVIRONMENTS = {
    "sr-funnel": "ippo_trainer.environments.funnel.environment:Funnel",
    "double-t-maze": "ippo_trainer.environments.maze.environment:Maze",
    "garden": "ippo_trainer.environments.garden.environment:Garden",
    "catalogue-shop": "ippo_trainer.environments.catalogue.environment:CatalogueShop",
}
"""Names of environments -> module:Class."""


Device = Literal["auto", "cpu", "cuda"]
EngineName = Literal["VLLM", "Transformers"]
COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures that vLLM samples with."""
SamplerName = Literal["Auto", "Transformers", "VLLM"]
GateMetric = Literal["Value", "Success"]
OnTooLong = Literal["Skip", "Truncate"]
HistoryFormat = Literal["Marked", "Plain"]


class EnvironmentSpec(Model):
    """A conversation simulator."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """A built-in environment (`sr-funnel`, `double-t-maze`, `garden`, `catalogue-shop`), or yours as `module:Class` or
    `path/to/file.py:Class`."""
    options: Annotated[dict[str, str | int | bool], Field(max_length=32)] = {}
    """Keyword arguments of the environment, e.g. `horizon: 6`. Decimals are strings."""


class Adapter(Model):
    """Low-rank adapters (LoRA, arXiv 2106.09685) in place of full fine-tuning. The base stays as it is, and is in
    memory once, for the policy, what it is compared with, the critic and Q."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"rank": 16, "target_modules": ("all-linear",)}
    """Where fields are left out."""

    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Of the matrices that are added, at most the smaller side of every layer that gets one. 16 if left out."""
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """What is added counts alpha / rank times. Twice the rank if left out."""
    target_modules: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1, max_length=32)]
        | None
    ) = None
    """Names of linear layers of the base, such as `q_proj`. `[all-linear]`, also if left out, is all of them but the
    head."""

    @property
    def chosen_rank(self) -> int:
        """The rank, or what stands for it."""
        return int(self.DEFAULTS["rank"] if self.rank is None else self.rank)

    @property
    def chosen_alpha(self) -> int:
        """The alpha, or what stands for it."""
        return 2 * self.chosen_rank if self.alpha is None else self.alpha

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of layers; empty for all that are linear."""
        everything: tuple[str, ...] = self.DEFAULTS["target_modules"]
        return () if self.target_modules in (None, everything) else tuple(self.target_modules or ())


class Policy(Model):
    """The language model that suggests replies."""

    base: Base
    """`tiny:d64-l2` builds a small Llama from scratch; `file://` and `s3://` load any causal LM in safetensors, also a
    policy of another run, whose adapter is merged."""
    system_prompt: Annotated[str, Field(max_length=8192)] = ""
    """Put first in every prompt. Empty takes the environment's own."""
    max_prompt_tokens: Annotated[int, Field(ge=16, le=131072)] = 512
    """Longer histories lose their oldest turns, several at once, so that prompts go on extending one another; the log
    says how many did."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    """A suggestion that has not ended by then is truncated, and flagged."""
    precision: Literal["Float32", "BFloat16"] | None = None
    """Of weights and forwards; by default `BFloat16` on a GPU, `Float32` on a CPU and in an improve on several
    processes. What is trained, log-probabilities and losses have 32 bits in any case."""
    history_format: HistoryFormat | None = None
    """How prompts tell what was said before. `Marked`, also if left out: the policy's suggestions, each followed by a
    note on what became of it (`[accepted]`, `[edited]`, `[rejected]`) and by what was sent instead. `Plain`: what was
    sent, as in any chat, for bases that never learnt the notes."""
    adapter: Adapter | None = None
    """Train adapters, in all stages, instead of all weights. If left out, all weights are trained."""

    @property
    def kind(self) -> BaseKind:
        """Of the base: what defaults depend on."""
        return kind_of(self.base, self.adapter is not None)


class WarmStart(ByBase):
    """Supervised start from logged conversations, so that the policy writes what the business would."""

    PATH = defaults.WARM_START_PATH

    conversations: Uri | None = None
    """A log: `.jsonl`, also `.jsonl.gz`, of `{"conversation_id", "messages": [{"role", "content"}], "outcome"}`, or
    turn parquet."""
    demonstrations: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Instead of a log: this many conversations held by the environment's own scripted business."""
    epochs: Annotated[int, Field(ge=1, le=100)] | None = None
    """Passes over the log. By the base if left out."""
    learning_rate: Positive | None = None
    """Peak of the cosine schedule. By the base if left out."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Conversations per update. By the base if left out."""
    on_too_long: OnTooLong | None = None
    """Turns that do not fit into policy.maxPromptTokens or the model: not learnt (`Skip`, also by default), or cut."""
    writers: Writers | None = None
    """Whose turns are imitated, by `writer` in the log; all if left out."""


EXPLORATION_DECAY, EXPLORATION_TEMPERATURE, EXPLORATION_MIN_P = 1.0, 3.0, 0.02
"""Where the fields of that name are left out."""


class Collect(Personas):
    """Deploy the current policy and log conversations."""

    conversations: Annotated[int, Field(ge=2, le=10_000_000)] = 5000
    """Conversations per iteration, over all shards."""
    parallelism: Annotated[int, Field(ge=1, le=1024)] = 2
    """Shards, each a process or a pod of its own. Part of the result's identity: it decides what each shard samples."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Conversations held at once by one shard."""
    temperature: Positive = "1.0"
    """Sampling temperature of the policy; top-p and top-k are off, they would break the importance ratio."""
    exploration: Share = "0"
    """Probability, at every turn of the first iteration, that the suggestion comes from the explorer instead of the
    current policy. Q learns from it what the policy itself would never try."""
    exploration_decay: Share | None = None
    """What an iteration explores, as a share of what the iteration before did. 1 if left out: always the same."""
    exploration_temperature: Positive | None = None
    """The explorer is the warm-start policy at this sampling temperature. 3 if left out: flat, so that rare suggestions
    are tried, too."""
    exploration_min_p: Share | None = None
    """Tokens less likely than this share of the likeliest one, before temperature, are never explored: texts stay
    texts. 0.02 if left out."""
    sampler: SamplerName | None = None
    """What samples suggestions, in collect and evaluate. `VLLM` needs an image with vLLM and temperatures of 2 at most.
    `Auto`, also if left out, takes vLLM on a GPU where it can, for a base that is not tiny; else our own forwards."""

    def explored(self, iteration: int) -> float:
        """Probability of exploring at a turn of iteration `iteration`, from 1 on."""
        decay = EXPLORATION_DECAY if self.exploration_decay is None else float(self.exploration_decay)
        return float(self.exploration) * decay ** (iteration - 1)

    @property
    def explorer_temperature(self) -> float:
        """The explorer's sampling temperature."""
        return EXPLORATION_TEMPERATURE if self.exploration_temperature is None else float(self.exploration_temperature)

    @property
    def explorer_min_p(self) -> float:
        """The explorer's min-p."""
        return EXPLORATION_MIN_P if self.exploration_min_p is None else float(self.exploration_min_p)


class LogHistory(Model):
    """Iteration 1 learns from a log instead of talking to customers: the warm start imitates its writers, so their
    outcomes are those of the policy's close neighbours."""

    conversations: Uri
    """A log, as in warmStart.conversations; also exports of OpenAI and ShareGPT, parquet with a column of messages, and
    a folder of what servers logged (spec.serve.log): of S3 with a slash at its end."""
    reactions: Uri | None = None
    """Of what servers logged: what became of suggestions, `.jsonl` of `id` and `reaction`, which may hold the outcomes,
    too. Where it says nothing, a suggestion that was sent was accepted."""
    outcomes: Uri | None = None
    """Outcomes in a file of their own, `.csv`, `.jsonl` or `.parquet`: conversation_id, and if known outcome and time.
    Conversations that it does not name have none."""
    window: Window | None = None
    """How long after a conversation's end an outcome counts. Conversations whose window was not over at the latest time
    in the file are censored, not failures."""
    writers: Writers | None = None
    """Whose turns count as the policy's own, by `writer` in the log; all if left out. `people` wrote where it names
    nobody. Give warmStart.writers the same names."""


class Logged(Model):
    """Iterations learn from what the gateway logged: conversations that the current policy held with customers."""

    max_conversations: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    """The newest so many are taken; all if left out."""
    idle: Window = "30m"
    """A conversation in which nothing happens for so long is over."""
    outcome_window: Window = "7d"
    """An outcome counts up to so long after a conversation's last message. Only then it is known that there is none,
    unless the application says so."""


LAST_LAYER_RANKS, LAST_LAYER_FOLDS, LAST_LAYER_RIDGE = (24, 32, 40), 4, 100.0
"""Of the least squares, where the fields of `fitQ` are left out."""
EARLIER_ITERATIONS = len(EARLIER_DATA)
"""Iterations before this one that the least squares may read."""


class FitQ(ByBase):
    """How Q is fitted: its trunk to returns, its last layer by least squares."""

    PATH = defaults.FIT_Q_PATH

    init_from: Literal["Policy", "PreviousQ"] = "Policy"
    """The trunk to start from. `PreviousQ` falls to `Policy` in the first iteration, where there is none."""
    epochs: Annotated[int, Field(ge=1, le=100)] | None = None
    """Upper bound of passes; early stopping on held-out conversations usually ends sooner. By the base if
    left out."""
    patience: Annotated[int, Field(ge=1, le=100)] = 2
    """Epochs without a better held-out loss before it stops."""
    learning_rate: Positive | None = None
    """Peak of the cosine schedule. By the base if left out."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Conversations per update."""
    holdout: Share = "0.15"
    """Share of the conversations that measure and never train."""
    lm_loss_weight: Decimal = "0.5"
    """Weight of predicting words: the next one at every token, customer's and reactions' too, and at suggestions and
    prompts those that will be said. It teaches the trunk the dynamics."""
    trace_lambda: Share = "1"
    """1 regresses Monte Carlo returns; below 1 mixes in the model's own value of the next state, TD(lambda), after the
    first half of the epochs."""
    method: Literal["MonteCarlo", "SARSA", "ExpectedSARSA"] | None = None
    """How Q follows from turns that others than the policy wrote. MonteCarlo regresses returns, and leaves out what
    somebody else's turn comes after. SARSA takes every turn for the policy's own: its Q is that of all the writers
    together. ExpectedSARSA learns from every turn what it is worth if the policy itself goes on after it. If left out,
    others' turns are left out, and traceLambda and lastLayer say the rest."""
    max_foreign: Share | None = None
    """Share of turns that others wrote beyond which data are refused where these turns are left out. 1 if left out."""
    last_layer: Literal["LeastSquares", "Gradient"] | None = None
    """How Q and V are read of the trunk once it is trained. LeastSquares, also if left out, solves for the fixed point
    of fitted Q evaluation; Gradient takes the head that was trained with the trunk."""
    ranks: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1, max_length=8)] | None = None
    """Of the least squares: leading components of state and suggestion whose products Q is made of, one fit for each,
    none above the trunk's width. 24, 32 and 40 if left out, as far as the trunk is so wide."""
    folds: Annotated[int, Field(ge=1, le=16)] | None = None
    """Of the least squares: every fit leaves out one of so many parts of the conversations. How the fits differ is the
    estimate of Q's error, their mean is Q. 4 if left out."""
    ridge: Positive | None = None
    """Of the least squares: penalty on squared coefficients, in turns. 100 if left out."""
    earlier_iterations: Annotated[int, Field(ge=0, le=EARLIER_ITERATIONS)] | None = None
    """Of the least squares: so many iterations before this one, promoted or not, give their turns to the fit of Q. V is
    fitted to the current policy's own turns alone. 3 if left out; 0 takes this iteration's turns only."""

    def earlier(self) -> int:
        """How many iterations before this one are read."""
        if self.last_layer == "Gradient":
            return 0
        return EARLIER_ITERATIONS if self.earlier_iterations is None else self.earlier_iterations

    def least_squares(self) -> tuple[float, int]:
        """Ridge and folds."""
        ridge = LAST_LAYER_RIDGE if self.ridge is None else float(self.ridge)
        return ridge, self.folds or LAST_LAYER_FOLDS

    def resolved(self) -> "FitQ":
        """With the settings that `method` stands for."""
        if self.method is None:
            return self
        if self.method == "MonteCarlo":
            return self.model_copy(update={"trace_lambda": "1", "last_layer": "Gradient"})
        return self if float(self.trace_lambda) < 1 else self.model_copy(update={"trace_lambda": "0"})

    def ranks_of(self, width: int) -> tuple[int, ...]:
        """The ranks for a trunk of that width, in ascending order."""
        if self.ranks is not None:
            return tuple(sorted(set(self.ranks)))
        return tuple(rank for rank in LAST_LAYER_RANKS if rank <= width) or (width,)


class Mpo(ByBase):
    """Maximum a posteriori policy optimisation: the policy imitates candidates of itself and of the explorer, weighted
    by their Q within `klTarget`."""

    PATH = defaults.MPO_PATH
    DEFAULTS: ClassVar[Mapping[str, int | str]] = {
        "conversations": 1000,
        "own_candidates": 8,
        "explored_candidates": 24,
        "explorer_share": "0.1",
        "batch_size": 16,
        "least_temperature": "0.005",
    }
    """Where fields are left out whose defaults do not depend on the base."""

    conversations: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Logged conversations whose states are improved, at most. 1000 if left out."""
    own_candidates: Annotated[int, Field(ge=1, le=256)] | None = None
    """Suggestions that the current policy draws in each state. 8 if left out."""
    explored_candidates: Annotated[int, Field(ge=1, le=256)] | None = None
    """Suggestions that the explorer draws in each state. 24 if left out."""
    explorer_share: Share | None = None
    """Of the explorer in the mixture that is tilted. 0.1 if left out."""
    epochs: Annotated[int, Field(ge=1, le=100)] | None = None
    """Passes over the candidates. By the base if left out."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Conversations per optimiser step. 16 if left out."""
    learning_rate: Positive | None = None
    """Peak; falls to a tenth. By the base if left out."""
    least_temperature: Positive | None = None
    """In units of Q per nat: a nat is spent only where Q promises that much more. 0.005 if left out."""

    def value(self, name: str) -> Any:
        """The field, or what stands for it where it is left out, at a tiny base."""
        if name not in self.DEFAULTS:
            return super().value(name)
        value = getattr(self, name)
        return self.DEFAULTS[name] if value is None else value


class Improve(ByBase):
    """A better policy on the logged states, with Q as the reward."""

    PATH = defaults.IMPROVE_PATH

    algorithm: AlgorithmName | None = None
    """PPO is token-level reinforcement learning with Q as the reward. MPO imitates what Q prefers among suggestions of
    the policy and of the explorer, so that it finds what the policy no longer says. If left out, it is MPO where
    collect explores, and else PPO: of what is never tried Q knows nothing. GRPO and RLOO are trl's trainers, on one
    process, with Q as the reward; they have no critic, and their KL weight stays what it is at first. MPOThenPPO is
    MPO, then PPO from where it has come."""
    mpo: Mpo | None = None
    """Settings of MPO, which heeds no other ones but `klTarget`."""
    updates: Annotated[int, Field(ge=1, le=100_000)] = 40
    """Rollout batches."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Conversations per rollout batch; every logged state of each is a prompt."""
    samples_per_state: Annotated[int, Field(ge=1, le=256)] = 4
    """Suggestions sampled from each state."""
    epochs: Annotated[int, Field(ge=1, le=16)] = 1
    """Passes of the policy over each rollout batch, and of the critic in its warm-up; later the critic passes once."""
    minibatches: Annotated[int, Field(ge=1, le=256)] = 4
    """Optimiser steps per pass."""
    learning_rate: Positive | None = None
    """Policy's peak; falls to a tenth. By the base if left out."""
    critic_learning_rate: Positive | None = None
    """Critic; faster than the policy. By the base if left out."""
    critic_warmup_updates: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Updates of the critic alone before the policy moves."""
    kl_target: Positive = "1.0"
    """Budget, in nats per suggestion, of KL(policy || previous policy). PPO's KL weight rises to keep to it, and its
    updates stop at 1.5 times it; MPO makes all its passes, and spends no more. A policy that has nothing to gain stays
    below."""
    kl_coefficient: Decimal = "0.02"
    """Least KL weight, in units of Q per nat: a nat is spent only where Q promises that much more. Theorem 2's beta."""
    clip_range: Positive = "0.2"
    """PPO's epsilon, downwards."""
    clip_range_high: Positive = "0.28"
    """PPO's epsilon, upwards (DAPO's clip-higher)."""
    gae_lambda: Share = "0.95"
    """GAE for the policy; the critic's targets use 1 (decoupled GAE)."""
    entropy_coefficient: Decimal = "0"
    """Weight of an entropy bonus."""
    sampler: EngineName | None = None
    """What samples PPO's responses. `VLLM` needs `algorithm: PPO`, an image with vLLM and room for one more copy of the
    policy, and gets the weights anew at every update. `Transformers`, also if left out, are our own forwards."""

    def chosen(self, collect: Collect | None) -> AlgorithmName:
        """The algorithm, for policies that are deployed as `collect` says."""
        explores = collect is not None and float(collect.exploration) > 0
        return self.algorithm or ("MPO" if explores else "PPO")

    def fitted(self, kind: BaseKind, collect: Collect | None) -> "Improve":
        """With the defaults of that kind of base, also of MPO where that is chosen.

        A tiny base leaves MPO's out: they never were in the inputs of a stage, and its digest stays what it was.
        """
        section = self.filled(kind)
        if kind == "tiny" or not ALGORITHMS[self.chosen(collect)].explorer:
            return section
        return section.model_copy(update={"mpo": (self.mpo or Mpo()).filled(kind)})


class Gate(Model):
    """When a candidate replaces the current policy."""

    metric: GateMetric = "Value"
    """Compared on the same seeds: the discounted outcome, or the share of conversations with the outcome."""
    min_lift: Decimal = "0"
    """The lower confidence bound of the lift must exceed this."""
    confidence: Confidence = "0.95"
    """Two-sided level of the interval, by conversation."""
    min_acceptance: Share | None = None
    """Guard rail: share of the candidate's suggestions accepted verbatim or edited."""
    max_kl: Positive | None = None
    """Guard rail: mean KL in nats per suggestion from the current policy."""
    on_inconclusive: Literal["Reject", "Promote"] = "Reject"
    """What to do when the interval contains minLift."""


KL_CONVERSATIONS = 1000
"""Of an evaluation's candidate, the first ones, on which its KL is measured: two forwards over all of them take a third
of the stage."""


class Evaluate(Model):
    """Candidate and current policy on the same seeds."""

    conversations: Annotated[int, Field(ge=2, le=10_000_000)] = 2000
    """Per policy."""
    gate: Gate = Gate()
    """Promote, reject, or say that one cannot tell."""
