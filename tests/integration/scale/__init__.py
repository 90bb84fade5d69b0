"""Hundreds of runs at once: a real control plane and its Job controller, simulated nodes, the operator's process."""
