"""Key figures of a stage in a few words, for events and the live log."""

from ippo_trainer.contract.spec import StageResult
from ippo_trainer.contract.stages import FIT_Q, IMPROVE

_FORMS = {
    "success": "success {:.1%}",
    "personaSuccess": "{:.1%} with personas",
    "successWithoutPersonas": "{:.1%} without",
    "value": "value {:.4f}",
    "exactShareOfOptimum": "{:.1%} of the optimum",
    "acceptance": "{:.1%} accepted",
    "kl": "KL {:z.2f}",
    "loss": "loss {:.3f}",
}
_IN_ITS_OWN_WORDS = {FIT_Q, IMPROVE}


def figures_in_words(result: StageResult) -> str:
    """E.g. `success 28.1%, value 0.2214, 65.4% of the optimum`; what fit-q and improve say themselves; or nothing."""
    if result.stage in _IN_ITS_OWN_WORDS and result.message:
        return result.message
    return ", ".join(form.format(result.metrics[name]) for name, form in _FORMS.items() if name in result.metrics)


def span_in_words(seconds: float) -> str:
    """E.g. `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
