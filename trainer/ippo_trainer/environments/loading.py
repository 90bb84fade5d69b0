"""Finds an environment by its name: built in, in an installed module, or in a file."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from threading import RLock
from types import ModuleType

from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.params import BUILT_IN_ENVIRONMENTS
from ippo_trainer.environments.checked import CheckedEnvironment, checked, file_of
from ippo_trainer.environments.failures import failure

_importing = RLock()
_HOW = f"Use one of {', '.join(BUILT_IN_ENVIRONMENTS)}, or your own as module:Class or path/to/file.py:Class."


def load(spec: params.EnvironmentSpec) -> CheckedEnvironment:
    """The environment that a spec names, wrapped so that its mistakes are named.

    The result is a `Demonstrator` or an `ExactScorer` where the environment's own class is one.

    Raises:
        BadSpecError: no such name, module, file or class; an option that it does not take or refuses.
    """
    factory = _find(spec.name)
    _check_options(spec, factory)
    try:
        inner = factory(**spec.options)
    except StageError:
        raise
    except (Exception, SystemExit) as error:
        what = f"environment {spec.name}: {factory.__name__}(...) raised"
        raise _bad_spec(what, error, file_of(factory), "Check environment.options.") from error
    return checked(inner, factory.__name__)


def _find(name: str) -> type:
    target = BUILT_IN_ENVIRONMENTS.get(name, name)
    place, separator, class_name = target.rpartition(":")
    if not separator or not place or not class_name:
        raise BadSpecError(f"environment.name {name!r} is not known", _HOW)
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except StageError:
        raise
    except (Exception, SystemExit) as error:
        raise _bad_spec(
            f"environment.name {name!r}: importing {place} failed:", error, str(Path(place).resolve()), _HOW
        ) from error
    factory = getattr(module, class_name, None)
    if not isinstance(factory, type):
        raise BadSpecError(f"environment.name {name!r}: {place} has no class {class_name!r}", _HOW)
    return factory


def _bad_spec(what: str, error: BaseException, file: str, remedy: str) -> StageError:
    """Before anything was held, an error of the code counts as one of the spec."""
    problem = failure(what, error, file)
    return problem if isinstance(problem, TryAgainError) else BadSpecError(problem.message, remedy)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadSpecError(f"environment.name: no file {path}", "Give a path that exists where the stage runs.")
    resolved = str(path.resolve())
    module_name = "ippo_environment_" + hashlib.sha256(resolved.encode()).hexdigest()[:16]
    with _importing:  # a module is listed before it has run
        return sys.modules.get(module_name) or _run_file(module_name, path, resolved)


def _run_file(module_name: str, path: Path, resolved: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, resolved)
    if spec is None or spec.loader is None:
        raise BadSpecError(f"environment.name: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    # Console scripts do not search the working directory as `python -m` does; last, so that it shadows nothing.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _check_options(spec: params.EnvironmentSpec, factory: type) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError as error:  # a class written in C may have no signature
        raise BadSpecError(f"environment.name {spec.name!r}: {error}", _HOW) from error
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in spec.options:
        if option not in names and not takes_any:
            allowed = f"It takes {', '.join(names)}." if names else "It takes none."
            raise BadSpecError(f"environment.options.{option}: {spec.name} has no such option", allowed)
    for name in names:
        if parameters[name].default is inspect.Parameter.empty and name not in spec.options:
            raise BadSpecError(f"environment.options.{name} is missing: {spec.name} needs it")
