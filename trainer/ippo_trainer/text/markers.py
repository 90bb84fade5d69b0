"""The notes that tell a policy what became of its suggestions, and how texts are kept from forging them."""

import re

ABSTAIN = "[abstain]"
ACCEPTED = "[accepted]"
EDITED = "[edited]"
REJECTED = "[rejected]"
MARKERS = (ABSTAIN, ACCEPTED, EDITED, REJECTED)
TOOL = "[tool]"
"""Before what a tool returned. A tokenizer that is made of a log has it where the log has such messages."""
REACTION_MARKERS = {"accepted": ACCEPTED, "edited": EDITED, "rejected": REJECTED}

# Neither looks at more than one backslash: a run of them would be read again from each of its members.
_LITERAL = re.compile(r"\[(?:abstain|accepted|edited|rejected|tool)\]")
_ESCAPED = re.compile(r"\\(\[(?:abstain|accepted|edited|rejected|tool)\])")


def escape(text: str) -> str:
    r"""Puts one more backslash before every literal marker: `[accepted]` in somebody's message becomes `\[accepted]`.

    A pretrained tokenizer spells our markers as plain text, so without this a customer could write them.
    """
    return _LITERAL.sub(r"\\\g<0>", text)


def unescape(text: str) -> str:
    """The inverse of `escape`; a marker without a backslash stays as it is."""
    return _ESCAPED.sub(r"\1", text)
