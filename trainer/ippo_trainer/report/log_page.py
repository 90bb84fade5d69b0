"""The page of `ippo check-log --html`."""

from typing import Any

from ippo_trainer.report.log_sections import heading, sections
from ippo_trainer.report.page import template


def page(figures: dict[str, Any]) -> str:
    """One HTML file without scripts or anything from outside. The same figures give the same bytes."""
    return template("log.html").render(name=figures["file"], heading=heading(figures), sections=sections(figures))
