"""What an engine is to whoever owns it: a container or a process behind one interface."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import EngineError
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.scheduling.types import FailureKind

OnPhase = Callable[[float | None, str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that answers. `base_url` is without /v1; `key` is what it asks for as a bearer;
    `context` is tokens per request as it was started. `seen_mib` is what it took of each device, as
    far as its log or the driver told. `id` is a container's or a process's."""

    base_url: str
    key: str
    context: int
    id: str
    seen_mib: Mapping[str, int]
    adopted: bool = False


class LoadError(EngineError):
    """An engine did not come up; nothing of it is left. `kind` says how."""

    def __init__(self, kind: FailureKind, code: str, message: str, remedy: str) -> None:
        super().__init__(code, message, remedy)
        self.kind = kind


def lacking_file(spec: EngineSpec, store: Store) -> LoadError | None:
    """That a model's single file is not here."""
    path = store.path(spec.entry)
    if path is None or path.is_file():
        return None
    return LoadError(
        "refused",
        "model_missing",
        f"{spec.name}: there is no file {path}.",
        f"variet models pull {spec.entry.id}",
    )


class Engine(Protocol):
    """One engine of the catalogue. Whoever owns it makes one call at a time, but for `logs`.

    A cancelled `start` or `wake` leaves nothing behind, and returns only when that is so."""

    spec: EngineSpec

    def lacks(self) -> LoadError | None:
        """Why it cannot even be tried: nobody has to go for what has no file. At once."""

    async def find(self) -> Running | None:
        """The engine that an earlier gateway left behind, if it runs, answers and was started with
        what `spec` says now (`spec.fingerprint`); one that differs, or hangs, is ended first."""

    async def start(self, context: int, on_phase: OnPhase) -> Running:
        """Start it with `context` tokens per request; returns when it answers. `on_phase` is told
        how far its load is (0..1, None: unknown), and in words. Raises LoadError."""

    async def stop(self) -> None:
        """End it: politely, then by force. Returns when it is gone, its name and memory free."""

    async def sleep(self) -> None:
        """Free its memory, as deep as `spec.sleep` says; raises LoadError where it cannot."""

    async def wake(self, on_phase: OnPhase) -> Running:
        """The reverse of `sleep`. Raises LoadError."""

    async def ended(self) -> str:
        """Returns when the engine that runs is gone by itself, with what is known of why."""

    def logs(self, follow: bool) -> AsyncIterator[bytes]:
        """Its log in whole lines, of the last start; nothing, if it was never started."""
