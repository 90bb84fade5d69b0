"""How far something is, as a bar and as a count."""

from ippo_operator.local.watch import Progress

_BAR = 24


def bar(share: float) -> str:
    """For a share from 0 to 1."""
    filled = round(min(1.0, share) * _BAR)
    return "█" * filled + "░" * (_BAR - filled)


def count(progress: Progress) -> str:
    """Units done, and what the stage says behind them."""
    return f"{progress.done}/{progress.total} {progress.rest}"
