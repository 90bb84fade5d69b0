"""What pydantic finds wrong, in words for whoever wrote it."""

from pydantic import ValidationError

from ippo_trainer.contract.digests import DIGEST

UNKNOWN = "is not known"
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": UNKNOWN,
    "string_pattern_mismatch": "has not the form that it needs",
}
_LONGEST = 256


def problems(error: ValidationError) -> list[tuple[str, str]]:
    """Each field, dotted, empty for the whole; and what is wrong with it, never a value."""
    return [
        (".".join(map(str, each["loc"]))[:_LONGEST], _of(each["type"], each["msg"], each.get("ctx", {})))
        for each in error.errors(include_url=False, include_input=False)
    ]


def _of(kind: str, message: str, context: dict[str, object]) -> str:
    if kind == "json_invalid":
        return f"is no JSON: {context['error']}"
    if kind == "string_pattern_mismatch" and context["pattern"] == DIGEST:
        return "has to be sha256: and 64 hexadecimal digits"
    return _WORDS.get(kind, f"is not allowed: {message}")
