"""From settings to a gateway that serves, and back."""

import asyncio
import fcntl
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import SettingsError, VarietError
from contracts.gateway_settings import GatewaySettings
from contracts.settings import load_settings
from services.gateway.configuration import Configuration
from services.gateway.engines.host import EngineHost, open_host, unwritable
from services.gateway.front.record import log_to_stdout
from services.gateway.front.site import Site
from services.gateway.health import Health
from services.gateway.metrics import Metrics
from services.gateway.reload import Read, read_again
from services.gateway.room import MemoryRoom
from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.shell import Gate
from services.gateway.wake import SleepAfterIdle, sleep_command

LOG = logging.getLogger(__name__)
LOCK_FILE = "lock"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
MEASURE_S = 10.0


class Signals:
    """`first` is set by the first signal to stop, `again` by the second, `reload` by SIGHUP."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.again = asyncio.Event()
        self.reload = asyncio.Event()

    def stop(self) -> None:
        (self.again if self.first.is_set() else self.first).set()


async def serve(read: Read) -> None:
    """Until SIGTERM or Ctrl-C: then nobody is let in any more, and those who are have
    DRAIN_TIMEOUT_S; a second signal ends that wait. Raises SettingsError, Unavailable."""
    settings, common = read.settings, load_settings()
    state = settings.gateway_state_dir or common.state_dir / "gateway"
    chores = _chores(settings, measured=bool(read.preset.cards))
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(state))
        room = MemoryRoom(read, common, state)
        host = await open_host(settings, read.deployment, read.preset, state, common)
        stack.push_async_callback(host.close)
        metrics = Metrics()
        gate = _gate(read, room, host, metrics)
        await _remove_strangers(read, host)
        # Until the engines have ended: a signal meanwhile would leave them without a gateway.
        signals = stack.enter_context(_signals())
        # Under Docker the next gateway adopts its engines; a process is ended by a person, who
        # wants the memory back.
        stack.push_async_callback(gate.close, stop=settings.engine_backend == "process")
        await gate.open()
        # Unless it was chosen, which model a person wants first is not known.
        if "engine_tier" in read.deployment.model_fields_set:
            gate.load_default()
        log_to_stdout()
        site = Site(gate, settings, metrics)
        await site.start()
        # What is here now stays: looked through again and again it stops all streams for a while.
        gc.collect()
        gc.freeze()
        tasks = [asyncio.create_task(chore) for chore in chores(gate)]
        tasks.append(asyncio.create_task(_reload_when_told(gate, signals.reload)))
        LOG.info("gateway ready", extra={"url": _url(settings, site.port)})
        await signals.first.wait()
        for task in tasks:
            task.cancel()
        await _drain(site, common.drain_timeout_s, signals)
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Two gateways of one folder would adopt each other's engines, and end them. The lock goes with
    the process, however that ends."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state / LOCK_FILE).open("w")
    except OSError as error:
        raise unwritable(state, error) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                "gateway_runs",
                f"GATEWAY_STATE_DIR={state}: another gateway runs with this folder.",
                "End that one, or give this one another folder.",
            ) from error
        yield


def _gate(read: Read, room: MemoryRoom, host: EngineHost, metrics: Metrics) -> Gate:
    def reread() -> Configuration:
        return room.configuration(read_again(read))

    return Gate(
        room.configuration(read),
        engine_of=host.engine,
        room=room,
        devices=room.statuses,
        scheduler_of=lambda told, effects: Scheduler(
            effects, told.targets, told.budget, told.limits
        ),
        reread=reread,
        budget_of=room.budget,
        metrics=metrics,
    )


async def _remove_strangers(read: Read, host: EngineHost) -> None:
    kept = {spec.fingerprint for spec in read.catalogue.engines.values()}
    if strangers := await host.remove_strangers(kept):
        LOG.info("engines of another configuration removed", extra={"engines": strangers})


def _chores(
    settings: GatewaySettings, *, measured: bool
) -> Callable[[Gate], Iterator[Coroutine[Any, Any, None]]]:
    """What goes on beside requests. Raises SettingsError before anything is started."""
    sleep_s = settings.brain_sleep_after_s
    words = sleep_command(settings.brain_sleep_command) if sleep_s else ()

    def of(gate: Gate) -> Iterator[Coroutine[Any, Any, None]]:
        if settings.gateway_canary_s:
            yield Health(gate, settings.gateway_canary_s, settings.gateway_canary_timeout_s).run()
        if sleep_s:
            yield SleepAfterIdle(words, sleep_s, gate).run()
        if measured:
            yield _measure(gate)

    return of


async def _measure(gate: Gate) -> None:
    while True:
        await asyncio.sleep(MEASURE_S)
        await gate.measure()


@contextmanager
def _signals() -> Iterator[Signals]:
    loop, told = asyncio.get_running_loop(), Signals()
    for number in SIGNALS:
        loop.add_signal_handler(number, told.stop)
    loop.add_signal_handler(signal.SIGHUP, told.reload.set)
    try:
        yield told
    finally:
        for number in (*SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def _reload_when_told(gate: Gate, told: asyncio.Event) -> None:
    """However many signals come while it reads, it reads once more."""
    while True:
        await told.wait()
        told.clear()
        try:
            done = await gate.reload()
        except VarietError as error:
            LOG.error("configuration is not taken", extra={"error": str(error)})
        except Exception:  # boundary: a defect of one reload must not be the end of all
            LOG.exception("configuration is not taken")
        else:
            LOG.info("configuration read again", extra=done.model_dump())


async def _drain(site: Site, seconds: float, signals: Signals) -> None:
    LOG.info("gateway stops", extra={"drain_s": seconds})
    draining = asyncio.create_task(site.stop(seconds))
    hurrying = asyncio.create_task(signals.again.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not draining.done():
        draining.cancel()
    await asyncio.wait({draining})


def _url(settings: GatewaySettings, port: int) -> str:
    host = settings.gateway_host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
