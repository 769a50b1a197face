"""vLLM's sleep: an engine that keeps its process and gives back its card's memory.

Its routes are there only with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Nobody may be using
the engine: /sleep aborts requests. `level` is read from the query only, and the call may return
before the engine has finished, so its state is asked for. The order of waking from level 2, where
the weights were thrown away, is that of vLLM's page docs/features/sleep_mode.md.
"""

import asyncio

from services.gateway.catalogue import EngineSpec
from services.gateway.engines.calls import Answer, EngineCalls
from services.gateway.engines.engine import LoadError, OnPhase
from services.gateway.memory.load_log import out_of_memory
from services.gateway.scheduling.types import FailureKind

POLL_S = 0.1
SLEEP_S = 120.0
WAKE_S = 600.0


async def put_to_sleep(
    spec: EngineSpec, base_url: str, key: str, calls: EngineCalls, timeout_s: float = SLEEP_S
) -> None:
    """Returns when the engine says that it sleeps. Raises LoadError."""
    await _tell(spec, f"{base_url}/sleep?level={spec.sleep}", key, calls, timeout_s)
    await _until(spec, base_url, key, calls, True, timeout_s)


async def wake_up(
    spec: EngineSpec,
    base_url: str,
    key: str,
    calls: EngineCalls,
    on_phase: OnPhase,
    timeout_s: float = WAKE_S,
) -> None:
    """Returns when the engine says that it is awake, its weights whole. Raises LoadError."""
    on_phase(None, "waking up")
    if spec.sleep < 2:
        await _tell(spec, f"{base_url}/wake_up", key, calls, timeout_s)
    else:
        await _tell(spec, f"{base_url}/wake_up?tags=weights", key, calls, timeout_s)
        on_phase(None, "loading the weights")
        reload = {"method": "reload_weights"}
        await _tell(spec, f"{base_url}/collective_rpc", key, calls, timeout_s, reload)
        await _tell(spec, f"{base_url}/wake_up?tags=kv_cache", key, calls, timeout_s)
        # What it still knows of prompts was thrown away with the cache.
        await _tell(spec, f"{base_url}/reset_prefix_cache", key, calls, timeout_s)
    await _until(spec, base_url, key, calls, False, timeout_s)
    on_phase(1.0, "ready")


async def sleeps(base_url: str, key: str, calls: EngineCalls) -> bool:
    """Whether it sleeps; one that does not say so does not."""
    return (await calls.get(f"{base_url}/is_sleeping", key)).json.get("is_sleeping") is True


async def _tell(
    spec: EngineSpec,
    url: str,
    key: str,
    calls: EngineCalls,
    timeout_s: float,
    body: object = None,
) -> None:
    answer = await calls.post(url, key, body, timeout_s)
    if answer.status != 200:
        raise _refused(spec, url, answer)


async def _until(
    spec: EngineSpec, base_url: str, key: str, calls: EngineCalls, asleep: bool, timeout_s: float
) -> None:
    answer = Answer(0, "")
    try:
        async with asyncio.timeout(timeout_s):
            while answer.json.get("is_sleeping") is not asleep:
                if answer.status not in (0, 200):
                    raise _refused(spec, f"{base_url}/is_sleeping", answer)
                await asyncio.sleep(POLL_S if answer.status else 0)
                answer = await calls.get(f"{base_url}/is_sleeping", key)
                if answer.status == 0:
                    raise _refused(spec, f"{base_url}/is_sleeping", answer)
    except TimeoutError:
        state = "fall asleep" if asleep else "wake up"
        raise LoadError(
            "timeout",
            "engine_sleep_timeout",
            f"{spec.name} did not {state} within {timeout_s:g} s.",
            "Set sleep: 0 for it in the host's preset: then it is stopped instead.",
        ) from None


def _refused(spec: EngineSpec, url: str, answer: Answer) -> LoadError:
    route = "/" + url.partition("://")[2].partition("/")[2]
    kind: FailureKind = "out_of_memory" if out_of_memory([answer.text]) else "crashed"
    said = answer.text.strip()[:300] or "nothing"
    return LoadError(
        kind,
        "engine_sleep",
        f"{spec.name} answered {route} with {answer.status or 'no status'}: {said}",
        "Set sleep: 0 for it in the host's preset: then it is stopped instead.",
    )
