"""Tool servers in processes of their own: killed, hung, replaced, refusing; over real sockets."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import ToolError
from orchestrator.agent import toolservers
from orchestrator.agent.tool_transport import Remote
from orchestrator.agent.toolbox import Toolbox
from orchestrator.agent.toolservers import SessionLost
from tests.support.tool_process import tool_process


class Watched(Toolbox):
    """A toolbox that says when a server has listed its tools anew."""

    def __init__(self, servers: dict[str, Any], timeout_s: float = 30) -> None:
        self.listed = asyncio.Event()
        super().__init__(servers, timeout_s)

    def _collect(self) -> None:
        super()._collect()
        self.listed.set()

    async def lists(self) -> None:
        async with asyncio.timeout(30):
            await self.listed.wait()
        self.listed.clear()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again soon; how soon is no matter of these tests."""
    monkeypatch.setattr(toolservers, "RETRY_FIRST_S", 0.02)
    monkeypatch.setattr(toolservers, "RETRY_MAX_S", 0.05)


@asynccontextmanager
async def boxed(timeout_s: float = 30, **servers: Remote) -> AsyncIterator[Watched]:
    box = Watched(dict(servers), timeout_s)
    async with box:
        box.listed.clear()
        yield box


async def refused(box: Toolbox, name: str, **arguments: Any) -> ToolError:
    with pytest.raises(ToolError) as error:
        await box.call(name, arguments)
    return error.value


async def lost(call: asyncio.Task[Any]) -> None:
    with pytest.raises(SessionLost):
        await call


async def test_a_server_killed_in_a_call_leaves_it_open_whether_it_took_effect(
    tmp_path: Path,
) -> None:
    async with tool_process(tmp_path) as first, boxed(probe=first.remote()) as box:
        change = asyncio.create_task(box.call("change", {"text": "a", "hold": True}))
        assert await first.says() == {"began": "change"}
        look = asyncio.create_task(box.call("hang", {"text": "b"}))
        assert await first.says() == {"began": "hang"}
        await first.ended(signal.SIGKILL)
        await lost(change)
        # What only reads may simply be asked again.
        with pytest.raises(ToolError, match="does not answer"):
            await look
        assert (await refused(box, "change", text="b")).code == "tool_unavailable"
        assert list(box.down) == ["probe"]
        box.listed.clear()
        async with tool_process(tmp_path, port=first.port):
            await box.lists()
            assert box.down == {}
            assert await box.call("look", {"text": "again"}) == {"text": "again"}
    assert (tmp_path / "changes").read_text() == "a"


async def test_a_restart_between_two_calls_is_not_noticed(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as first, boxed(probe=first.remote()) as box:
        assert await box.call("change", {"text": "a"}) == {"text": "a"}
        await first.ended(signal.SIGTERM)
        async with tool_process(tmp_path, port=first.port):
            assert await box.call("change", {"text": "b"}) == {"text": "b"}
    assert (tmp_path / "changes").read_text() == "ab"


async def test_what_a_restarted_server_declares_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "LOOK_AGAIN_S", 0.02)
    async with (
        tool_process(tmp_path, PROBE_ABOUT="one") as first,
        boxed(probe=first.remote()) as box,
    ):
        assert box.tool("look").description == "Does one."
        await first.ended(signal.SIGTERM)
        async with tool_process(tmp_path, port=first.port, PROBE_ABOUT="two"):
            await box.lists()
            assert box.tool("look").description == "Does two."
            assert box.down == {}


async def test_a_server_that_has_gone_is_missed_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "LOOK_AGAIN_S", 0.02)
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        await process.ended(signal.SIGKILL)
        assert re.search("cannot be reached|connection broke", await _down(box, "probe"))


async def _down(box: Toolbox, server: str) -> str:
    """Why it is down, once it is. Nothing announces that, so it is asked again and again."""
    async with asyncio.timeout(30):
        while True:
            if server in box.down:
                return box.down[server]
            await asyncio.sleep(0.01)


async def test_a_server_that_is_down_at_the_start_serves_once_it_is_up(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process:
        remote = process.remote()
        await process.ended(signal.SIGKILL)
    async with boxed(probe=remote) as box:
        assert box.tools == {}
        assert "cannot be reached" in box.down["probe"]
        async with tool_process(tmp_path, port=process.port):
            await box.lists()
            assert box.down == {}
            assert await box.call("look", {"text": "x"}) == {"text": "x"}


async def test_a_wrong_token_is_told_with_its_variable_and_its_file(tmp_path: Path) -> None:
    said = "probe in TOOL_SERVERS_FILE=tools.yaml"
    async with tool_process(tmp_path) as process:
        wrong = process.remote(token="another", token_env="PROBE_TOKEN", said_in=said)
        bare = Remote(process.url, said_in=said)
        async with boxed(wrong=wrong, bare=bare, right=process.remote()) as box:
            assert list(box.tools) == ["look", "hang", "change", "large"]
            assert box.down["wrong"] == (
                f"it answers HTTP 401: the token in PROBE_TOKEN is not its own ({said})"
            )
            assert box.down["bare"] == (
                f"it answers HTTP 401: it asks for a token, and {said} names none"
            )
            assert "another" not in repr(wrong)


async def test_of_two_servers_the_hung_one_times_out_alone(tmp_path: Path) -> None:
    async with (
        tool_process(tmp_path / "a") as hung,
        tool_process(tmp_path / "b", "tools.calibration") as well,
        boxed(probe=hung.remote(timeout_s=0.5), calibration=well.remote()) as box,
    ):
        (tmp_path / "b/workspace/maps").mkdir(parents=True)
        hung.process.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(refused(box, "look", text="x"))
        assert await box.call("list_maps", {}) == {"maps": []}
        error = await waiting
        assert error.code == "tool_timeout"
        assert "0.5 s" in error.message
        assert "timeout_s" in error.remedy
        hung.process.send_signal(signal.SIGCONT)
        other = asyncio.create_task(_until_it_answers(box))
        async with asyncio.timeout(30):
            assert await other == {"text": "x"}


async def _until_it_answers(box: Toolbox) -> Any:
    while True:
        try:
            return await box.call("look", {"text": "x"})
        except ToolError:
            await asyncio.sleep(0.01)


async def test_a_call_that_takes_too_long_is_stopped_in_the_other_process(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process:
        async with boxed(probe=process.remote(timeout_s=0.3)) as box:
            assert (await refused(box, "hang", text="x")).code == "tool_timeout"
            assert await process.says() == {"began": "hang"}
            assert await process.says() == {"stopped": "hang"}
            assert await box.call("look", {"text": "x"}) == {"text": "x"}
        assert "'hang'" in process.log()


async def test_a_large_result_arrives_whole_and_a_larger_one_is_refused(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        million = 1_000_000
        assert await box.call("large", {"letters": million}) == {"text": "€" * million}
        with pytest.raises(ToolError, match="exceeds"):
            await box.call("large", {"letters": 8 * million})
        assert await box.call("look", {"text": "x"}) == {"text": "x"}


async def test_eight_calls_at_once_are_answered_each_with_its_own(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        texts = [str(n) for n in range(80)]
        for start in range(0, len(texts), 8):
            eight = texts[start : start + 8]
            answers = await asyncio.gather(*(box.call("look", {"text": t}) for t in eight))
            assert answers == [{"text": t} for t in eight]


async def test_a_call_that_can_end_ends_when_its_server_is_asked_to_stop(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        change = asyncio.create_task(box.call("change", {"text": "a", "hold": True}))
        assert await process.says() == {"began": "change"}
        process.process.terminate()
        process.release()
        assert await change == {"text": "a"}
        async with asyncio.timeout(30):
            assert await process.process.wait() == 0


async def test_a_call_that_does_not_end_is_stopped_with_its_server(tmp_path: Path) -> None:
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        change = asyncio.create_task(box.call("change", {"text": "a", "hold": True}))
        assert await process.says() == {"began": "change"}
        assert await process.ended(signal.SIGTERM) == 0
        await lost(change)
        assert await process.says() == {"stopped": "change"}


async def test_proxies_of_the_environment_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with tool_process(tmp_path) as process, boxed(probe=process.remote()) as box:
        assert await box.call("look", {"text": "x"}) == {"text": "x"}
