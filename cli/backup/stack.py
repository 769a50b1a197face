"""The workstation's containers: what of them is saved, and how it is put back as a whole.

The orchestrator is stopped meanwhile, which lets its runs end first; then databases, volumes and
collections belong together. Everything that a restore replaces is kept beside it until all of it
is in place; then it goes, or, when anything failed, comes back.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cli.backup import postgres, qdrant, state, unfinished, volumes
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import Part
from cli.compose import Compose
from contracts.errors import BadRequest, VarietError

# They write to what is copied, and are stopped in this order. READERS have folders of the host
# mounted, which a restore replaces.
WRITERS = ("langfuse-web", "langfuse-worker", "orchestrator", "workspace")
READERS = ("calibration", "logs")
STORES = ("postgres", "qdrant")
START_TIMEOUT_S = 900.0
Tell = Callable[[str], None]
Undo = Callable[[], object]

NOT_SAVED = {
    "langfuse-web": "Langfuse's traces and media (its users, projects and keys are in)",
    "searxng": "SearXNG's cache",
    "redis": "Redis: work that was queued",
}


class Stack:
    """The containers of this host, and a way to say what is going on."""

    def __init__(self, compose: Compose, state_dir: Path, tell: Tell) -> None:
        self._compose = compose
        self._state_dir = state_dir
        self._tell = tell
        self._services = compose.services()
        self._volumes = volumes.volumes(compose.configuration())

    @property
    def left_out(self) -> list[str]:
        return [text for name, text in NOT_SAVED.items() if name in self._services]

    def save(self, writer: Writer) -> dict[str, int]:
        """Add all parts; the schema versions of what they hold."""
        with self._quiet(STORES):
            self._tell("databases")
            postgres.save(writer, self._compose)
            for volume in self._volumes:
                self._tell(f"volume {volume.name}")
                volumes.save(writer, self._compose, volume)
            if "qdrant" in self._services:
                self._tell("index")
                qdrant.save(writer, self._compose)
            version = postgres.version(self._compose)
        return {} if version is None else {postgres.SERVICE: version}

    def check(self, parts: list[Part]) -> None:
        """Raises BadRequest when this stack has no place for a part; nothing is touched."""
        there = {volume.name for volume in self._volumes}
        for part in parts:
            match part.kind:
                case "database":
                    postgres.check(part)
                case "collection":
                    qdrant.check(part)
                case "volume" if part.of not in there:
                    raise BadRequest(
                        "no_volume",
                        f"This stack has no volume {part.of}. Nothing was changed.",
                        "Restore with the version of Variet that made the backup.",
                    )

    def restore(self, reader: Reader, parts: list[Part]) -> None:
        """All parts or none. Raises what went wrong, and says whether what was there is back."""
        undos: list[tuple[str, Undo]] = []
        settle: list[Undo] = []
        with self._quiet(STORES, start=True):
            again = unfinished.begin(reader.path)
            try:
                for part in parts:
                    self._put_back(reader, part, undos, settle)
            except BaseException as error:  # boundary: an interrupt, too, leaves what was there
                lost = self._undo(undos)
                if not (lost or again):
                    unfinished.end()
                if isinstance(error, VarietError):
                    raise _outcome(error, lost) from error
                raise
            for last in settle:
                try:
                    last()
                except VarietError as error:
                    self._tell(f"what was replaced could not be removed: {error.message}")
            unfinished.end()

    def _undo(self, undos: list[tuple[str, Undo]]) -> list[str]:
        """Put back what was there; what could not be."""
        self._tell("putting back what was there")
        lost = []
        for name, undo in reversed(undos):
            try:
                undo()
            except VarietError as error:
                self._tell(f"{name}: {error.message}")
                lost.append(name)
        return lost

    def _put_back(
        self, reader: Reader, part: Part, undos: list[tuple[str, Undo]], settle: list[Undo]
    ) -> None:
        compose, name = self._compose, f"{part.kind} {part.of}"
        if part.kind == "collection" and "qdrant" not in self._services:
            self._tell(f"not restored: {part.of}, because the profile qdrant is not selected")
            return
        self._tell(name)
        if part.kind == "database":
            undos.append((name, postgres.restore(reader, part, compose)))
            settle.append(lambda: postgres.settle(part, compose))
        elif part.kind == "state":
            state.restore(reader, part, self._state_dir)
            undos.append((name, lambda: state.undo(self._state_dir)))
            settle.append(lambda: state.settle(self._state_dir))
        elif part.kind == "volume":
            volume = next(one for one in self._volumes if one.name == part.of)
            volumes.restore(reader, part, compose, volume)
            undos.append((name, lambda: volumes.undo(compose, volume)))
            settle.append(lambda: volumes.settle(compose, volume))
        elif part.kind == "collection":
            restored = qdrant.restore(reader, part, compose)
            undos.append((name, restored.undo))
            settle.append(restored.settle)

    @contextmanager
    def _quiet(self, needed: tuple[str, ...], start: bool = False) -> Iterator[None]:
        """Stop who writes, have up what is needed; afterwards everything is as it was before, or,
        with `start`, up, unless what a restore left is half one thing and half another."""
        up = {one.service for one in self._compose.containers() if one.state == "running"}
        writers = [name for name in (*WRITERS, *(READERS if start else ())) if name in up]
        stores = [name for name in needed if name in self._services]
        idle = [name for name in stores if name not in up]
        with ExitStack() as after:
            if start:
                after.callback(self._up_again)
            else:
                # `start`, not `up`, which would also bring in settings that changed meanwhile.
                after.callback(self._start, writers)
                after.callback(self._stop, idle)
            self._stop(writers)
            self._up(stores)
            yield

    def _stop(self, services: list[str]) -> None:
        if services:
            self._tell(f"stopping {', '.join(services)}")
            self._compose.call("stop", *services, timeout_s=START_TIMEOUT_S)

    def _start(self, services: list[str]) -> None:
        if services:
            self._tell(f"starting {', '.join(services)}")
            self._compose.call("start", *reversed(services), timeout_s=START_TIMEOUT_S)
            self._compose.wait_until_well(services, START_TIMEOUT_S)

    def _up_again(self) -> None:
        if unfinished.sign().exists():
            self._tell("nothing is started: what is here may be of two times")
            return
        self._up([])

    def _up(self, services: list[str]) -> None:
        """Start these, or all, and wait until they are healthy."""
        self._tell(f"starting {', '.join(services) or 'everything'}")
        self._compose.call("up", "--detach", "--wait", *services, timeout_s=START_TIMEOUT_S)


def _outcome(error: VarietError, lost: list[str]) -> VarietError:
    if lost:
        kept = f"Not put back: {', '.join(lost)}; what was there is kept aside."
        remedy = "Mend that, then restore again: docs/operations.md says what is kept where."
    else:
        kept, remedy = "What was there before is back.", "Mend that, or use another backup."
    return type(error)(error.code, f"{error.message} {kept}", remedy)
