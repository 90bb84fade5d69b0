"""The double-T maze of LMRL-Gym (Abdulhai et al. 2023), fully observed, in text."""
