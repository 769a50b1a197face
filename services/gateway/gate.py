"""What the HTTP front asks of the rest: to be let in to an engine, and how the engines stand.

`GateProtocol` is what `front` is written against; `shell.Gate` is the one there is.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import VarietError
from contracts.tiers import Priority, Reloaded, SwapProgress, TiersStatus
from services.gateway.catalogue import Catalogue, EngineSpec

OnProgress = Callable[[SwapProgress], None]


class Refused(VarietError):
    """A request was not let in. `retry_after_s` None: it would be refused again."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        remedy: str,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, remedy)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Upstream:
    """An engine that is ready. `base_url` is without /v1; `context` is that of the present start,
    which may be less than `spec.context`."""

    spec: EngineSpec
    base_url: str
    key: str
    context: int


class Lease(Protocol):
    """A request's right to its engine, from `enter` until `release`; the engine stays meanwhile."""

    @property
    def upstream(self) -> Upstream: ...

    def release(self) -> None:
        """The request is over, however it ended. Safe to call twice."""


class GateProtocol(Protocol):
    @property
    def catalogue(self) -> Catalogue: ...

    def running_context(self, spec: EngineSpec) -> int:
        """Tokens per request of an engine as it runs now, else as it would be started."""

    async def enter(
        self,
        spec: EngineSpec,
        *,
        priority: Priority = "chat",
        request_id: str = "",
        on_progress: OnProgress | None = None,
    ) -> Lease:
        """Wait until the engine is there and has room. Raises Refused. Cancelled, the request
        leaves the queue; `on_progress` is called from the loop's own thread."""

    def status(self) -> TiersStatus: ...

    async def load(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> None:
        """Have it loaded; returns when it is ready. Raises Refused."""

    async def unload(self, spec: EngineSpec) -> None:
        """Drain it and stop it; returns when it is gone. Refused with 409 while requests wait for
        it, or while it is pinned."""

    def pin(self, spec: EngineSpec, on: bool) -> None: ...

    def lock(self, spec: EngineSpec, on: bool) -> None: ...

    async def reload(self) -> Reloaded:
        """Read the configuration again and touch only the engines that it changes. Raises
        SettingsError, and then everything stays as it is."""

    def logs(self, spec: EngineSpec, follow: bool) -> AsyncIterator[bytes]: ...

    def note_speed(self, spec: EngineSpec, tokens_per_s: float) -> None:
        """How fast its last answer came, for `status`."""

    def ready(self) -> bool:
        """Whether requests can be taken at all. Never loads anything."""
