"""Engines as containers of Docker, made through the broker. They carry the labels of the Compose
project, outlive their gateway, and are known by their labels alone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker import APIClient  # type: ignore[import-untyped]
from docker.errors import (  # type: ignore[import-untyped]
    APIError,
    DockerException,
    ImageNotFound,
    NotFound,
)

from contracts.deployment import Deployment
from contracts.errors import Unavailable
from contracts.gateway_settings import GatewaySettings
from contracts.preset import HostPreset
from contracts.settings import Settings
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.engines import slots
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.commands import Hub, card_devices
from services.gateway.engines.container_body import (
    CONTEXT_LABEL,
    ENGINE_LABEL,
    FINGERPRINT_LABEL,
    GRACE_S,
    PORTS,
    PROJECT_LABEL,
    SLOTS,
    ContainerPlace,
    create_arguments,
    kind_of,
    new_name,
)
from services.gateway.engines.docker_calls import DockerCalls, Ended
from services.gateway.engines.engine import Engine, LoadError, OnPhase, Running, lacking_file
from services.gateway.engines.readiness import End, answers, told, until_ready
from services.gateway.engines.unbroken import unbroken
from services.gateway.engines.vllm_sleep import put_to_sleep, sleeps, wake_up
from services.gateway.memory.load_log import seen_mib

LOG = logging.getLogger(__name__)
TAIL_LINES, HEAD_LINES = 200, 3_000
REMOVED_S = 60.0
LOOK_S = 0.1


@dataclass(frozen=True)
class Docker:
    """How the engines of one gateway are reached. `grace_s` None: by kind."""

    place: ContainerPlace
    docker: DockerCalls
    load_timeout_s: float
    grace_s: int | None = None
    calls: EngineCalls = field(default_factory=EngineCalls)

    async def found(self, name: str | None = None) -> list[Mapping[str, Any]]:
        """Containers of this project's engines, or of one engine, running or not."""
        wanted = [f"{PROJECT_LABEL}={self.place.host.project}"]
        wanted.append(ENGINE_LABEL if name is None else f"{ENGINE_LABEL}={name}")
        listed: list[Mapping[str, Any]] = await self.docker.call(
            APIClient.containers, all=True, filters={"label": wanted}
        )
        return listed

    async def end(self, container: str, grace_s: int) -> None:
        """Politely, then by force; returns when it is removed and its name free."""
        with suppress(NotFound):
            try:
                await self.docker.call(APIClient.stop, container, timeout=grace_s)
                await self.docker.call(APIClient.remove_container, container, force=True)
            except NotFound:
                return
            except APIError as error:
                # 409: somebody else is removing it already.
                if error.status_code != 409:
                    raise
            async with asyncio.timeout(REMOVED_S):
                while True:
                    await self.docker.call(APIClient.inspect_container, container)
                    await asyncio.sleep(LOOK_S)


class ContainerEngine:
    """One engine of the catalogue as a container."""

    def __init__(self, spec: EngineSpec, docker: Docker) -> None:
        self.spec = spec
        self._docker = docker
        self._place = docker.place
        self._running: Running | None = None
        self._keeps = False
        self._last: list[str] = []

    def lacks(self) -> LoadError | None:
        fetched = self.spec.entry.source.is_web and kind_of(self.spec) == "llamacpp"
        return lacking_file(self.spec, self._place.store) if fetched else None

    async def find(self) -> Running | None:
        adopted: Running | None = None
        for container in await self._docker.found(self.spec.name):
            running = None if adopted else await self._adopted(container)
            if running is None:
                await self._docker.end(container["Id"], self._grace)
            adopted = adopted or running
        self._running = adopted
        return adopted

    async def start(self, context: int, on_phase: OnPhase) -> Running:
        await self.stop()
        try:
            running = await self._start(context, on_phase)
            await slots.restore(self._slots(running), self._docker.calls)
        except BaseException as error:
            # boundary: also cancelled, a start leaves nothing behind
            await unbroken(self.stop())
            if isinstance(error, DockerException):
                raise self._refused(error) from error
            raise
        self._running = running
        return running

    async def stop(self) -> None:
        running, self._running = self._running, None
        containers = await self._docker.found(self.spec.name)
        if running and any(c["Id"] == running.id and c["State"] == "running" for c in containers):
            await slots.save(self._slots(running), self._docker.calls)
        for container in containers:
            await self._docker.end(container["Id"], self._grace)

    async def sleep(self) -> None:
        running = self._running
        if running is None or self.spec.entry.engine != "vllm" or not self.spec.sleep:
            raise LoadError(
                "refused",
                "engine_cannot_sleep",
                f"{self.spec.name} ({self.spec.entry.engine}) has sleep={self.spec.sleep}.",
                "Only vLLM can, with sleep: 1 or 2 in the host's preset.",
            )
        await put_to_sleep(self.spec, running.base_url, running.key, self._docker.calls)

    async def wake(self, on_phase: OnPhase) -> Running:
        running = self._running
        if running is None:
            return await self.start(self.spec.context, on_phase)
        try:
            await wake_up(self.spec, running.base_url, running.key, self._docker.calls, on_phase)
        except BaseException:
            # boundary: half awake, it would hold memory that nobody counts
            await unbroken(self.stop())
            raise
        return running

    async def ended(self) -> str:
        running = self._running
        if running is None:
            return "it was not running"
        end = await self._docker.docker.ended(running.id)
        self._last = await self._tail(running.id)
        return told(_end(end), self._last)

    async def logs(self, follow: bool) -> AsyncIterator[bytes]:
        containers = await self._docker.found(self.spec.name)
        for container in containers[:1]:
            async for line in self._docker.docker.log(container["Id"], follow):
                yield line
        # A container that failed is removed, and its log with it.
        for text in () if containers else self._last:
            yield text.encode() + b"\n"

    @property
    def _grace(self) -> int:
        given = self._docker.grace_s
        return GRACE_S[kind_of(self.spec)] if given is None else given

    async def _start(self, context: int, on_phase: OnPhase) -> Running:
        name = new_name(self.spec, self._place.host)
        on_phase(None, "starting")
        # What Docker has begun is waited for, so that a cancelled start finds it and removes it.
        container = await unbroken(self._create(name, context))
        await unbroken(self._docker.docker.call(APIClient.start, container))
        base_url = await self._address(container, name)
        loading = _Loading(self, container, base_url)
        limit = self._docker.load_timeout_s
        try:
            await until_ready(self.spec, loading, self._docker.calls, limit, on_phase)
        except LoadError:
            self._last = await self._tail(container)
            raise
        seen = await self._seen(container)
        return Running(base_url, self._place.key, context, container, seen)

    async def _create(self, name: str, context: int) -> str:
        def create(api: APIClient) -> str:
            arguments = create_arguments(api, self.spec, context, name, self._place)
            return str(api.create_container(**arguments)["Id"])

        return await self._docker.docker.call(create)

    async def _adopted(self, container: Mapping[str, Any]) -> Running | None:
        labels = container["Labels"]
        fits = labels.get(FINGERPRINT_LABEL) == self.spec.fingerprint
        if not fits or container["State"] != "running":
            return None
        key, calls = self._place.key, self._docker.calls
        base_url = await self._address(container["Id"], container["Names"][0].lstrip("/"))
        if not await answers(self.spec, base_url, key, calls):
            return None
        # It answers in its sleep, too, and nobody would wake it.
        if self.spec.sleep and await sleeps(base_url, key, calls):
            return None
        context = int(labels.get(CONTEXT_LABEL) or self.spec.context)
        seen = await self._seen(container["Id"])
        return Running(base_url, key, context, container["Id"], seen, adopted=True)

    async def _address(self, container: str, name: str) -> str:
        """By its address in the engines' network, which it keeps as long as it runs."""
        kind = kind_of(self.spec)
        about = await self._docker.docker.call(APIClient.inspect_container, container)
        networks = about["NetworkSettings"]["Networks"]
        address = networks.get(self._place.host.networks[kind], {}).get("IPAddress")
        return f"http://{address or name}:{PORTS[kind]}"

    def _slots(self, running: Running) -> slots.Kept | None:
        folder, model = self._place.slots, self._place.store.path(self.spec.entry)
        if folder is None or model is None or not self._keeps:
            return None
        return slots.Kept(self.spec, folder, model, running.base_url, running.key, running.context)

    async def _seen(self, container: str) -> Mapping[str, int]:
        """What its load took, which is told at the log's beginning."""
        lines: list[str] = []
        async with aclosing(self._docker.docker.log(container, follow=False)) as log:
            async for line in log:
                lines.append(line.decode("utf-8", "replace"))
                if len(lines) == HEAD_LINES:
                    break
        self._keeps = kind_of(self.spec) == "llamacpp" and slots.plain(lines)
        return seen_mib(lines, self.spec.cards)

    async def _tail(self, container: str) -> list[str]:
        try:
            told: bytes = await self._docker.docker.call(APIClient.logs, container, tail=TAIL_LINES)
        except (DockerException, Unavailable):
            return []
        return told.decode("utf-8", "replace").splitlines()

    def _refused(self, error: DockerException) -> LoadError:
        """What Docker or the broker had against it."""
        image = self._place.host.images[kind_of(self.spec)]
        if isinstance(error, ImageNotFound):
            return LoadError(
                "refused",
                "image_missing",
                f"{self.spec.name} needs the image {image}, which is not here.",
                "make pull",
            )
        said = error.explanation if isinstance(error, APIError) else str(error)
        return LoadError(
            "refused",
            "container_refused",
            f"Docker refuses the container of {self.spec.name} ({image}): {said}",
            "Look at the broker's log: docker compose logs broker.",
        )


@dataclass(frozen=True)
class _Loading:
    """A container that is on its way up."""

    engine: ContainerEngine
    container: str
    base_url: str

    @property
    def key(self) -> str:
        return self.engine._place.key

    async def gone(self) -> End:
        return _end(await self.engine._docker.docker.ended(self.container))

    async def tail(self) -> Sequence[str]:
        return await self.engine._tail(self.container)


class ContainerHost:
    """All engines of this gateway, and those that earlier ones have left."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def engine(self, spec: EngineSpec) -> Engine:
        return ContainerEngine(spec, self._docker)

    async def remove_strangers(self, keep: Collection[str]) -> list[str]:
        strangers = [
            container
            for container in await self._docker.found()
            if container["Labels"].get(FINGERPRINT_LABEL) not in keep
        ]
        grace = self._docker.grace_s
        most = max(GRACE_S.values()) if grace is None else grace
        await asyncio.gather(*(self._docker.end(one["Id"], most) for one in strangers))
        return sorted(one["Labels"][ENGINE_LABEL] for one in strangers if one["State"] == "running")

    async def close(self) -> None:
        await self._docker.calls.close()
        await self._docker.docker.close()


async def open_containers(
    settings: GatewaySettings,
    deployment: Deployment,
    preset: HostPreset,
    common: Settings,
    key: str,
    socket: Path | None = None,
) -> ContainerHost:
    """Raises Unavailable where the broker does not answer."""
    calls = DockerCalls(socket or settings.broker_socket)
    try:
        host = await calls.host()
    except BaseException:
        # boundary: nobody else knows of the connection
        await calls.close()
        raise
    token = common.hf_token.get_secret_value() if common.hf_token else ""
    place = ContainerPlace(
        host=host,
        key=key,
        store=Store.of(common),
        hub=Hub(token, common.hf_endpoint),
        memory_share=deployment.gpu_mem_util,
        slots=_slot_folder(settings),
        devices=card_devices(deployment, preset),
    )
    return ContainerHost(Docker(place, calls, settings.gateway_load_timeout_s))


def _slot_folder(settings: GatewaySettings) -> Path | None:
    """The volume of prompt caches, where the gateway's container has it, too: nobody else keeps it
    within bounds."""
    if not settings.gateway_keep_kv:
        return None
    if Path(SLOTS).is_dir():
        return Path(SLOTS)
    LOG.warning("prompt caches are not kept: there is no folder", extra={"folder": SLOTS})
    return None


def _end(ended: Ended) -> End:
    if ended.gone:
        return End("by being removed")
    if ended.out_of_memory:
        return End("out of memory, at the limit of its container", True)
    return End(f"with exit code {ended.code}")
