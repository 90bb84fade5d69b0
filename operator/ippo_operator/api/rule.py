"""A rule between fields of a section, in Python and in CEL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.params import Model
from pydantic.alias_generators import to_camel

from ippo_operator.api.problems import Problem, shown


@dataclass(frozen=True)
class Rule:
    """What must hold for a section of the spec."""

    message: str
    """What is allowed, or what is wrong."""
    expression: str
    """In CEL; `self` is the section."""
    holds: Callable[[Any], bool]
    """The same in Python, of the section's model."""
    field: str = ""
    """The field of the section that is wrong, by its name in Python."""
    words: Callable[[Any], str] | None = None
    """What the section holds, in words; by default the field's value."""

    def problem(self, path: str, section: Model) -> Problem:
        """The broken rule, for people."""
        value = getattr(section, self.field) if self.field else None
        words = self.words(section) if self.words is not None else "" if value is None else shown(value)
        before = f"given {words}{',' if self.message.startswith('allowed') else ';'} " if words else ""
        return Problem(f"{path}.{to_camel(self.field)}" if self.field else path, before + self.message)
