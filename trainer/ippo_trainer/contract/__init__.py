"""The contract between the operator and the stages: specs, results, exit codes and artifact layout.

Imports neither torch nor Kubernetes; both halves of the project depend on it.
"""
