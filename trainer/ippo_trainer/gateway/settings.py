"""The settings of a gateway."""

from dataclasses import dataclass, field
from pathlib import Path

from ippo_trainer.contract.live import JOURNAL_BYTES
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.policies import Patience


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway works."""

    routes: Path
    """A file, `contract.live.Routes` as JSON."""
    journal: Path
    """A folder of its own, on a disk that outlives the process."""
    log: StoreLocation
    """The folder of segments."""
    port: int
    """For applications; 0 takes a free one, which the log names."""
    internal_port: int
    """For the operator; as `port`."""
    keys: Path | None = None
    """A file of API keys; None lets everybody in."""
    origins: tuple[str, ...] = ()
    """Of pages in browsers that may ask."""
    redact: tuple[str, ...] = ()
    """As in spec.gateway.redact."""
    journal_bytes: int = JOURNAL_BYTES
    """Of events that are not in the store yet."""
    linger: float = 3.0
    """Seconds after SIGTERM in which requests that still come are answered."""
    grace: float = 50.0
    """Seconds after SIGTERM by which all is over."""
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    patience: Patience = field(default_factory=Patience)
