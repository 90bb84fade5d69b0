"""How long each stage will take, from the config of its base alone: operations over the rate of a device. An estimate.

A token of a forward costs 2 operations for each weight of the trunk, and 4 for each earlier token, layer and unit of
width; its logits cost 2 for each weight of the head. A backward pass costs twice as much, once where weights are frozen
(Kaplan et al., arXiv 2001.08361). A step of decoding takes the longest of its operations, of reading weights and cache,
and of starting its kernels.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ippo_trainer.contract import params
from ippo_trainer.contract.algorithms import ALGORITHMS
from ippo_trainer.contract.spec import StageSpec
from ippo_trainer.contract.stages import COLLECT, FIT_Q, IMPROVE, WARM_START
from ippo_trainer.models.sampling import CPU_BATCH_BYTES, token_bytes
from ippo_trainer.models.sizing import TURNS, BaseSize, budget_for, dtype_for

_LOOKS = 12
"""Batches of held-out conversations that an improve is measured on, at most: 4 by each policy, and some on the way."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a kind of device does in a second.

    Args:
        words: its name.
        rates: operations of packed forwards and backwards, by type of weights.
        half: width of a model that gets half of that.
        bandwidth: bytes of weights and cache that decoding reads.
        layer: seconds of a layer of a decoding step, at least.
        source: of these figures.
    """

    words: str
    rates: Mapping[torch.dtype, float]
    half: float
    bandwidth: float
    layer: float
    source: str

    @property
    def measured(self) -> bool:
        """Or else extrapolated from another device."""
        return self.source.startswith("measured")


_BY_PEAKS = "extrapolated from the H100 by the makers' operations and bandwidth"
DEVICES: Mapping[str, Device] = {
    "cpu": Device("a CPU core", {torch.float32: 1.5e11}, 250, 1e10, 1e-3, "measured on an AMD EPYC with AVX-512"),
    "h100": Device("an H100", {torch.bfloat16: 1.5e14, torch.float32: 2.2e13}, 0, 2e12, 1e-4, "measured on one"),
    "h200": Device("an H200", {torch.bfloat16: 1.5e14, torch.float32: 2.2e13}, 0, 2.9e12, 1e-4, _BY_PEAKS),
    "a100": Device("an A100", {torch.bfloat16: 4.7e13, torch.float32: 6.4e12}, 0, 1.2e12, 1e-4, _BY_PEAKS),
}
"""The table of rates; docs/benchmarks.md has the measurements."""
START_SECONDS = 6.0
"""Of a stage before it works: libraries."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """What a manifest does not say of conversations."""

    turns: float = TURNS
    tokens: int | None = None
    """Of a whole conversation; None takes what a prompt may have."""
    logged: int = 1000
    """That there are in a log."""
    collected: int | None = None
    """Of an iteration; None takes those of a log."""


@dataclass(frozen=True, slots=True)
class Work:
    """Of a stage, in units of a forward pass.

    Args:
        tokens: that go through the trunk.
        logits: tokens that are projected to the vocabulary.
        responses: that are decoded.
        rows: of these at once, at most.
        samples: responses to one prompt, which share its keys and values on a CPU.
    """

    tokens: float = 0
    logits: float = 0
    responses: float = 0
    rows: float = 1
    samples: float = 1


def stage_seconds(
    spec: StageSpec, size: BaseSize, device: Device, gpu: int | None, said: Conversations = Conversations()
) -> float:
    """Seconds that a stage takes, about; of several shards each takes so long.

    Args:
        spec, size, gpu: as in `sizing.stage_memory`.
        device: that computes.
        said: of conversations.
    """
    clock = _Clock(spec, size, device, gpu, said)
    return START_SECONDS + sum(map(clock.seconds, _Stage(spec, size, gpu, said).work()))


class _Clock:
    """Seconds of work on a device."""

    def __init__(self, spec: StageSpec, size: BaseSize, device: Device, gpu: int | None, said: Conversations) -> None:
        config, dtype = size.config, dtype_for(spec, gpu)
        width, layers = config.hidden_size, config.num_hidden_layers
        threads = 1 if gpu is not None else max(1, spec.threads // _shards(spec))
        self.rate: float = device.rates[dtype] * threads * width / (width + device.half)
        self.steps, self.context = spec.policy.max_new_tokens, (said.tokens or spec.policy.max_prompt_tokens) / 2
        table = config.vocab_size * width
        trunk = size.whole - table - size.head
        self.token, self.logit = 2 * trunk + 4 * layers * width * self.context, 2 * table
        self.least: float = layers * device.layer
        self.weights: float = size.whole * dtype.itemsize / device.bandwidth
        self.row = token_bytes(config, dtype) * self.context / device.bandwidth
        longest = spec.policy.max_prompt_tokens + spec.policy.max_new_tokens
        self.forks = gpu is None
        self.most: float = (
            math.inf if gpu is not None else max(1, CPU_BATCH_BYTES // (token_bytes(config, dtype) * longest))
        )

    def seconds(self, work: Work) -> float:
        """Of all of it."""
        packed: float = (work.tokens * self.token + work.logits * self.logit) / self.rate
        shared = work.samples if self.forks else 1.0
        rows = max(1.0, min(work.rows, self.most * shared))
        step: float = max(rows * (self.token + self.logit) / self.rate, self.weights + rows * self.row / shared)
        return packed + work.responses / rows * self.steps * (step + self.least)


class _Stage:
    """What a stage does, by its settings."""

    def __init__(self, spec: StageSpec, size: BaseSize, gpu: int | None, said: Conversations) -> None:
        self.spec = spec
        self.turns, self.tokens = said.turns, float(said.tokens or spec.policy.max_prompt_tokens)
        self.new = spec.policy.max_new_tokens
        self.logged, self.data = said.logged, float(said.collected or said.logged)
        adapts = spec.policy.kind == "adapters" or (spec.policy.adapter is not None and spec.stage != WARM_START)
        self.learning = (2 if adapts else 3) + (gpu is not None and budget_for(spec, size, gpu).recompute)
        """Forwards that a forward with its backward costs."""

    def work(self) -> Iterator[Work]:
        """All of it."""
        work = {WARM_START: self._warm_start, COLLECT: self._collect, FIT_Q: self._fit_q, IMPROVE: self._improve}
        yield from work.get(self.spec.stage, self._evaluate)()

    def _talk(self, conversations: float, samples: float = 1, rows: float | None = None) -> Work:
        """Suggestions in all states of conversations, whose turns share what they compute."""
        responses = conversations * self.turns * samples
        return Work(conversations * self.tokens, 0, responses, responses if rows is None else rows, samples)

    def _packed(self, conversations: float, samples: float = 0, logits: bool = True, passes: float = 1) -> Work:
        """Conversations with all samples of all their states."""
        branches = conversations * self.turns * samples * self.new
        return Work(passes * (conversations * self.tokens + branches), passes * branches * logits)

    def _warm_start(self) -> Iterator[Work]:
        section = self.spec.warm_start
        if section is not None:
            count = section.value("epochs") * self.learning * (section.demonstrations or self.logged)
            yield Work(count * self.tokens, count * self.turns * self.new)

    def _collect(self) -> Iterator[Work]:
        section = self.spec.collect
        if section is not None and self.spec.environment is not None:
            own = section.conversations / section.parallelism
            yield self._talk(own, rows=min(own, section.batch_size))

    def _fit_q(self) -> Iterator[Work]:
        section = (self.spec.fit_q or params.FitQ()).resolved()
        held = float(section.holdout)
        epochs, whole = section.value("epochs"), self.data * self.tokens
        language = float(section.lm_loss_weight) > 0
        yield Work(epochs * self.learning * (1 - held) * whole, epochs * self.learning * (1 - held) * whole * language)
        yield Work((epochs + 1) * held * whole)
        if section.last_layer != "Gradient":
            yield Work((1 - held + min(section.earlier(), max(0, self.spec.iteration - 1))) * whole)

    def _improve(self) -> Iterator[Work]:
        section = self.spec.improve or params.Improve()
        name = section.chosen(self.spec.collect)
        yield from self._compared(min(_LOOKS * section.batch_size, self.data), section.samples_per_state)
        if ALGORITHMS[name].explorer:
            yield from self._mpo(section.mpo or params.Mpo())
        if not ALGORITHMS[name].own_loop:
            yield from self._trl(section)
        elif ALGORITHMS[name].critic:
            yield from self._ppo(section)

    def _ppo(self, section: params.Improve) -> Iterator[Work]:
        batch, samples = section.batch_size, section.samples_per_state
        critic = self._packed(batch, samples, False, self.learning)
        for _ in range(section.updates + section.critic_warmup_updates):  # sampled, and read by Q and by the critic
            yield self._talk(batch, samples)
            yield self._packed(batch, samples, False, 2)
        for _ in range(section.updates):  # log-probabilities of before and of pi_i
            yield self._packed(batch, samples, True, 2 + section.epochs * self.learning)
            yield critic
        for _ in range(section.critic_warmup_updates * section.epochs):
            yield critic

    def _mpo(self, section: params.Mpo) -> Iterator[Work]:
        """As if every candidate were worth training on."""
        count = min(section.value("conversations"), self.data)
        own, explored = section.value("own_candidates"), section.value("explored_candidates")
        size = section.value("batch_size")
        for samples in (own, explored):
            yield self._talk(count, samples, min(count, size) * self.turns * samples)
        yield self._packed(count, own + explored, False)
        yield self._packed(count, own + explored, True, section.value("epochs") * self.learning)

    def _trl(self, section: params.Improve) -> Iterator[Work]:
        """Prompts share nothing there, and each is as long as half of a conversation on average."""
        rows = section.batch_size * self.turns * section.samples_per_state
        read, whole = rows * self.tokens / 2, rows * (self.tokens / 2 + self.new)
        forwards = 2 + section.epochs * self.learning
        yield Work(section.updates * read, 0, section.updates * rows, rows)
        yield Work(section.updates * forwards * whole, section.updates * forwards * rows * self.new)
        yield self._packed(section.updates * section.batch_size, section.samples_per_state, False)

    def _compared(self, conversations: float, samples: float) -> Iterator[Work]:
        """Suggestions of a policy, their Q, and what two policies think of them."""
        yield self._talk(conversations, samples)
        yield self._packed(conversations, samples, False)
        yield self._packed(conversations, samples, True, 2)

    def _evaluate(self) -> Iterator[Work]:
        section, collect = self.spec.evaluate or params.Evaluate(), self.spec.collect or params.Collect()
        if self.spec.environment is None:
            yield from self._compared(self.data * float(params.FitQ().holdout), 1)
            return
        count = section.conversations
        for _ in range(2):
            yield self._talk(count, rows=min(count, collect.batch_size))
            few = min(count, params.KL_CONVERSATIONS)
            yield Work(few * self.tokens, few * self.turns * self.new)


def _shards(spec: StageSpec) -> int:
    return spec.collect.parallelism if spec.stage == COLLECT and spec.collect is not None else 1
