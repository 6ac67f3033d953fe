"""What the command line chooses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    scale: float = 1.0
    """The share of the sockets, or of the time."""
    runs: int = 3
    only: tuple[str, ...] = ()
    """Workloads of the servers; none named means all."""
    profile: bool = False
    """Where they go, too."""
    contestants: tuple[str, ...] = ()
    """None named means all; the bare loop runs always, as what the others are compared with."""

    @property
    def partial(self) -> bool:
        """Whether some of the figures are left as they were."""
        return bool(self.only or self.contestants)
