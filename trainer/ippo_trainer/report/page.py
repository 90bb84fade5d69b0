"""Renders a RunReport as one HTML file without scripts, fonts or anything else from outside."""

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ippo_trainer.contract.stages import IMPROVE
from ippo_trainer.report import owner, provenance, training_views, views, words
from ippo_trainer.report.gather import gather
from ippo_trainer.report.model import RunReport
from ippo_trainer.store.base import Store


def write_report(
    store: Store, output: Path, manifest: dict[str, Any] | None = None, standing: dict[str, Any] | None = None
) -> None:
    """Writes the report of a run to `output`, atomically: readers see the old file or the new one.

    Args:
        store: the run's artifact store; what is in it so far is shown.
        output: the HTML file; its folder is made if needed.
        manifest: the run (`metadata`, `spec`) as JSON.
        standing: of a run that does not go on by itself, the fields of `Standing`.

    Raises:
        TryAgainError: the store does not answer.
    """
    page = render(gather(store, manifest, standing))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        partial.write_bytes(page.encode("utf-8", errors="replace"))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def render(run: RunReport) -> str:
    """The page. The same run gives the same bytes."""
    ppo, more_ppo = training_views.ppo_figures(run)
    return template("template.html").render(
        run=run,
        headline=words.headline(run),
        subline=words.subline(run),
        state=words.state(run),
        tiles=views.tiles(run),
        owner=owner.page(run),
        warnings=views.warnings(run),
        progress=views.progress(run),
        ladder=views.ladder(run),
        verdicts=views.verdicts(run),
        mix=views.intent_mix(run),
        losses=views.losses(run),
        worst=words.worst_loss(run.after),
        conversation_pairs=views.conversation_pairs(run),
        kind=views.turn_kind,
        clip=words.clip,
        max_turns=views.MAX_TURNS,
        max_tools=views.MAX_TOOLS,
        q_words=_q_words(run),
        q_table=training_views.q_table(run),
        open_conversations=training_views.open_conversations(run),
        q_figures=training_views.q_figures(run),
        old_fits=training_views.old_fits(run),
        warm_start=training_views.warm_start_figure(run),
        ppo=ppo,
        more_ppo=more_ppo,
        improvements=training_views.stage_messages(run, IMPROVE),
        settings=provenance.settings(run),
        origins=provenance.origins(run),
    )


def _q_words(run: RunReport) -> str:
    newest = next((cycle for cycle in reversed(run.trained) if cycle.calibration), None)
    if newest is None:
        return "No Q has been fitted yet."
    text = words.skill_words(newest.calibration)
    return f"Cycle {newest.iteration}: {text}"


def _own_text(name: str) -> str:
    return files("ippo_trainer.report").joinpath(name).read_text(encoding="utf-8")


@cache
def template(name: str) -> jinja2.Template:
    """A page of this package, with its style."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _own_text("style.css")
    environment.globals["style"] = Markup(style)  # noqa: S704 - our own file
    environment.globals["style_hash"] = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(name)
