"""Fitting Q: reward-model training on the returns of logged conversations."""
