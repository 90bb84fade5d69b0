"""The verbs of `ippo` for runs in a cluster."""
