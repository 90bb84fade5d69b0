"""What a gateway logs: one JSON object a line, the same in its journal, in segments and for whoever reads them.

| field | of | what |
|---|---|---|
| version | all | `VERSION` |
| kind | all | one of `KINDS` |
| event_id | all | made by the gateway, or the client's idempotency key; the same id is the same event |
| time | all | seconds since 1970 UTC when the gateway took it |
| at | what clients report | when it happened, by the client's clock; `time` where it does not say |
| conversation_id | all | empty in an outcome or complaint that names a customer |
| arm | suggestion, unanswered | `active` or `candidate`: who was asked |
| persona | suggestion | its name; empty where there is none |
| suggestion | suggestion | the record of the policy server, as `serve.records.record_of` makes it |
| seconds | suggestion | that the answer took |
| fallback | suggestion | whether another policy answered, since the conversation's own could not |
| status | unanswered | the HTTP status that the client got |
| turn | reaction | replies of the business before it |
| suggestion_id | reaction | the answer's `id`; empty where the client does not say |
| reaction, sent | reaction | as in a chat log; `sent` None where it is the suggestion |
| customer_id | outcome, complaint | empty where it names a conversation |
| outcome | outcome, close | true, false; in a close None where it is not known yet |

`erased` says that nothing of a conversation counts, whatever else is logged of it: `live.erase` took it out.
"""

import hashlib
from typing import Any, Final, Literal

VERSION: Final = 1
Kind = Literal["suggestion", "unanswered", "reaction", "outcome", "complaint", "close", "erased"]
SUGGESTION: Final = "suggestion"
UNANSWERED: Final = "unanswered"
REACTION: Final = "reaction"
OUTCOME: Final = "outcome"
COMPLAINT: Final = "complaint"
CLOSE: Final = "close"
ERASED: Final = "erased"
KINDS: tuple[Kind, ...] = (SUGGESTION, UNANSWERED, REACTION, OUTCOME, COMPLAINT, CLOSE, ERASED)
Arm = Literal["active", "candidate"]
ACTIVE: Final = "active"
CANDIDATE: Final = "candidate"
Event = dict[str, Any]


def erased_id(conversation: str) -> str:
    """The id of the event that a conversation is erased: the same whoever asks for that and how often, and no name in
    it."""
    return f"erased-{hashlib.sha256(conversation.encode()).hexdigest()[:40]}"
