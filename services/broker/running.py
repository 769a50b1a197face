"""The broker's process, from its settings to its end."""

import asyncio
import signal

from contracts.broker_settings import BrokerSettings, load_broker_settings
from contracts.errors import VarietError
from services.broker.docker_engine import DockerEngine
from services.broker.host import docker_host, own_name, own_sources
from services.broker.server import Listening, note


def run() -> int:
    try:
        settings = load_broker_settings()
        asyncio.run(_serve(settings, own_name()))
    except VarietError as error:
        note("not started", error=error.body())
        return 2
    return 0


async def _serve(settings: BrokerSettings, name: str) -> None:
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    docker = DockerEngine(settings.docker_socket)
    try:
        host = docker_host(settings, await own_sources(docker, name))
        listening = Listening(host, docker, settings.broker_socket)
        await listening.open()
        note("listening", socket=str(settings.broker_socket), host=host.model_dump())
        await ending.wait()
        await listening.close()
    finally:
        await docker.close()
