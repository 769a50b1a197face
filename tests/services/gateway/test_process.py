"""The gateway as a process: its start, its end, its death, and what it does when it is idle."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.services.gateway.brain import Brain, Client, running, states, stream, until

pytestmark = pytest.mark.timeout(180)


async def test_after_kill_9_the_next_gateway_adopts_what_is_loaded_and_reloads_nothing(
    tmp_path: Path,
) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, client):
        assert (await client.chat("fast")).status == 200
        busy = await stream(client, "deep", 500, 20)
        before = brain.engines_alive()
        assert len(before) == 2
        gateway.process.kill()
        gateway.process.wait()
        busy.close()
        async with running(brain) as (_, other):
            assert (await states(other))["fast-model"] == "ready"
            assert (await states(other))["deep-model"] == "ready"
            assert (await other.chat("fast")).status == 200
            assert (await other.chat("deep")).status == 200
            assert brain.engines_alive() == before
            assert len(brain.events("start")) == 2


async def test_an_engine_that_was_loading_at_kill_9_is_ended_and_loaded_anew(
    tmp_path: Path,
) -> None:
    brain = Brain(tmp_path)
    brain.fault("fast", load_s=600)
    async with running(brain) as (gateway, client):
        asking = asyncio.create_task(client.chat("fast"))
        left = await until(lambda: alive(brain), lambda pids: len(pids) == 1)
        gateway.process.kill()
        gateway.process.wait()
        with pytest.raises(aiohttp.ClientError):
            await asking
        brain.fault("fast")
        async with running(brain) as (_, other):
            assert not left & brain.engines_alive()
            assert (await other.chat("fast")).status == 200
            assert len(brain.engines_alive()) == 1


async def test_an_engine_of_another_configuration_is_not_adopted_but_ended(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, client):
        assert (await client.chat("fast")).status == 200
        gateway.process.kill()
        gateway.process.wait()
        brain.served["fast"] = {"context": 1024}
        brain.write()
        async with running(brain) as (_, other):
            assert (await states(other))["fast-model"] == "stopped"
            assert brain.engines_alive() == set()


async def test_sigterm_lets_streams_end_and_then_stops_its_processes(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, client):
        answer = await stream(client, "fast", 40, 20)
        gateway.process.terminate()
        text = (await answer.read()).decode()
        assert text.rstrip().endswith("data: [DONE]")
        assert await gateway.wait() == 0
        assert brain.engines_alive() == set()
        assert [e["event"] for e in brain.events("done", "cut")] == ["done"]


async def test_who_comes_while_it_stops_is_told_to_come_back(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, client):
        answer = await stream(client, "fast", 60, 20)
        gateway.process.terminate()
        late = await until(lambda: client.chat("fast"), lambda answer: answer.status != 200)
        assert late.status == 503
        assert int(late.headers["Retry-After"]) >= 1
        await answer.read()
        assert await gateway.wait() == 0


async def test_a_second_signal_ends_the_wait_for_streams(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings={"DRAIN_TIMEOUT_S": "100"})
    async with running(brain) as (gateway, client):
        answer = await stream(client, "fast", 2_000, 10)
        gateway.process.terminate()
        await gateway.logged("gateway stops")
        gateway.process.terminate()
        assert await gateway.wait() == 0
        answer.close()
        assert brain.engines_alive() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_while_engines_are_stopped_leaves_none_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    brain = Brain(tmp_path)
    # So that there is time for it.
    brain.fault("fast", ignore_sigterm=True)
    async with running(brain) as (gateway, client):
        assert (await client.chat("fast")).status == 200
        gateway.process.terminate()
        # Its port is closed once only engines are left to be ended.
        await until(lambda: refuses(client), bool)
        gateway.process.send_signal(number)
        assert await gateway.wait() == 0
        assert brain.engines_alive() == set()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"GATEWAY_STATE_DIR": "/dev/null/state"}, "GATEWAY_STATE_DIR=/dev/null/state"),
        ({"VARIET_PRESET": ""}, "VARIET_PRESET"),
        ({"VARIET_PRESET": "elsewhere"}, "elsewhere"),
        ({"GATEWAY_QUEUE": "0"}, "GATEWAY_QUEUE=0"),
        ({"BRAIN_SLEEP_AFTER_S": "9"}, "BRAIN_SLEEP_COMMAND"),
        ({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_API_KEY": "", "GATEWAY_ADMIN_KEY": ""}, "GATEWAY_"),
    ],
)
async def test_what_is_wrong_at_the_start_is_one_line_and_exit_code_2(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    gateway = Brain(tmp_path, settings=settings).start()
    try:
        assert await gateway.wait() == 2
        said = [line for line in gateway.text().splitlines() if not line.startswith("{")]
        assert len(said) == 1
        assert named in said[0]
    finally:
        gateway.end()


async def test_a_second_gateway_of_one_folder_does_not_start_and_ends_nothing(
    tmp_path: Path,
) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        second = brain.start()
        try:
            assert await second.wait() == 2
            assert "GATEWAY_STATE_DIR" in second.text()
        finally:
            second.end()
        assert (await client.chat("fast")).status == 200
        assert len(brain.events("start")) == 1


async def test_an_idle_gateway_is_small(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, _):
        assert resident_mib(gateway.process.pid) <= 80


async def test_the_brain_is_let_sleep_after_each_idle_time(tmp_path: Path) -> None:
    mark = tmp_path / "slept"
    command = f"sh -c 'echo slept >> {mark}'"
    sleep = {"BRAIN_SLEEP_AFTER_S": "0.5", "BRAIN_SLEEP_COMMAND": command}
    async with running(Brain(tmp_path, settings=sleep)) as (_, client):
        await until(lambda: lines(mark), lambda told: len(told) == 1)
        assert (await client.chat("fast")).status == 200
        await until(lambda: lines(mark), lambda told: len(told) == 2)


async def alive(brain: Brain) -> set[int]:
    return brain.engines_alive()


async def refuses(client: Client) -> bool:
    """Whether nobody listens any more."""
    try:
        await client.ask("GET", "/health")
    except aiohttp.ClientConnectionError:
        return True
    return False


async def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []  # noqa: ASYNC240


def resident_mib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.skip("only Linux tells it in /proc")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024
