"""Measuring policies on conversations, and the gate between a candidate and the current policy."""
