import asyncio
import os
import shlex
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.engines import processes, slots
from services.gateway.engines.engine import LoadError
from services.gateway.engines.processes import ProcessHost
from tests.services.gateway.engines.bench import FAKE, Bench, Phases, spec, until


@pytest.fixture
async def host(bench: Bench) -> AsyncIterator[ProcessHost]:
    host = bench.host()
    yield host
    await host.close()


async def test_an_engine_starts_answers_and_stops(bench: Bench, host: ProcessHost) -> None:
    bench.model()
    engine, phases = host.engine(spec()), Phases()
    running = await engine.start(2048, phases)
    assert (running.context, running.key, running.adopted) == (2048, "sk-engines", False)
    assert running.base_url.startswith("http://127.0.0.1:")
    assert phases.told[-1] == (1.0, "ready")
    assert bench.left_behind() == [int(running.id)]
    assert bench.events()[0]["context"] == 2048
    await engine.stop()
    assert bench.left_behind() == []
    assert [told["event"] for told in bench.events()] == ["start", "ready", "stop"]
    assert list(bench.folder.glob("*.json")) == []


async def test_a_slow_load_tells_how_far_it_is(bench: Bench, host: ProcessHost) -> None:
    bench.model(load_s=3.0)
    phases = Phases()
    await host.engine(spec()).start(2048, phases)
    shares = [share for share, words in phases.told if words == "loading the weights"]
    known = [share for share in shares if share is not None]
    assert known == sorted(known)
    assert 0 < known[0] < 1


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        ({"crash_load": True}, "crashed", "data is not ok"),
        ({"oom_above": 1000}, "out_of_memory", "cudaMalloc failed"),
    ],
)
async def test_a_load_that_ends_says_why_and_leaves_nothing(
    bench: Bench, host: ProcessHost, behaviour: dict[str, Any], kind: str, said: str
) -> None:
    bench.model(**behaviour)
    with pytest.raises(LoadError, match=said) as caught:
        await host.engine(spec()).start(2048, Phases())
    assert caught.value.kind == kind
    assert bench.left_behind() == []
    assert list(bench.folder.glob("*.json")) == []


async def test_a_smaller_context_fits_after_one_that_did_not(
    bench: Bench, host: ProcessHost
) -> None:
    bench.model(oom_above=1000)
    engine = host.engine(spec())
    with pytest.raises(LoadError):
        await engine.start(2048, Phases())
    assert (await engine.start(1000, Phases())).context == 1000


async def test_an_engine_that_is_never_ready_is_given_up_in_time(bench: Bench) -> None:
    bench.model(never_ready=True, ignore_sigterm=True)
    host = bench.host(load_timeout_s=2.0, grace_s=0.2)
    with pytest.raises(LoadError, match="GATEWAY_LOAD_TIMEOUT_S=2") as caught:
        await host.engine(spec()).start(2048, Phases())
    assert caught.value.kind == "timeout"
    assert bench.left_behind() == []
    await host.close()


async def test_a_cancelled_start_returns_when_nothing_is_left(
    bench: Bench, host: ProcessHost
) -> None:
    bench.model(never_ready=True)
    starting = asyncio.create_task(host.engine(spec()).start(2048, Phases()))
    await until(lambda: bench.count("start") == 1)
    starting.cancel()
    # A second one, while it clears up, changes nothing.
    asyncio.get_running_loop().call_later(0.01, starting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert bench.left_behind() == []
    assert list(bench.folder.glob("*.json")) == []


async def test_an_engine_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    bench.model(ignore_sigterm=True)
    host = bench.host(grace_s=0.3)
    engine = host.engine(spec())
    await engine.start(2048, Phases())
    await engine.stop()
    assert bench.left_behind() == []
    assert bench.count("stop") == 0
    await host.close()


async def test_its_end_is_noticed_with_its_last_words(bench: Bench, host: ProcessHost) -> None:
    bench.model()
    engine = host.engine(spec())
    running = await engine.start(2048, Phases())
    ended = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    os.kill(int(running.id), signal.SIGSEGV)
    assert "by signal 11" in await ended
    await engine.stop()
    await engine.start(2048, Phases())


async def test_the_next_gateway_adopts_what_runs(bench: Bench, host: ProcessHost) -> None:
    bench.model()
    running = await host.engine(spec()).start(2048, Phases())
    other = bench.host()
    engine = other.engine(spec())
    adopted = await engine.find()
    assert adopted is not None
    assert (adopted.id, adopted.context, adopted.adopted) == (running.id, 2048, True)
    assert bench.count("start") == 1
    ended = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    os.kill(int(running.id), signal.SIGKILL)
    assert await ended != ""
    assert await bench.host().engine(spec()).find() is None
    await other.close()


@pytest.mark.parametrize("changed", [{"flags": ("--threads", "1")}, {"context": 8192}])
async def test_what_differs_is_ended_instead(
    bench: Bench, host: ProcessHost, changed: dict[str, Any]
) -> None:
    bench.model()
    await host.engine(spec()).start(2048, Phases())
    assert await host.engine(spec(**changed)).find() is None
    assert bench.left_behind() == []


async def test_an_engine_that_still_loads_or_hangs_is_not_adopted(
    bench: Bench, host: ProcessHost
) -> None:
    bench.model()
    running = await host.engine(spec()).start(2048, Phases())
    os.kill(int(running.id), signal.SIGSTOP)
    other = bench.host(grace_s=0.2)
    assert await other.engine(spec()).find() is None
    assert bench.left_behind() == []
    await other.close()


async def test_a_number_that_is_another_process_by_now_is_left_alone(
    bench: Bench, host: ProcessHost
) -> None:
    bench.model()
    await host.engine(spec()).start(2048, Phases())
    record = bench.folder / "m.json"
    told = record.read_text()
    bench.end()
    mine = told.replace(f'"pid": {bench_pid(told)}', f'"pid": {os.getpid()}')
    record.write_text(mine)
    assert await host.engine(spec()).find() is None
    assert not record.exists()


def environment_of(pid: str) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def bench_pid(told: str) -> str:
    return told.partition('"pid": ')[2].partition(",")[0]


async def test_strangers_are_ended_also_without_a_record(bench: Bench, host: ProcessHost) -> None:
    for name in ("a", "b", "c"):
        bench.model(name)
        await host.engine(spec(name)).start(2048, Phases())
    kept = bench.record("a")
    unknown = bench.record("c").pid
    (bench.folder / "c.json").unlink()
    assert await bench.host().remove_strangers([kept.fingerprint]) == [str(unknown), "b"]
    assert bench.left_behind() == [kept.pid]
    assert [path.name for path in bench.folder.glob("*.json")] == ["a.json"]


async def test_what_an_engine_has_started_itself_is_no_stranger(bench: Bench) -> None:
    bench.model()
    host = bench.host(command=behind_a_shell(bench))
    await host.engine(spec()).start(2048, Phases())
    assert len(bench.left_behind()) == 2
    other = bench.host()
    assert await other.remove_strangers([bench.record().fingerprint]) == []
    assert await other.engine(spec()).find() is not None
    await host.close()
    await other.close()


async def test_a_stranger_is_ended_whatever_started_it(bench: Bench) -> None:
    bench.model()
    host = bench.host(command=behind_a_shell(bench))
    await host.engine(spec()).start(2048, Phases())
    (bench.folder / "m.json").unlink()
    assert len(await bench.host(grace_s=5.0).remove_strangers([])) == 2
    assert bench.left_behind() == []
    await host.close()


def behind_a_shell(bench: Bench) -> tuple[str, ...]:
    """A script that starts the engine and waits for it, instead of becoming it."""
    script = bench.folder.parent / "llama-server.sh"
    script.write_text(f'#!/bin/sh\n{shlex.join(FAKE)} "$@" &\nwait\n')
    script.chmod(0o755)
    return (str(script),)


async def test_a_start_that_is_given_up_while_its_prompts_are_read_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def restore(*_: object) -> None:
        reading.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(slots, "restore", restore)
    bench.model()
    host = bench.host(keep_kv=True)
    starting = asyncio.create_task(host.engine(spec()).start(2048, Phases()))
    await reading.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert bench.left_behind() == []
    await host.close()


async def test_a_port_that_was_taken_meanwhile_is_exchanged(
    bench: Bench, host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], processes.free_port()]
        monkeypatch.setattr(processes, "free_port", lambda: ports.pop(0))
        running = await host.engine(spec()).start(2048, Phases())
    assert ports == []
    assert bench.left_behind() == [int(running.id)]


async def test_what_cannot_be_started_names_the_setting(bench: Bench) -> None:
    bench.model()
    host = bench.host(command=("/no/such/llama-server",))
    with pytest.raises(LoadError, match="LLAMA_SERVER=/no/such/llama-server"):
        await host.engine(spec()).start(2048, Phases())
    with pytest.raises(LoadError, match=r"there is no file .*other\.gguf"):
        await host.engine(spec("other")).start(2048, Phases())
    with pytest.raises(LoadError, match=r"only llama\.cpp"):
        await host.engine(spec(engine="vllm")).start(2048, Phases())


async def test_the_gateways_keys_do_not_reach_an_engine(
    bench: Bench, host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "secret")
    bench.model()
    running = await host.engine(spec()).start(2048, Phases())
    environment = environment_of(running.id)
    assert "LLAMA_API_KEY=sk-engines" in environment
    assert "secret" not in environment
    assert (bench.folder / "m.log").stat().st_mode & 0o777 == 0o600
