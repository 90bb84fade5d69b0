"""Writes the artifacts of a made-up run with the real store, so that the report can be tested without training."""

import json
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ippo_trainer.contract.digests import digest_of
from ippo_trainer.contract.layout import LEDGER, result_key, stage_key
from ippo_trainer.contract.spec import ArtifactRef, Decision, StageResult, StoreLocation
from ippo_trainer.report.gather import gather
from ippo_trainer.report.model import RunReport
from ippo_trainer.store import open_store
from ippo_trainer.store.artifact import publish
from ippo_trainer.store.base import Store

INTENTS = ("ABSTAIN", "ASK", "CHAT", "CLOSE", "DISC", "FEAT")
STAGES = ("cold", "needs-known", "quoted")
LADDER = [
    ("optimum", 0.3386, 0.398),
    ("greedy-1", 0.2510, 0.287),
    ("greedy-2", 0.3385, 0.398),
    ("filtered-bc-1", 0.1234, 0.149),
    ("myopic", 0.1697, 0.196),
    ("uniform", 0.0522, 0.061),
    ("base", 0.0312, 0.037),
    ("most-accepted", 0.0004, 0.0004),
]
MIXES = [
    (0.05, 0.25, 0.30, 0.10, 0.05, 0.25),
    (0.02, 0.38, 0.06, 0.34, 0.06, 0.14),
    (0.00, 0.49, 0.01, 0.42, 0.02, 0.06),
    (0.00, 0.46, 0.00, 0.46, 0.00, 0.08),
]
SHARES = (0.092, 0.49, 0.72, 0.81, 0.84, 0.86)
LINES = [
    ("Hi, I saw your ad for the phone plan. What does it cost?", "Happy to help! What matters most to you?"),
    ("Mostly the price, honestly.", "We have a discount for new customers this week."),
    ("That sounds good, can you quote me?", "Shall I set it up for you now?"),
    ("Yes, let us do it.", "Great, done. Welcome on board!"),
]


class Run:
    """A run's folder that grows stage by stage. `exact` False leaves the exact scores out."""

    def __init__(self, folder: Path, exact: bool = True, seed: int = 7) -> None:
        self.store: Store = open_store(StoreLocation(directory=str(folder)))
        self.exact = exact
        self.random = random.Random(seed)
        self.policies: list[ArtifactRef] = []
        self.current = 0
        self.ledger: list[dict[str, Any]] = []
        self.manifest: dict[str, Any] = {}

    def report(self) -> RunReport:
        """Of what there is so far."""
        return gather(self.store, self.manifest)

    def describe(self, **spec: Any) -> None:
        """Gives the run a manifest."""
        self.manifest = {
            "metadata": {"name": "demo"},
            "spec": {
                "seed": 7,
                "discount": "0.95",
                "iterations": {"max": 4},
                "policy": {"base": "tiny:d64-l2"},
                "collect": {"simulate": {"conversations": 5000, "environment": {"name": "sr-funnel"}}},
                "improve": {"algorithm": "PPO", "klTarget": "1.0"},
                **spec,
            },
        }

    def put(
        self,
        iteration: int,
        stage: Any,
        kind: str,
        files: dict[str, Any],
        inputs: dict[str, ArtifactRef],
        **result: Any,
    ) -> ArtifactRef:
        """Publishes an artifact and the result that names it."""
        with tempfile.TemporaryDirectory() as name:
            for path, value in files.items():
                body = value if isinstance(value, str) else json.dumps(value)
                (Path(name) / path).write_text(body, encoding="utf-8")
            digests = {key: ref.digest for key, ref in inputs.items()}
            ref = publish(self.store, stage_key(iteration, stage), Path(name), kind, digests, {})
        answer = StageResult(
            stage=stage,
            iteration=iteration,
            input_digest=digest_of([stage, iteration]),
            artifacts={kind: ref},
            **result,
        )
        self.store.put(result_key(iteration, stage, 0 if stage == "collect" else None), answer.to_message())
        return ref

    def warm_start(self) -> None:
        curves = [{"update": n, "loss": 0.4 + 4 * math.exp(-n / 30)} for n in range(200)]
        files = {"training.json": {"kind": "warm-start", "curves": curves}, "model.txt": "weights 0"}
        self.policies.append(self.put(0, "warm-start", "policy", files, {}))

    def collect(self, n: int) -> ArtifactRef:
        return self.put(n, "collect", "data", {"turns.txt": f"turns {n}"}, {"policy": self.policies[self.current]})

    def fit_q(self, n: int, data: ArtifactRef, skill: float = 0.11, informative: bool = True) -> ArtifactRef:
        inputs = {"data": data, "policy": self.policies[self.current]}
        return self.put(
            n,
            "fit-q",
            "q",
            {"calibration.json": self.calibration(skill), "q.txt": f"q {n}"},
            inputs,
            informative=informative,
        )

    def calibration(self, skill: float) -> dict[str, Any]:
        bins = [0.01, 0.03, 0.07, 0.12, 0.2, 0.34, 0.52]
        return {
            "log_loss": 0.2301 * (1 - skill),
            "log_loss_constant": 0.2301,
            "brier": 0.061,
            "brier_constant": 0.066,
            "skill": {"estimate": skill, "low": skill - 0.03, "high": skill + 0.03},
            "slope": {"estimate": 0.9, "low": 0.4 if skill > 0.03 else -0.2, "high": 1.4},
            "miscalibration": {"estimate": 0.018, "low": 0.004, "high": 0.031},
            "calibration": [
                {
                    "turn": t,
                    "predicted": 0.05 + 0.03 * t,
                    "observed": 0.052 + 0.028 * t,
                    "low": 0.04 + 0.025 * t,
                    "high": 0.07 + 0.031 * t,
                    "count": 900 - 120 * t,
                }
                for t in range(6)
            ],
            "bins": [
                {
                    "predicted": p,
                    "observed": p * 0.93 + 0.01,
                    "low": max(0, p * 0.93 - 0.02 - p * 0.06),
                    "high": p + 0.03 + p * 0.05,
                    "count": int(900 * (1 - p)),
                }
                for p in bins
            ],
            "curves": [
                {"epoch": e, "train_loss": 0.22 - 0.01 * e, "held_out_loss": 0.225 - 0.009 * e + 0.0018 * e * e}
                for e in range(6)
            ],
        }

    def improve(self, n: int, data: ArtifactRef, q: ArtifactRef) -> ArtifactRef:
        wobble = self.random.gauss
        curves = [
            {
                "update": u,
                "kl": 1.05 * (1 - math.exp(-u / 12)) + wobble(0, 0.02),
                "q_lift": 0.12 * (1 - math.exp(-u / 15)) + wobble(0, 0.004),
                "reward_mean": 0.9 * (1 - math.exp(-u / 15)) + wobble(0, 0.05),
                "q_mean": 0.05 + 0.12 * (1 - math.exp(-u / 15)) + wobble(0, 0.004),
                "entropy": 1.1 - 0.015 * u + wobble(0, 0.02),
                "clip_fraction_low": 0.05 + abs(wobble(0, 0.01)),
                "clip_fraction_high": 0.09 + abs(wobble(0, 0.012)),
                "explained_variance": 0.6 * (1 - math.exp(-u / 8)) + wobble(0, 0.03),
                "value_loss": 0.8 * math.exp(-u / 10) + 0.2,
                "policy_loss": -0.02 + wobble(0, 0.004),
                "approx_kl": 0.01 + abs(wobble(0, 0.002)),
                "ratio_max": 1.8 + abs(wobble(0, 0.3)),
                "kl_coefficient": 0.05 * 1.01**u,
                "response_length": 7.4 + wobble(0, 0.1),
                "truncation_rate": 0.0,
                "learning_rate": 0.001 * (1 - u / 40),
            }
            for u in range(40)
        ]
        files = {"training.json": {"kind": "improve", "curves": curves}, "model.txt": f"weights {n}"}
        ref = self.put(n, "improve", "policy", files, {"data": data, "q": q, "policy": self.policies[self.current]})
        self.policies.append(ref)
        return ref

    def score(self, index: int, shift: float = 0.0) -> dict[str, Any]:
        share = SHARES[min(index, len(SHARES) - 1)] + shift
        value, success = 0.3386 * share, 0.398 * share
        spread = 1.96 * math.sqrt(success * (1 - success) / 2000)
        score: dict[str, Any] = {
            "digest": self.policies[index].digest,
            "conversations": 2000,
            "success": {"estimate": success, "low": success - spread, "high": success + spread},
            "value": {"estimate": value, "low": value - spread * 0.85, "high": value + spread * 0.85},
            "acceptance": {"estimate": 0.72 - 0.05 * index, "low": 0.7 - 0.05 * index, "high": 0.74 - 0.05 * index},
            "edited": 0.12,
            "rejected": 0.16,
            "abstention": {"estimate": 0.01, "low": 0.0, "high": 0.02},
            "length": {"estimate": 7.4, "low": 7.3, "high": 7.5},
            "exact": None,
        }
        if self.exact:
            gap = 0.3386 - value
            score["exact"] = {
                "value": value,
                "standardError": 0.0012,
                "success": success,
                "successError": 0.0014,
                "shareOfOptimum": share,
                "optimum": 0.3386,
                "lossByTurn": [{"turn": t, "loss": gap * w} for t, w in enumerate((0.12, 0.31, 0.25, 0.16, 0.1, 0.06))],
                "lossByStage": [{"stage": s, "loss": gap * w} for s, w in zip(STAGES, (0.2, 0.65, 0.15), strict=True)],
                "intentMix": [{"stage": s, "shares": self.shares(index, k)} for k, s in enumerate(STAGES)],
            }
        return score

    def shares(self, index: int, stage: int) -> dict[str, float]:
        base = MIXES[min(index, len(MIXES) - 1)]
        tilt = [1.0, (1.6, 1.0, 0.2)[stage], 1.0, (0.2, 1.0, 2.5)[stage], 1.0, 1.0] if index else [1.0] * 6
        raw = [share * factor for share, factor in zip(base, tilt, strict=True)]
        return {name: share / sum(raw) for name, share in zip(INTENTS, raw, strict=True)}

    def transcript(self, seed: int, outcome: bool, message: str | None = None) -> dict[str, Any]:
        reactions = ("accepted", "edited", "rejected", "accepted")
        turns = [
            {
                "customer": message or customer,
                "suggestion": None if (seed + i) % 5 == 4 else suggestion,
                "reaction": reactions[(seed + i) % 4],
                "sent": suggestion if reactions[(seed + i) % 4] == "accepted" else "Anything else I can do for you?",
                "tools": [f"stock: 3 {message[:4000]}"] if message else [],
            }
            for i, (customer, suggestion) in enumerate(LINES[: 2 + 2 * outcome])
        ]
        given = {"context": f"name: Ana {message[:4000]}"} if message else {}  # an older release gave none
        return {"seed": seed, "outcome": outcome, "turns": turns} | given

    def evaluate(
        self, n: int, inputs: dict[str, ArtifactRef], outcome: str = "Promote", message: str | None = None
    ) -> None:
        candidate = len(self.policies) - 1
        reason = f"Value changes by +0.1340 (95% interval +0.1180 to +0.1500, 2000 paired conversations); cycle {n}."
        decision = Decision.model_validate({"outcome": outcome, "reason": reason})
        metrics = {
            "candidate": {
                **self.score(candidate, 0.0 if outcome == "Promote" else -0.1),
                "kl": {"estimate": 0.98, "low": 0.95, "high": 1.01},
            },
            "current": self.score(self.current),
            "lift": {"estimate": 0.134, "low": 0.118, "high": 0.15},
            "confidence": 0.95,
            "decision": decision.model_dump(),
            "references": [{"name": a, "value": b, "success": c} for a, b, c in LADDER] if self.exact else [],
        }
        transcripts = {
            "candidate": [self.transcript(s, s % 3 != 0, message) for s in range(4)],
            "current": [self.transcript(s, s == 2, message) for s in range(4)],
        }
        refs = {**inputs, "candidate": self.policies[candidate], "policy": self.policies[self.current]}
        self.put(
            n,
            "evaluate",
            "evaluation",
            {"metrics.json": metrics, "transcripts.json": transcripts},
            refs,
            decision=decision,
        )
        self.ledger.append(
            {
                "iteration": n,
                "inputs": {k: r.digest for k, r in refs.items()},
                "metrics": {},
                "decision": decision.model_dump(),
            }
        )
        self.store.put(LEDGER, "".join(json.dumps(row) + "\n" for row in self.ledger).encode())
        if outcome == "Promote":
            self.current = candidate

    def cycle(self, n: int, outcome: str = "Promote", message: str | None = None) -> None:
        data = self.collect(n)
        q = self.fit_q(n, data)
        self.improve(n, data, q)
        self.evaluate(n, {"data": data, "q": q}, outcome, message)


def full(
    folder: Path, outcomes: Sequence[str] = ("Promote", "Promote", "Reject", "Promote"), exact: bool = True
) -> Run:
    """A whole run: warm start, then a cycle per outcome."""
    run = Run(folder, exact)
    run.describe()
    run.warm_start()
    for n, outcome in enumerate(outcomes, 1):
        run.cycle(n, outcome)
    return run
