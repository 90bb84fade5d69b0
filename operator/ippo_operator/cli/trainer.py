"""Commands that need the trainer's libraries, and what can go wrong in them."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from ippo_trainer.contract.errors import StageError

from ippo_operator.cli.errors import CommandError

_LIBRARIES = ("torch", "transformers", "trl", "peft", "pyarrow", "numpy")
_REMEDY = "this needs the trainer; pip install 'iterative-ppo[trainer]'"


def check_trainer() -> None:
    """Raises CommandError if the trainer's libraries are not installed."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"{', '.join(missing)} not installed: {_REMEDY}")


@contextmanager
def trainer_errors() -> Iterator[None]:
    """What the trainer says is wrong, as a CommandError with the exit code of the contract."""
    try:
        yield
    except ImportError as error:
        raise CommandError(f"{error}: {_REMEDY}") from None
    except StageError as error:
        raise CommandError(str(error), error.exit_code) from None
