"""What the watches have told: the index of known runs, and whether anything escapes them."""

from collections.abc import Mapping

from ippo_operator.cluster import clock

Key = tuple[str, str]


class Sightings:
    """Runs by their newest resourceVersion that a watch told of.

    Args:
        steady: seconds.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._versions: dict[Key, str] = {}
        self._last: float | None = None
        self._started = steady()
        self._missing_since: float | None = None

    def saw(self, key: Key, version: str) -> bool:
        """Takes note of a run; whether this version is news."""
        self._last = self._steady()
        news = self._versions.get(key) != version
        self._versions[key] = version
        return news

    def gone(self, key: Key) -> None:
        """The run was deleted."""
        self._last = self._steady()
        self._versions.pop(key, None)

    def forget(self, key: Key) -> None:
        """A pass found no such run: what a watch told of it came late."""
        self._versions.pop(key, None)

    def knows(self, key: Key) -> bool:
        """Whether a watch told of such a run that was not deleted since."""
        return key in self._versions

    def child_seen(self) -> None:
        """A watch told of a Job, a pod or a Deployment."""
        self._last = self._steady()

    def known(self) -> list[Key]:
        """All known runs."""
        return list(self._versions)

    def snapshot(self) -> Mapping[Key, str]:
        """What is known now."""
        return dict(self._versions)

    def missed(self, before: Mapping[Key, str], listed: Mapping[Key, str]) -> list[Key]:
        """Runs that were listed in a version that no watch told of, neither before nor since."""
        found = [
            key
            for key, version in listed.items()
            if before.get(key) != version and self._versions.get(key) in {None, before.get(key)}
        ]
        if not found:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = self._steady()
        return found

    @property
    def event_age(self) -> float:
        """Seconds since the last watch event, or since the start."""
        return self._steady() - (self._last if self._last is not None else self._started)

    @property
    def stale_for(self) -> float:
        """For how many seconds the watches have been missing something; 0 if they miss nothing."""
        return 0.0 if self._missing_since is None else self._steady() - self._missing_since
