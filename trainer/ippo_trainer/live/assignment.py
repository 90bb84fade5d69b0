"""Which policy a conversation is assigned to in an A/B test: a function of its id, so that replicas need not talk.

The test counts a conversation where it was assigned, whoever answered it in the end ("intention to treat"): a candidate
whose servers fail would else lose conversations of one kind or at one time of day, and the share of the two sides
among what is left would no longer be the one that the test knows.
"""

import hashlib

_BITS = 64


def in_canary(candidate: str, conversation_id: str, share: float) -> bool:
    """Whether a conversation is the candidate's.

    Ids are hashed with the candidate's digest, so that every test draws anew: who got the last candidate tells nothing
    of who gets this one.

    Args:
        candidate: digest of the policy under test.
        conversation_id: as the application gave it.
        share: of conversations that are the candidate's, from 0 to 1.
    """
    text = f"{candidate} {conversation_id}".encode(errors="surrogatepass")
    position = int.from_bytes(hashlib.sha256(text).digest()[: _BITS // 8])
    return position < share * (1 << _BITS)
