"""Simulated conversations: the protocol, the loader, and two environments that are solved exactly."""

from ippo_trainer.environments.loading import load
from ippo_trainer.environments.protocol import (
    Demonstrator,
    Environment,
    ExactScore,
    ExactScorer,
    ExactTurn,
    LadderRow,
    Opening,
    Resumable,
    Step,
    TryAgain,
)

__all__ = [
    "Demonstrator",
    "Environment",
    "ExactScore",
    "ExactScorer",
    "ExactTurn",
    "LadderRow",
    "Opening",
    "Resumable",
    "Step",
    "TryAgain",
    "load",
]
