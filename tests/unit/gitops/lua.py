"""Runs Argo CD's Lua in a real Lua 5.1, with no more libraries than Argo CD gives a script."""

import copy
from pathlib import Path
from typing import Any

import lupa.lua51

FILES = Path(__file__).parents[3] / "charts" / "ippo-operator" / "files" / "argocd"
ACTIONS = ("suspend", "resume", "approve", "reject")
_FORBIDDEN = ("io", "os", "package", "require", "dofile", "loadfile", "debug")


def _runtime(item: dict[str, Any]) -> Any:
    runtime = lupa.lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for name in _FORBIDDEN:
        runtime.globals()[name] = None
    runtime.globals().obj = _to_lua(runtime, copy.deepcopy(item))
    return runtime


def _to_lua(runtime: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _to_lua(runtime, child) for key, child in value.items() if child is not None})
    if isinstance(value, list):
        return runtime.table_from([_to_lua(runtime, child) for child in value])
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _from_lua(value: Any) -> Any:
    """Tables with the keys 1 to n are lists, as Argo CD takes them; numbers without a fraction are integers."""
    if lupa.lua51.lua_type(value) == "table":
        keys = list(value.keys())
        if keys and keys == list(range(1, len(keys) + 1)):
            return [_from_lua(value[key]) for key in keys]
        return {key: _from_lua(value[key]) for key in keys}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run(script: Path, item: dict[str, Any]) -> Any:
    """What a script returns for an object."""
    return _from_lua(_runtime(item).execute(script.read_text()))


def health(item: dict[str, Any]) -> dict[str, Any]:
    """Status and message."""
    answer: dict[str, Any] = run(FILES / "health.lua", item)
    return answer


def enabled(item: dict[str, Any]) -> list[str]:
    """The actions that apply, in alphabetical order."""
    actions = run(FILES / "actions" / "discovery.lua", item)
    assert set(actions) == set(ACTIONS)
    return sorted(name for name, action in actions.items() if not action["disabled"])


def act(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """The object after an action."""
    changed: dict[str, Any] = run(FILES / "actions" / f"{name}.lua", item)
    return changed
