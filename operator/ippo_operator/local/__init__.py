"""Runs the planner on local processes, without a cluster.

DIR/run.json                the run as it was started, all defaults filled in
DIR/status.json             its status, replaced atomically by every pass
DIR/answer.json             what `ippo approve` or `reject` left for the runner of a live run
DIR/jobs/<name>/            spec.json, job.json, log*.txt, termination*.json, exit.json
DIR/artifacts/              the artifact store, unless the run names an S3 bucket
DIR/work/                   working directories of the stages that run
DIR/live/                   of a run with live customers: journal, routes and logs of its gateway (`local.live`)
DIR/runner.lock             held while a runner is at work
"""
