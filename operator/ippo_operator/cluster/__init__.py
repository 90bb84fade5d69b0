"""The only modules that talk to the API server.

A pass over one run is: read it and its children fresh (`read`), plan (`ippo_operator.plan`), carry the plan out in an
order in which a crash at any point loses nothing (`apply`). Everything here can be repeated at will: status writes
carry the resourceVersion that was read, children are create-only under names that are never used for anything else.
"""
