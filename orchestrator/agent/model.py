"""The chat model: one streamed engine call at a time, with time limits and plain errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from langchain_core.messages import AIMessageChunk, BaseMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from contracts.chat import Usage
from contracts.errors import EngineError, EngineTimeout, VarietError
from contracts.tiers import Priority, SwapProgress
from orchestrator.agent.completions import Completions
from orchestrator.agent.failures import ContextOverflow as ContextOverflow
from orchestrator.agent.failures import NotStarted, explained
from orchestrator.agent.prompt import SYSTEM_PROMPT
from orchestrator.agent.values import mended_text
from orchestrator.agent.waking import Waker
from orchestrator.agent.wire import Exchange, RecordingTransport, current_exchange, tls

RETRY_DELAYS_S = (0.2, 1.0)
WAKE_PAUSE_S = 1.0
OnExchange = Callable[[Exchange], Awaitable[None]]
WAKING = SwapProgress(engine="", stage="queued", detail="waking the brain")


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the model is, and what is known of it. `tiers` maps tiers to the engine's names;
    `loaded`: whether it could answer at once when it was asked last."""

    url: str
    key: str
    model: str
    context: int
    tiers: dict[str, str] = field(default_factory=dict)
    tools_evaluated: frozenset[str] | None = None
    description: str = ""
    loaded: bool = field(default=True, compare=False)

    def name(self, tier: str | None) -> str:
        return self.tiers.get(tier or "", self.model)


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered. `calls` are (name, arguments as written); `cut` says that the
    token limit ended it."""

    text: str
    calls: list[tuple[str, str]]
    usage: Usage
    model: str
    cut: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """`wait_s`: for a model that a gateway has to load, or that others use; `first_token_s` then
    counts from the last that the gateway told."""

    max_tokens: int
    temperature: float
    first_token_s: float
    token_s: float
    wait_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom a call tells how it goes, and how the gateway knows it. `on_progress` is told where it
    stands while it waits, None once it is let in. `on_exchange` gets each attempt."""

    on_token: Callable[[str], None] | None = None
    on_retry: Callable[[VarietError], None] | None = None
    on_progress: Callable[[SwapProgress | None], None] | None = None
    on_exchange: OnExchange | None = None
    request_ids: Iterator[str] | None = None
    priority: Priority = "chat"


NOBODY = Watch()


class ChatModel:
    """Calls an OpenAI-compatible engine through langchain-openai. Retries only what has not sent
    a token yet: connection failures and 429, 502, 503. A brain that sleeps is woken first, unless
    nobody waits for the answer (priority `background`)."""

    def __init__(self, engine: Engine, limits: Limits, waker: Waker | None = None) -> None:
        self.engine = engine
        self.limits = limits
        self._waker = waker or Waker(engine.url, None, 0.0)
        timeout = httpx2.Timeout(connect=5, read=None, write=30, pool=None)
        pool = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        self._http = httpx2.AsyncClient(
            transport=RecordingTransport(httpx2.AsyncHTTPTransport(limits=pool, verify=tls())),
            timeout=timeout,
        )
        client = openai.AsyncOpenAI(
            base_url=engine.url,
            api_key=engine.key or "none",
            http_client=self._http,
            max_retries=0,
        )
        completions = Completions(client)
        self._chat = ChatOpenAI(
            model=engine.model,
            base_url=engine.url,
            api_key=SecretStr(engine.key or "none"),
            client=completions,
            async_client=completions,
            use_responses_api=False,
            stream_usage=True,
            stream_chunk_timeout=None,  # the limits here are our own
            temperature=limits.temperature,
        )
        self._system = SystemMessage(SYSTEM_PROMPT)

    @property
    def max_tokens(self) -> int:
        """Room that an answer may take: the setting, but at most a third of the window."""
        return min(self.limits.max_tokens, self.engine.context // 3)

    async def complete(
        self,
        messages: Sequence[BaseMessage],
        *,
        tools: list[dict[str, Any]],
        tier: str | None = None,
        schema: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        watch: Watch = NOBODY,
    ) -> Completion:
        """One engine call. With `schema` the engine may only answer with JSON of that form."""
        options = self._options(tools, schema)
        options["model"] = self.engine.name(tier)
        options["max_tokens"] = max_tokens or self.max_tokens
        prompt = [self._system, *messages]
        until = time.monotonic() + self.limits.wait_s
        delays = iter(RETRY_DELAYS_S)
        while True:
            call = _Call(self, watch, until)
            token = current_exchange.set(call.exchange)
            try:
                completion = await self._once(prompt, options, call)
            except NotStarted as failure:
                await asyncio.sleep(await self._pause(failure, delays, watch))
            else:
                self._waker.answered()
                return completion
            finally:
                current_exchange.reset(token)
                if watch.on_exchange:
                    await watch.on_exchange(call.exchange)

    async def _pause(self, failure: NotStarted, delays: Iterator[float], watch: Watch) -> float:
        """Seconds until the call is made again. Raises its error, if it is not."""
        if not failure.unreachable:
            self._waker.answered()
        elif watch.priority != "background" and await self._waker.waking():
            if watch.on_progress:
                watch.on_progress(WAKING)
            return WAKE_PAUSE_S
        delay = next(delays, None)
        if delay is None:
            raise failure.error from failure.error.__cause__
        if watch.on_retry:
            watch.on_retry(failure.error)
        return max(delay, failure.retry_after)

    async def close(self) -> None:
        await self._http.aclose()

    def _options(
        self, tools: list[dict[str, Any]], schema: dict[str, Any] | None
    ) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if tools:
            # The tools stay in the prompt of a structured answer, so that its prefix is the one
            # that the engine has cached.
            options |= {"tools": tools, "tool_choice": "none" if schema else "auto"}
        if schema:
            # As extra_body: the client library would otherwise parse the answer by itself.
            form = {"name": "answer", "schema": schema, "strict": True}
            options["extra_body"] = {
                "response_format": {"type": "json_schema", "json_schema": form}
            }
        return options

    async def _once(
        self,
        prompt: Sequence[BaseMessage],
        options: dict[str, Any],
        call: "_Call",
    ) -> Completion:
        whole: AIMessageChunk | None = None
        stream = self._chat.astream(list(prompt), **options)
        try:
            on_token = call.watch.on_token
            async for chunk in self._timed(stream, call):
                assert isinstance(chunk, AIMessageChunk)
                whole = chunk if whole is None else whole + chunk
                if on_token and isinstance(chunk.content, str) and chunk.content:
                    on_token(mended_text(chunk.content))
        except VarietError:
            raise
        except (openai.APIError, httpx2.HTTPError) as error:
            raise explained(error, self.engine.url, started=whole is not None) from error
        return self._completion(whole)

    async def _timed(self, stream: AsyncIterator[Any], call: "_Call") -> AsyncIterator[Any]:
        limit, waited_for = self.limits.first_token_s, "first token"
        try:
            while True:
                try:
                    async with asyncio.timeout(limit) as call.clock:
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if call.waited_out:
                        raise self._never_let_in() from None
                    raise EngineTimeout(
                        "engine_timeout",
                        f"The engine at {self.engine.url} sent no {waited_for} for {limit:g} s.",
                        "Ask again; if it stays so, restart the engine (`variet doctor`).",
                    ) from None
                if waited_for == "first token":
                    call.let_in()
                yield chunk
                limit, waited_for = self.limits.token_s, "further token"
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _never_let_in(self) -> EngineTimeout:
        return EngineTimeout(
            "engine_wait_timeout",
            f"The gateway at {self.engine.url} had no engine for this within"
            f" ENGINE_WAIT_S={self.limits.wait_s:g} s.",
            "Ask again; `variet tiers` shows what it is busy with.",
        )

    def _completion(self, whole: AIMessageChunk | None) -> Completion:
        finish = whole.response_metadata.get("finish_reason") if whole else None
        if whole is None or finish is None:
            raise EngineError(
                "engine_truncated",
                f"The engine at {self.engine.url} broke off in the middle of its answer.",
                "Ask again; if it stays so, look at the engine's log.",
            )
        counted = whole.usage_metadata
        usage = Usage(
            prompt_tokens=counted["input_tokens"] if counted else 0,
            completion_tokens=counted["output_tokens"] if counted else 0,
        )
        return Completion(
            text=mended_text(whole.content) if isinstance(whole.content, str) else "",
            calls=[
                (mended_text(c["name"] or ""), mended_text(c["args"] or ""))
                for c in whole.tool_call_chunks
            ],
            usage=usage,
            model=mended_text(whole.response_metadata.get("model_name") or self.engine.model),
            cut=finish == "length",
        )


class _Call:
    """One attempt, with the time limit that each sign of life from the gateway puts off."""

    def __init__(self, model: ChatModel, watch: Watch, until: float) -> None:
        self.watch = watch
        self.clock: asyncio.Timeout | None = None
        self.waited_out = False
        self._first_token_s = model.limits.first_token_s
        self._until = until
        headers = {"X-Variet-Progress": "1", "X-Variet-Priority": watch.priority}
        if watch.request_ids is not None:
            headers["X-Request-Id"] = next(watch.request_ids)
        self.exchange = Exchange(headers=headers, on_progress=self._told)

    def let_in(self) -> None:
        """The engine answers: no queue and no load is waited for any more."""
        if self.watch.on_progress:
            self.watch.on_progress(None)

    def _told(self, progress: SwapProgress) -> None:
        if self.watch.on_progress:
            self.watch.on_progress(progress)
        clock = self.clock
        if clock is None or clock.expired():
            return
        left = self._until - time.monotonic()
        self.waited_out = progress.stage != "ready" and left < self._first_token_s
        wait = left if self.waited_out else self._first_token_s
        clock.reschedule(asyncio.get_running_loop().time() + max(0.0, wait))


def elapsed_ms(since: float) -> float:
    """Milliseconds since a `time.perf_counter()` reading, to a microsecond."""
    return round((time.perf_counter() - since) * 1000, 3)
