"""The planner: what a run should do next, as a pure function of the run, its jobs and the time.

`planner.plan` is shared by the local runner and the operator. It reads no file, no clock and no API server.
"""
