"""What `ippo validate` sees beyond the manifest itself: files, models and classes that are not there, odd settings.

Nothing is imported that the manifest names, and no user's code runs: sources are read, as text.
"""

import ast
import difflib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from urllib.parse import unquote

from ippo_trainer.contract import defaults, log_names
from ippo_trainer.contract.errors import StageError
from ippo_trainer.contract.params import BUILT_IN_ENVIRONMENTS
from ippo_trainer.models.files import base_directory, base_of, check_files, read_config

from ippo_operator.api.fitting import rates
from ippo_operator.api.resource import IterativePPORun

_FILE = "file://"
_HISTORY = "spec.collect.history.conversations"
_MAX_SOURCE = 1 << 22
_SURVIVABLE = {
    (defaults.WARM_START_PATH, "learning_rate"): 2e-4,
    (defaults.FIT_Q_PATH, "learning_rate"): 2e-4,
    (defaults.IMPROVE_PATH, "learning_rate"): 5e-5,
    (defaults.IMPROVE_PATH, "critic_learning_rate"): 5e-4,
    (defaults.MPO_PATH, "learning_rate"): 2e-4,
}
"""By section and field, of a pretrained base all of whose weights are trained."""
_ADAPTER_RATES = 10
"""How much larger the best learning rate of adapters is than that of all weights (Schulman et al., LoRA Without Regret,
2025)."""

_TINY_RATE = 0.1
"""Of Adam, on a model of random weights: each step changes them by as much as they are."""
_SURVIVORS = {
    "tiny": "a tiny base",
    "pretrained": "a pretrained base",
    "adapters": "adapters on a pretrained base",
}


@dataclass(frozen=True)
class Finding:
    """Something that a user ought to know before the run starts."""

    text: str
    """Begins with the field."""
    wrong: bool
    """The run would fail here; otherwise it only looks odd, or is for another machine to judge."""


def findings(run: IterativePPORun) -> list[Finding]:
    """What the manifest names and this machine lacks, and settings that do not fit each other."""
    # With a bucket the run may be meant for a cluster, whose images have other files than this machine.
    elsewhere = run.spec.artifacts is not None
    suffix = " on this machine; in a cluster it has to be in the stages' image or volume" if elsewhere else ""
    missing = [Finding(f"{text}{suffix}", not elsewhere) for text in (*_files(run), *_environment(run))]
    wrong = [Finding(text, True) for text in (*_tiny(run), *_ranks(run), *_names(run))]
    return [*missing, *wrong, *(Finding(text, False) for text in (*_relative(run), *_rates(run)))]


def _tiny(run: IterativePPORun) -> Iterator[str]:
    base = run.spec.policy.base
    if run.spec.policy.kind == "tiny" and defaults.tiny_shape(base) is None:
        yield f"spec.policy.base: given {base}, allowed is {defaults.TINY_NAMES}"


def _logs(run: IterativePPORun) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The files of conversations and of what became of them: field, address, and the endings that are read."""
    warm_start, history = run.spec.warm_start, run.spec.collect.history
    if warm_start is not None and warm_start.conversations is not None:
        yield "spec.warmStart.conversations", warm_start.conversations, log_names.LOGS
    if history is not None:
        yield _HISTORY, history.conversations, log_names.LOGS
        if history.outcomes is not None:
            yield "spec.collect.history.outcomes", history.outcomes, log_names.OUTCOMES
        if history.reactions is not None:
            yield "spec.collect.history.reactions", history.reactions, log_names.REACTIONS


def _files(run: IterativePPORun) -> Iterator[str]:
    if run.spec.policy.base.startswith(_FILE):
        yield from _model(run.spec.policy.base)
    for field, uri, _ in _logs(run):
        folders = field == _HISTORY  # what servers logged
        if uri.startswith(_FILE) and not (_path(uri).is_file() or (folders and _path(uri).is_dir())):
            yield f"{field}: there is no file {_path(uri)}{_slashes(uri)}"


def _names(run: IterativePPORun) -> Iterator[str]:
    """Of files whose names do not say what is in them: no stage would read them."""
    for field, uri, endings in _logs(run):
        folder = uri.endswith("/") or (uri.startswith(_FILE) and _path(uri).is_dir())
        if not (folder or uri.lower().endswith(endings)):
            yield f"{field}: given {uri}, allowed is a name that ends in {', '.join(endings[:-1])} or {endings[-1]}"


def _relative(run: IterativePPORun) -> Iterator[str]:
    """Addresses of files that are there, seen from here."""
    for field, uri in [("spec.policy.base", run.spec.policy.base), *((field, uri) for field, uri, _ in _logs(run))]:
        if uri.startswith(_FILE) and _path(uri).exists() and (slashes := _slashes(uri)):
            yield f"{field}: given {uri}, which is looked for from where each command is started{slashes}"


def _slashes(uri: str) -> str:
    """What to write where two slashes name a place relative to a folder that nobody knows later."""
    place = uri.removeprefix(_FILE)
    if place.startswith("/"):
        return ""
    host = place.startswith("localhost/")
    here = place.removeprefix("localhost") if host else f"{Path.cwd()}/{place}"
    return f"; file:// is followed by a whole path, with three slashes: write {_FILE}{here}"


def _model(base: str) -> Iterator[str]:
    where, directory = "spec.policy.base", _path(base)
    if not directory.is_dir():
        yield f"{where}: there is no folder {directory}{_slashes(base)}"
        return
    try:
        read_config(directory)
        adapted = base_of(directory)
        if adapted is not None:
            base_directory(directory, adapted)
        else:
            check_files([path.name for path in directory.iterdir()], directory.name)
    except StageError as error:
        yield f"{where}: {error}"
    if not (directory / "tokenizer.json").is_file():
        yield f"{where}: {directory} has no tokenizer.json"


def _path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(_FILE)))


def _environment(run: IterativePPORun) -> Iterator[str]:
    simulate = run.spec.collect.simulate
    if simulate is None:
        return
    name = simulate.environment.name
    if name in BUILT_IN_ENVIRONMENTS:
        return
    where = "spec.collect.simulate.environment.name"
    place, _, class_name = name.rpartition(":")
    if not place or not class_name.isidentifier():
        built_in = ", ".join(BUILT_IN_ENVIRONMENTS)
        near = difflib.get_close_matches(name, BUILT_IN_ENVIRONMENTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"{where}: given {name}, allowed is {built_in}, module:Class or path/to/file.py:Class{hint}"
        return
    source = Path(place) if place.endswith(".py") else _source(place)
    if source is None or not source.is_file():
        what = f"file {place}" if place.endswith(".py") else f"module {place}"
        yield f"{where}: there is no {what}"
        return
    if source.suffix != ".py" or source.stat().st_size > _MAX_SOURCE:
        return  # compiled, or too large to be read for this
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        yield f"{where}: {source}{line}: {getattr(error, 'msg', error)}"
        return
    if not _defines(tree, class_name):
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        yield f"{where}: {source} has no class {class_name}; it has {', '.join(classes[:8]) or 'none'}"


def _source(module: str) -> Path | None:
    """The file of a module, found as an import would, without importing its packages."""
    path: list[str] | None = [*sys.path, str(Path.cwd())]
    origin = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            return None
        origin, path = spec.origin, list(spec.submodule_search_locations or [])
    return None if origin is None else Path(origin)


def _defines(tree: ast.Module, name: str) -> bool:
    """Whether the module may have the name: defined, assigned or imported, in whatever branch."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=defined) | ast.FunctionDef(name=defined):
                names = {defined}
            case ast.Name(id=assigned, ctx=ast.Store()):
                names = {assigned}
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names = {alias.asname or alias.name for alias in aliases}
            case _:
                continue
        if names & {name, "__getattr__", "*"}:
            return True
    return False


def _ranks(run: IterativePPORun) -> Iterator[str]:
    """Of the last layer, where the width of the trunk can be seen from here."""
    base, fit_q = run.spec.policy.base, run.spec.fit_q
    width = _width(base)
    if fit_q.last_layer == "Gradient" or width is None:
        return
    if max(fit_q.ranks_of(width)) > width:
        yield f"spec.fitQ.ranks: given {max(fit_q.ranks_of(width))}, allowed is at most {width}, the width of {base}"


def _width(base: str) -> int | None:
    """Of hidden states; None where nothing here says it."""
    tiny = defaults.tiny_shape(base)
    if tiny is not None:
        return tiny.width
    if not base.startswith(_FILE):
        return None
    try:
        width = read_config(_path(base)).get("hidden_size")
    except (StageError, OSError):
        return None  # `_model` says so
    return width if isinstance(width, int) else None


def _rates(run: IterativePPORun) -> Iterator[str]:
    """Of the stages that the run has."""
    spec, kind = run.spec, run.spec.policy.kind
    for section, name in rates(spec):
        rate, survivable = section.value(name), _SURVIVABLE[section.PATH, name]
        if float(rate) > (_TINY_RATE if kind == "tiny" else survivable * (_ADAPTER_RATES if kind == "adapters" else 1)):
            field = type(section).model_fields[name].alias
            survivor = f"{_SURVIVORS[kind]} survive{'' if kind == 'adapters' else 's'}"
            suits = getattr(defaults.BY_BASE[section.PATH][name], kind)
            yield f"spec.{section.PATH}.{field}: {rate} is more than {survivor}; left out, it is {suits}"
