"""The supervised start of the policy, on whole conversations."""
