"""By contract: vLLM's answers as they were recorded, on a processor. Not run on a GPU."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.engine import LoadError
from services.gateway.engines.vllm_sleep import put_to_sleep, sleeps, wake_up
from tests.services.gateway.engines.bench import Phases, spec


class Vllm:
    """Sleeps and wakes after `lag` looks, as the engine's core may lag behind its routes."""

    def __init__(self, lag: int = 2) -> None:
        self.asked: list[str] = []
        self.asleep = False
        self.lag = lag
        self.looks = 0
        self.broken: dict[str, tuple[int, str]] = {}
        self.url = ""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = f"{request.method} {request.raw_path}"
        if request.path == "/is_sleeping":
            self.looks += 1
            state = self.asleep if self.looks > self.lag else not self.asleep
            return web.json_response({"is_sleeping": state})
        body = await request.text()
        self.asked.append(f"{asked} {body}".strip())
        if request.path in self.broken:
            status, text = self.broken[request.path]
            return web.Response(status=status, text=text)
        if request.path in ("/sleep", "/wake_up"):
            self.asleep, self.looks = request.path == "/sleep", 0
        if request.path == "/collective_rpc":
            return web.json_response({"results": [None]})
        return web.Response()


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    vllm = Vllm()
    runner = web.ServerRunner(web.Server(vllm))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    vllm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield vllm
    await runner.cleanup()


@pytest.fixture
async def calls() -> AsyncIterator[EngineCalls]:
    calls = EngineCalls()
    yield calls
    await calls.close()


async def test_the_level_stands_in_the_query_and_its_state_is_waited_for(
    vllm: Vllm, calls: EngineCalls
) -> None:
    await put_to_sleep(spec(sleep=1, engine="vllm"), vllm.url, "k", calls)
    assert vllm.asked == ["POST /sleep?level=1"]
    assert vllm.looks == 3
    assert await sleeps(vllm.url, "k", calls)


async def test_level_1_wakes_by_one_call(vllm: Vllm, calls: EngineCalls) -> None:
    phases = Phases()
    await wake_up(spec(sleep=1, engine="vllm"), vllm.url, "k", calls, phases)
    assert vllm.asked == ["POST /wake_up"]
    assert phases.told == [(None, "waking up"), (1.0, "ready")]


async def test_level_2_reads_its_weights_again_before_its_cache_is_there(
    vllm: Vllm, calls: EngineCalls
) -> None:
    await wake_up(spec(sleep=2, engine="vllm"), vllm.url, "k", calls, Phases())
    assert vllm.asked == [
        "POST /wake_up?tags=weights",
        'POST /collective_rpc {"method": "reload_weights"}',
        "POST /wake_up?tags=kv_cache",
        "POST /reset_prefix_cache",
    ]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, "CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        ((404, '{"detail":"Not Found"}'), "crashed"),
    ],
)
async def test_a_refused_call_says_what_was_answered(
    vllm: Vllm, calls: EngineCalls, answer: tuple[int, str], kind: str
) -> None:
    vllm.broken["/wake_up"] = answer
    with pytest.raises(LoadError, match="/wake_up with") as caught:
        await wake_up(spec(sleep=1, engine="vllm"), vllm.url, "k", calls, Phases())
    assert caught.value.kind == kind


async def test_one_that_never_sleeps_is_given_up(vllm: Vllm, calls: EngineCalls) -> None:
    vllm.lag = 10_000
    with pytest.raises(LoadError, match=r"did not fall asleep within 0\.5 s") as caught:
        await put_to_sleep(spec(sleep=1, engine="vllm"), vllm.url, "k", calls, timeout_s=0.5)
    assert caught.value.kind == "timeout"


async def test_one_that_is_gone_is_an_error(vllm: Vllm, calls: EngineCalls) -> None:
    with pytest.raises(LoadError, match="/sleep"):
        await put_to_sleep(spec(sleep=1, engine="vllm"), "http://127.0.0.1:9", "k", calls)
