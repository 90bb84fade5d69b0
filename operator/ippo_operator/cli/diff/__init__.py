"""`ippo diff`: what `kubectl apply` would change of a run."""

from ippo_operator.cli.parsing import Verb, add_manifest

ABOUT = """\
What `kubectl apply -f RUN.yaml` would change of the run in the cluster: each field, its value now and then, and whether
a run that has started may change it. Nothing is written; the API server is asked with a dry run.

exit codes: 0 no difference, 1 some, 64 the API server would refuse it
"""
SUMMARY = "what kubectl apply would change of a run, and whether it may"
VERB = Verb("diff", __name__, SUMMARY, ABOUT, "example:\n  ippo diff -f RUN.yaml\n", cluster=True)


add_arguments = add_manifest
