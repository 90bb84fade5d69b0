"""The only modules that talk to the API server.

A pass over one run (`reconcile`) reads the run and its children fresh (`observe`), plans (`ippo_operator.plan`), and
carries the plan out in an order in which a crash at any point loses nothing: the status (`run_status`), the Jobs
(`children`), the servers (`servers`, `mending`), the events (`events`). Everything here can be repeated at will: status
writes carry the resourceVersion that was read, children are create-only under names that are never used for anything
else.

`client` sends requests over `connection`, with the login that `access` finds. `remote` is what `ippo` needs besides.
"""
