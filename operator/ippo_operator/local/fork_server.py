"""Loaded into the fork server before everything else: the server ends with the runner.

Starting a stage is a fork of this server, which has imported torch and the stages once; it takes no time.
"""

from ippo_operator.local.lifeline import die_with_parent

die_with_parent()
