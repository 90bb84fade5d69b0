"""Other methods at the same number of conversations as the product, from the same first policy. Resumes.

    python tests/benchmarks/learning.py --out build/bench/product      # first: their first policies are the peers', too
    python tests/benchmarks/peers.py --out build/bench/peers --product build/bench/product

Writes OUT/curves.csv, .json and .svg as learning.py does, the product's curve among them. `--tune` tries every row of
`GRIDS` for two cycles with a seed that is not measured, and keeps the best one of each peer in OUT/tuned.json: that is
the budget that each peer's settings get. Values are exact by the performance-difference estimate; peers have no gate.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.data.censoring import Censoring
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.splits import split
from ippo_trainer.engines.transformers_sampler import TransformersSampler
from ippo_trainer.environments import load as load_environment
from ippo_trainer.environments.rollout import Batch, ExploringAgent, PolicyAgent, rollout
from ippo_trainer.improve.algorithm import Task, find
from ippo_trainer.improve.heldout import HeldOut
from ippo_trainer.improve.improvement import Improvement, frozen_copy
from ippo_trainer.improve.sampler import Sampler
from ippo_trainer.improve.settings import ImproveSettings
from ippo_trainer.improve.states import LoggedStates
from ippo_trainer.models.load import LoadedPolicy, load_policy, new_q, save_policy
from ippo_trainer.models.sampling import Sampling
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.models.verify import SHORT
from ippo_trainer.qfit.examples import Targets, make_examples, pack_turns, shuffled_batches, turn_offsets
from ippo_trainer.qfit.procedure import Procedure, Side, Split, language_head
from ippo_trainer.qfit.readings import read_all
from ippo_trainer.qfit.targets import lambda_targets
from ippo_trainer.qfit.trainer import Fit, FitData, FitSettings
from ippo_trainer.sft.trainer import SupervisedFit, SupervisedSettings
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from ippo_trainer.training.optimiser import Optimiser

sys.path.insert(0, str(Path(__file__).parent))
from curves import Row, show, write
from learning import DESIGN, Run, manifest, read

EVALUATED, BATCH, MAX_TOKENS, HOLDOUT = 2000, 1024, 4096, 0.15
TUNING_SEED, TUNING_CYCLES = 100, 2
Settings = dict[str, float]


@dataclass(frozen=True)
class Job:
    """One run of one peer."""

    peer: str
    seed: int
    cycles: int
    folder: Path
    start: Path
    """The first policy."""
    conversations: int
    settings: Settings


@dataclass(frozen=True)
class Cycle:
    """What a method learns from."""

    policy: Any
    renderer: Renderer
    log: list[Conversation]
    settings: Settings
    discount: float
    seed: int


# Peers: each changes the policy of a cycle in place ------------------------------------------------------------------


def filtered_cloning(cycle: Cycle) -> None:
    """Supervised learning of the conversations with the outcome."""
    rows = [row for each in cycle.log if each.outcome for row in training_rows(cycle.renderer, each).rows]
    if rows:
        pad = cycle.renderer.tokenizer.pad_token_id
        settings = SupervisedSettings(int(cycle.settings["epochs"]), cycle.settings["rate"], 16, cycle.seed, pad)
        SupervisedFit(cycle.policy, rows, settings).run(_nothing)


def immediate_ppo(cycle: Cycle) -> None:
    """Single-turn PPO on the probability of the outcome at this very turn."""
    model = new_q(cycle.policy, cycle.seed)
    settings = _fit_settings(cycle, discount=0.0, epochs=4)
    Procedure(model, language_head(cycle.policy, model), settings, _split(cycle)).run(_nothing)
    _ppo(cycle, model)


def td_critic(cycle: Cycle) -> None:
    """An utterance critic by one-step TD with a target that is refreshed every epoch, and token PPO on it (ArCHer)."""
    model = new_q(cycle.policy, cycle.seed)
    head, sides, censoring = language_head(cycle.policy, model), _split(cycle), Censoring.of(cycle.log)
    for epoch in range(int(cycle.settings["epochs"])):
        data = []
        for side in (sides.train, sides.held):
            offsets = turn_offsets(side.examples)
            values = read_all(model, side.examples, MAX_TOKENS, torch.device("cpu"))[1] if epoch else offsets[-1] * [0]
            targets = [
                lambda_targets(each, cycle.discount, 0.0, list(values[start:end]), censoring)
                for each, start, end in zip(side.conversations, offsets, offsets[1:], strict=False)
            ]
            data.append(FitData(side.examples, Targets.of(targets)))
        Fit(model, head, _fit_settings(cycle, cycle.discount, 1, derive_seed(cycle.seed, "td", epoch)), *data).run(
            _nothing
        )
    _ppo(cycle, model)


def trajectory_rloo(cycle: Cycle) -> None:
    """REINFORCE on the conversation's return less the others' mean at that turn, clipped as PPO clips."""
    examples, _ = make_examples(cycle.log, cycle.renderer)
    offsets = turn_offsets(examples)
    advantages = torch.tensor(_leave_one_out(cycle.log, cycle.discount), dtype=torch.float32)
    drawn = torch.tensor([sum(turn.sampler_logprobs or []) for each in cycle.log for turn in each.turns])
    optimiser = Optimiser(cycle.policy.parameters(), cycle.settings["rate"], epsilon=1e-5)
    for epoch in range(int(cycle.settings["epochs"])):
        for members in shuffled_batches(examples, int(cycle.settings["batch"]), derive_seed(cycle.seed, epoch)):
            pieces = pack_turns(examples, members, offsets, MAX_TOKENS)
            turns = sum(len(piece.turns) for piece in pieces)
            for piece in pieces:
                tokens = token_logprobs(cycle.policy, piece.packed).logprobs
                sums = torch.zeros(len(piece.turns)).index_add(0, piece.packed.response_index, tokens)
                ratio, advantage = (sums - drawn[piece.turns]).exp(), advantages[piece.turns]
                gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
                (-gain.sum() / turns).backward()  # type: ignore[no-untyped-call]
            optimiser.step()


PEERS: dict[str, Callable[[Cycle], None]] = {
    "filtered cloning": filtered_cloning,
    "single-turn PPO": immediate_ppo,
    "trajectory RLOO": trajectory_rloo,
    "TD critic": td_critic,
}
GRIDS: dict[str, list[Settings]] = {
    "filtered cloning": [{"rate": rate, "epochs": epochs} for rate in (0.0005, 0.002) for epochs in (2, 6)],
    "single-turn PPO": [{"rate": rate, "kl": kl, "exploration": 0.0} for rate in (0.0006, 0.0012) for kl in (1.0, 2.0)],
    "trajectory RLOO": [
        {"rate": rate, "epochs": epochs, "batch": 128} for rate in (0.0003, 0.001) for epochs in (1, 3)
    ],
    "TD critic": [
        {"rate": 0.0006, "kl": 2.0, "epochs": epochs, "exploration": share} for epochs in (4, 8) for share in (0.0, 0.3)
    ],
}
"""Four settings for each peer; the first one counts where nothing was tuned."""


def _leave_one_out(log: Sequence[Conversation], discount: float) -> list[float]:
    """(T,) by turn: its return less the mean return of all other conversations at that turn, over their deviation."""
    returns = [
        [discount ** (len(each.turns) - 1 - turn) * float(each.outcome) for turn in range(len(each.turns))]
        for each in log
    ]
    at_turn: dict[int, list[float]] = defaultdict(list)
    for row in returns:
        for turn, value in enumerate(row):
            at_turn[turn].append(value)
    sums = {turn: (sum(values), len(values)) for turn, values in at_turn.items()}
    deviation = float(np.std([value for row in returns for value in row])) or 1.0
    return [
        (value - (sums[turn][0] - value) / max(1, sums[turn][1] - 1)) / deviation
        for row in returns
        for turn, value in enumerate(row)
    ]


def _fit_settings(cycle: Cycle, discount: float, epochs: int, seed: int | None = None) -> FitSettings:
    return FitSettings(epochs, 2, 0.002, 32, 0.5, discount, 1.0, cycle.seed if seed is None else seed, MAX_TOKENS)


def _split(cycle: Cycle) -> Split:
    held = set(split([each.id for each in cycle.log], HOLDOUT, cycle.seed)[1])
    sides = []
    for is_held in (False, True):
        conversations = [each for each in cycle.log if (each.id in held) == is_held]
        sides.append(Side(conversations, make_examples(conversations, cycle.renderer)[0]))
    return Split(*sides, cycle.log)


def _ppo(cycle: Cycle, q: Any) -> None:
    """The product's own single-turn PPO, with its guards, on this critic."""
    section = params.Improve(
        algorithm="PPO", learning_rate=str(cycle.settings["rate"]), kl_target=str(cycle.settings["kl"])
    )
    settings = ImproveSettings("PPO", section.batch_size, float(section.kl_target), cycle.seed, MAX_TOKENS)
    renderer, reference = cycle.renderer, frozen_copy(cycle.policy)
    sampling = Sampling(section.samples_per_state, 16, 1.0, renderer.stop_ids, renderer.tokenizer.pad_token_id)
    sampler = Sampler(q.requires_grad_(False), sampling, cycle.seed, MAX_TOKENS)
    sides = [LoggedStates(side.conversations, renderer) for side in (_split(cycle).train, _split(cycle).held)]
    task = Task(cycle.policy, reference, lambda: reference, sampler, sides[0], settings, section, params.Collect())
    probe = HeldOut(sampler, sides[1], range(min(32, len(sides[1]) // 4)), 32, "probe")
    Improvement(task, find("PPO")(task), probe).run(_nothing)


# Cycles --------------------------------------------------------------------------------------------------------------


def carry_out(job: Job) -> None:
    """Goes on where it was; the policy of every cycle is kept."""
    torch.set_num_threads(1)
    job.folder.mkdir(parents=True, exist_ok=True)
    spec = manifest(Run(DESIGN, job.seed, job.folder), job.cycles, [])["spec"]
    environment = load_environment(params.EnvironmentSpec(**spec["collect"]["simulate"]["environment"]))
    discount, rows = float(spec["discount"]), read_rows(job.folder)
    explorer = _load(job.start)
    if not rows:
        rows = [{"cycle": 0, "share": _score(environment, explorer, job.seed, 0, discount)}]
    for number in range(len(rows), job.cycles + 1):
        policy = _load(job.folder / str(number - 1) if number > 1 else job.start)
        renderer = Renderer.load(policy.directory, policy.tokenizer)
        agent = _agent(policy, renderer)
        share = job.settings.get("exploration", 0.0)
        if share:
            agent = ExploringAgent(agent, _agent(explorer, renderer, explores=True), share)
        log = _hold(environment, agent, job.conversations, job.seed, f"collect-{number}")
        seed = derive_seed(job.seed, job.peer, number)
        PEERS[job.peer](Cycle(policy.model.requires_grad_(True), renderer, log, job.settings, discount, seed))
        save_policy(job.folder / str(number), policy.model, policy.tokenizer, renderer)
        rows.append({"cycle": number, "share": _score(environment, policy, job.seed, number, discount)})
        (job.folder / "rows.json").write_text(json.dumps(rows, indent=1))
        print(f"{job.peer}, seed {job.seed}, cycle {number}: {rows[-1]['share']:.3f} of the optimum", flush=True)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The cycles that are done."""
    path = folder / "rows.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def _load(directory: Path) -> LoadedPolicy:
    return load_policy(directory, "cpu", SHORT)


def _agent(policy: LoadedPolicy, renderer: Renderer, explores: bool = False) -> Any:
    if explores:
        settings = params.Collect()
        return PolicyAgent(
            TransformersSampler(policy.model),
            renderer,
            "explorer",
            16,
            settings.explorer_temperature,
            "explore",
            min_p=settings.explorer_min_p,
        )
    return PolicyAgent(TransformersSampler(policy.model), renderer, "policy", 16, 1.0)


def _hold(environment: Any, agent: Any, count: int, seed: int, purpose: str) -> list[Conversation]:
    conversations: list[Conversation] = []
    while len(conversations) < count:
        numbers = range(len(conversations), min(count, len(conversations) + BATCH))
        batch = Batch(
            [derive_seed(seed, purpose, number) for number in numbers], [f"{number:07d}" for number in numbers]
        )
        conversations += rollout(environment, agent, batch).conversations
    return conversations


def _score(environment: Any, policy: LoadedPolicy, seed: int, number: int, discount: float) -> float:
    agent = _agent(policy, Renderer.load(policy.directory, policy.tokenizer))
    held = _hold(environment, agent, EVALUATED, seed, f"evaluation-{number}")
    share: float = environment.score(held, discount).share_of_optimum
    return share


# The command ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Runs what is not done yet, and writes the curves of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--product", type=Path, required=True, help="--out of learning.py, for first policies and curve"
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--conversations", type=int, default=10_000, help="of a cycle")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each on one core")
    parser.add_argument("--tune", action="store_true", help="first choose every peer's settings from GRIDS")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        if options.tune:
            tune(options, pool)
        jobs = [
            _job(
                options, peer, seed, options.cycles, settings_of(options.out, peer), f"{peer.replace(' ', '-')}-{seed}"
            )
            for seed in range(options.seeds)
            for peer in options.peers
        ]
        list(pool.map(carry_out, jobs))
    curves: dict[str, Sequence[Row]] = {
        "product": [row for seed in range(options.seeds) for row in read(_product(options, seed))]
    }
    for peer in options.peers:
        curves[peer] = [row for job in jobs if job.peer == peer for row in _rows(job)]
    write(options.out, curves)
    show(curves)


def tune(options: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
    """Every setting of every peer for two cycles, with the tuning seed's own customers, from the first product run."""
    jobs = [
        _job(options, peer, TUNING_SEED, TUNING_CYCLES, settings, f"tuning/{peer.replace(' ', '-')}-{number}")
        for peer in options.peers
        for number, settings in enumerate(GRIDS[peer])
    ]
    list(pool.map(carry_out, jobs))
    best: dict[str, Any] = {}
    for job in jobs:
        share = read_rows(job.folder)[-1]["share"]
        if job.peer not in best or share > best[job.peer]["share"]:
            best[job.peer] = {"share": share, "settings": job.settings}
    (options.out / "tuned.json").write_text(json.dumps(best, indent=1))


def settings_of(out: Path, peer: str) -> Settings:
    """What tuning chose, or the first row of the grid."""
    path = out / "tuned.json"
    tuned: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    settings: Settings = tuned[peer]["settings"] if peer in tuned else GRIDS[peer][0]
    return settings


def _product(options: argparse.Namespace, seed: int) -> Run:
    return Run(DESIGN, seed, options.product / f"{DESIGN}-{seed}")


def _job(options: argparse.Namespace, peer: str, seed: int, cycles: int, settings: Settings, name: str) -> Job:
    folder = _product(options, 0 if seed == TUNING_SEED else seed).folder / "run" / "artifacts" / "iterations" / "0000"
    starts = [path.parent for path in folder.glob("policy/*/manifest.json")]
    if not starts:
        sys.exit(f"no first policy in {folder}: run tests/benchmarks/learning.py --out {options.product} first")
    return Job(peer, seed, cycles, options.out / name, starts[0], options.conversations, settings)


def _rows(job: Job) -> list[Row]:
    rows = read_rows(job.folder)[: job.cycles + 1]
    return [
        Row(DESIGN, job.seed, after["cycle"], after["share"], after["share"], before["share"], "none")
        for before, after in pairwise(rows)
    ]


def _nothing() -> None:
    return None


if __name__ == "__main__":
    main()
