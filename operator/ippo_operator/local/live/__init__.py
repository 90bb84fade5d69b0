"""The gateway of a local run and its policy servers, as processes of the runner.

DIR/live/gateway.json       where the gateway listens, while it does
DIR/live/routes.json        what the gateway is told
DIR/live/journal/           what was logged and is in no segment yet
DIR/live/policies/          the policies that servers were started with
DIR/live/*.log              what the processes printed
DIR/artifacts/live/         the segments
"""
