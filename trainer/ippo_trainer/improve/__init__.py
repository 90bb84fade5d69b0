"""Single-turn RL on logged states with Q as the reward: the improvement step of Iterative PPO (arXiv 2511.21638)."""
