"""How large the body of a request for a suggestion may be."""

SERVED_BYTES = 4 << 20
"""At a policy server: several times the text of the longest prompt."""
LOGGED_BYTES = 1 << 20
"""At a gateway. All of a body is logged, at every turn of a conversation again, and a file of the journal has four
times that. It must be less than at a server: on the way there names and a persona's instructions are added."""
