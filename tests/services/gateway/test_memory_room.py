"""What owners are told of the memory. Not run on a GPU: llama-fit-params is a script here."""

from pathlib import Path

from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.manifest import Manifest
from contracts.settings import load_settings
from models.store import Store
from services.gateway.catalogue import Catalogue, EngineSpec
from services.gateway.reload import Read
from services.gateway.room import MemoryRoom
from tests.services.gateway.memory.engines import ToldReadings, spec, two_cards
from tests.services.gateway.memory.test_fit_params import CARDS, program


def room(folder: Path, engine: EngineSpec) -> tuple[MemoryRoom, Read]:
    program(folder, CARDS)
    server = folder / "llama-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    common = load_settings(model_store=folder / "store")
    path = Store.of(common).path(engine.entry)
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no header")
    settings = GatewaySettings(engine_backend="process", llama_server=str(server))
    known = Catalogue({engine.name: engine}, engine.name)
    manifest = Manifest(models=(engine.entry,))
    read = Read(settings, Deployment(), manifest, two_cards(), known)
    return MemoryRoom(read, common, folder / "state", ToldReadings()), read


def test_a_load_waits_for_what_llama_fit_params_told_the_scheduler(tmp_path: Path) -> None:
    engine = spec()
    memory, read = room(tmp_path, engine)
    admitted = memory.configuration(read).targets[0].demand
    assert admitted["card0"] != memory.plan(engine, 2).demand["card0"]
    assert memory.plan(engine, 1).demand == admitted
