"""The index of runs: what the watches told of them, and whether the watches miss anything."""

from collections.abc import Mapping

from ippo_operator.cluster import clock
from ippo_operator.cluster.resources import Key


class RunIndex:
    """Runs by their newest resourceVersion that a watch told of.

    Args:
        steady: seconds.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._versions: dict[Key, str] = {}
        self._event_at = steady()
        self._missing_since: float | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self._versions

    def put(self, key: Key, version: str) -> bool:
        """Takes note of a run; whether this version is news."""
        self.event()
        news = self._versions.get(key) != version
        self._versions[key] = version
        return news

    def remove(self, key: Key) -> None:
        """The run is gone."""
        self._versions.pop(key, None)

    def event(self) -> None:
        """A watch told of something."""
        self._event_at = self._steady()

    def versions(self) -> Mapping[Key, str]:
        """A copy of the index."""
        return dict(self._versions)

    def missed(self, before: Mapping[Key, str], listed: Mapping[Key, str]) -> list[Key]:
        """Runs that were listed in a version that no watch told of, neither before nor since."""
        missed = [
            key
            for key, version in listed.items()
            if before.get(key) != version and self._versions.get(key) in {None, before.get(key)}
        ]
        if not missed:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = self._steady()
        return missed

    @property
    def event_age(self) -> float:
        """Seconds since the last watch event, or since the start."""
        return self._steady() - self._event_at

    @property
    def stale_for(self) -> float:
        """For how many seconds the watches have been missing something; 0 if they miss nothing."""
        return 0.0 if self._missing_since is None else self._steady() - self._missing_since
