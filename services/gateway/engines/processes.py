"""Engines as processes of this host: on a Mac, without Docker, and in tests.

An engine outlives its gateway: it has a session and a log file of its own, and a record from which
the next gateway adopts it. Only llama.cpp runs so.
"""

import asyncio
import os
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.engines import pids, slots
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.commands import card_environment, llama_server
from services.gateway.engines.engine import Engine, LoadError, OnPhase, Running, lacking_file
from services.gateway.engines.readiness import End, answers, told, until_ready
from services.gateway.engines.records import LOOPBACK, Files, Record, read_record
from services.gateway.engines.unbroken import unbroken
from services.gateway.memory.load_log import seen_mib

GRACE_S = 20.0
PORT_TRIES = 4
LOG_LOOK_S = 60.0
PORT_TAKEN = "couldn't bind"
MARK = "VARIET_ENGINES"
# What the child needs of the environment; the gateway's keys and tokens are not among it.
PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    "PYTHONPATH",
)


@dataclass(frozen=True)
class ProcessPlace:
    """What the engines of one gateway share. `folder` keeps their records and logs; `command` is
    llama-server's, in words; `devices` says how the driver calls the preset's cards."""

    folder: Path
    command: tuple[str, ...]
    key: str
    store: Store
    load_timeout_s: float
    keep_kv: bool = False
    devices: Mapping[int, str] = field(default_factory=dict)
    grace_s: float = GRACE_S
    calls: EngineCalls = field(default_factory=EngineCalls)

    @property
    def mark(self) -> str:
        """Stands in the environment of each of these engines, should a record be missing."""
        return f"{MARK}={self.folder.resolve()}"


class ProcessEngine:
    """One engine of the catalogue as a process."""

    def __init__(self, spec: EngineSpec, place: ProcessPlace) -> None:
        self.spec = spec
        self._place = place
        self._files = Files(place.folder, spec.name)
        self._running: Record | None = None

    async def find(self) -> Running | None:
        record = self._files.read()
        if record is None:
            return None
        fits = record.fingerprint == self.spec.fingerprint and record.process.alive
        if fits and await answers(self.spec, record.base_url, self._place.key, self._place.calls):
            self._running = record
            return self._as_running(record, adopted=True)
        await self._end(record)
        return None

    async def start(self, context: int, on_phase: OnPhase) -> Running:
        await self.stop()
        model = self._model()
        try:
            record = await self._start(model, context, on_phase)
            await slots.restore(self._slots(record), self._place.calls)
        except BaseException:
            # boundary: also cancelled, a start leaves nothing behind
            await unbroken(self._discard())
            raise
        return self._as_running(record)

    async def stop(self) -> None:
        if self._running is not None and self._running.process.alive:
            await slots.save(self._slots(self._running), self._place.calls)
        await self._discard()

    async def _discard(self) -> None:
        """End what runs, or what an earlier gateway has left."""
        if record := self._running or self._files.read():
            await self._end(record)

    async def sleep(self) -> None:
        raise LoadError(
            "refused",
            "engine_cannot_sleep",
            f"{self.spec.name} is llama-server, which cannot sleep.",
            "Set sleep: 0 for it in the host's preset.",
        )

    async def wake(self, on_phase: OnPhase) -> Running:
        return await self.start(self.spec.context, on_phase)

    async def ended(self) -> str:
        record = self._running
        if record is None:
            return "it was not running"
        ending = asyncio.create_task(record.process.gone())
        try:
            while not (await asyncio.wait({ending}, timeout=LOG_LOOK_S))[0]:
                self._files.shorten()
            end = _end(ending.result())
        finally:
            ending.cancel()
        return told(end, self._files.tail())

    def logs(self, follow: bool) -> AsyncIterator[bytes]:
        return self._files.text(follow)

    def lacks(self) -> LoadError | None:
        entry = self.spec.entry
        if entry.engine != "llama.cpp" or self._place.store.path(entry) is None:
            return LoadError(
                "refused",
                "engine_needs_docker",
                f"{self.spec.name} is {entry.engine}'s; without Docker only llama.cpp runs.",
                "Set ENGINE_BACKEND=docker, or choose another model in the host's preset.",
            )
        return lacking_file(self.spec, self._place.store)

    def _model(self) -> Path:
        path = self._place.store.path(self.spec.entry)
        if (error := self.lacks()) is not None or path is None:
            raise error or AssertionError("what has no path lacks it")
        return path

    async def _start(self, model: Path, context: int, on_phase: OnPhase) -> Record:
        for left in reversed(range(PORT_TRIES)):
            record = self._spawn(model, context)
            try:
                await until_ready(
                    self.spec,
                    _Loading(record, self._files, self._place.key),
                    self._place.calls,
                    self._place.load_timeout_s,
                    on_phase,
                )
            except LoadError:
                # Between the choice of a port and its use another program may take it.
                if not left or not any(PORT_TAKEN in line for line in self._files.tail()):
                    raise
                await self._end(record)
            else:
                return record
        raise AssertionError("the last try either returns or raises")

    def _spawn(self, model: Path, context: int) -> Record:
        place, port = self._place, free_port()
        launch = llama_server(
            self.spec,
            context,
            model=str(model),
            host=LOOPBACK,
            port=port,
            key=place.key,
            slots=self._slot_folder(),
        )
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {**launch.environment, **card_environment(self.spec, place.devices)}
        mark, _, marked = place.mark.partition("=")
        with self._files.new_log() as log:
            try:
                process = pids.spawn(
                    (*place.command, *launch.words),
                    {**environment, mark: marked},
                    log.fileno(),
                )
            except OSError as error:
                raise _not_started(self.spec, place.command, error) from error
        record = Record(
            self.spec.name, process.pid, process.started, port, self.spec.fingerprint, context
        )
        self._running = record
        self._files.write(record)
        return record

    async def _end(self, record: Record) -> None:
        """Politely, then by force; returns when it is gone, and its record with it."""
        await end_process(record.process, self._place.grace_s)
        if self._running == record:
            self._running = None
        self._files.forget(record)

    def _as_running(self, record: Record, adopted: bool = False) -> Running:
        return Running(
            base_url=record.base_url,
            key=self._place.key,
            context=record.context,
            id=str(record.pid),
            seen_mib=seen_mib(self._files.head(), self.spec.cards),
            adopted=adopted,
        )

    def _slot_folder(self) -> str | None:
        if not self._place.keep_kv:
            return None
        folder = self._place.folder / "slots"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(folder)

    def _slots(self, record: Record) -> slots.Kept | None:
        folder = self._slot_folder()
        model = self._place.store.path(self.spec.entry)
        if folder is None or model is None or not slots.plain(self._files.head()):
            return None
        return slots.Kept(
            self.spec, Path(folder), model, record.base_url, self._place.key, record.context
        )


@dataclass(frozen=True)
class _Loading:
    """A process that is on its way up."""

    record: Record
    files: "Files"
    key: str

    @property
    def base_url(self) -> str:
        return self.record.base_url

    async def gone(self) -> End:
        return _end(await self.record.process.gone())

    async def tail(self) -> Sequence[str]:
        return self.files.tail()


class ProcessHost:
    """All engines of this gateway, and those that earlier ones have left."""

    def __init__(self, place: ProcessPlace) -> None:
        self._place = place

    def engine(self, spec: EngineSpec) -> Engine:
        return ProcessEngine(spec, self._place)

    async def remove_strangers(self, keep: Collection[str]) -> list[str]:
        """Ends engines whose fingerprint is not in `keep`, and such without a record. Returns their
        names, or numbers."""
        records = [r for p in self._place.folder.glob("*.json") if (r := read_record(p))]
        known = {record.process for record in records if record.fingerprint in keep}
        named = {record.process: record.name for record in records}
        # What an engine has started itself belongs to it.
        kept = {process.pid for process in known if process.alive}
        marked = {p for p in pids.marked(self._place.mark) if pids.session_of(p.pid) not in kept}
        strangers = {*named, *marked} - known
        grace = self._place.grace_s
        alive = [process for process in strangers if process.alive]
        await asyncio.gather(*(end_process(process, grace) for process in alive))
        for record in records:
            if record.process in strangers:
                Files(self._place.folder, record.name).forget(record)
        return sorted(named.get(process, str(process.pid)) for process in alive)

    async def close(self) -> None:
        await self._place.calls.close()


async def end_process(process: pids.Process, grace_s: float) -> None:
    """SIGTERM, after `grace_s` SIGKILL. Returns when it is gone."""
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
        process.signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.gone()
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def split_command(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _end(code: int | None) -> End:
    if code is None:
        return End("for a reason that only its log tells")
    # Whoever sends SIGKILL to an engine of ours is the kernel, when memory runs out, or a person.
    return End(f"by signal {-code}" if code < 0 else f"with exit code {code}", code == -9)


def _not_started(spec: EngineSpec, command: tuple[str, ...], error: OSError) -> LoadError:
    return LoadError(
        "refused",
        "engine_start",
        f"{spec.name}: LLAMA_SERVER={shlex.join(command)} cannot be started: {error.strerror}.",
        "Install llama.cpp (brew install llama.cpp), or correct LLAMA_SERVER.",
    )
