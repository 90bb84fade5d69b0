"""Maximum a posteriori policy optimisation (arXiv 1806.06920) on logged states: weighted likelihood of candidates."""

from ippo_trainer.improve.algorithms.mpo.algorithm import MPO as MPO
