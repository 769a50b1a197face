"""The chat model: one streamed engine call at a time, with time limits and plain errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from langchain_core.messages import AIMessageChunk, BaseMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from contracts.chat import Usage
from contracts.errors import BadRequest, EngineError, EngineTimeout, Unavailable, VarietError
from orchestrator.agent.completions import Completions
from orchestrator.agent.prompt import SYSTEM_PROMPT
from orchestrator.agent.values import mended_text
from orchestrator.agent.wire import Exchange, RecordingTransport, current_exchange, tls

RETRY_DELAYS_S = (0.2, 1.0)
RETRY_AFTER_MAX_S = 10.0
OnExchange = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the model is, and what is known of it. `models` maps tiers to the engine's names."""

    url: str
    key: str
    model: str
    context: int
    tiers: dict[str, str] = field(default_factory=dict)
    tools_evaluated: frozenset[str] | None = None
    description: str = ""

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
    max_tokens: int
    temperature: float
    first_token_s: float
    token_s: float


class ContextOverflow(BadRequest):
    """The engine refused the prompt as too long."""


class ChatModel:
    """Calls an OpenAI-compatible engine through langchain-openai. Retries only what has not sent
    a token yet: connection failures and 429, 502, 503."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
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
        on_token: Callable[[str], None] | None = None,
        on_retry: Callable[[VarietError], None] | None = None,
        on_exchange: OnExchange | None = None,
        max_tokens: int | None = None,
    ) -> Completion:
        """One engine call. With `schema` the engine may only answer with JSON of that form."""
        options = self._options(tools, schema)
        options["model"] = self.engine.name(tier)
        options["max_tokens"] = max_tokens or self.max_tokens
        prompt = [self._system, *messages]
        for delay in (*RETRY_DELAYS_S, None):
            exchange = Exchange()
            token = current_exchange.set(exchange)
            try:
                return await self._once(prompt, options, on_token)
            except _NotStarted as failure:
                if delay is None:
                    raise failure.error from failure.error.__cause__
                if on_retry:
                    on_retry(failure.error)
                await asyncio.sleep(max(delay, failure.retry_after))
            finally:
                current_exchange.reset(token)
                if on_exchange:
                    await on_exchange(exchange)
        raise AssertionError("the loop returns or raises")

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
        on_token: Callable[[str], None] | None,
    ) -> Completion:
        whole: AIMessageChunk | None = None
        stream = self._chat.astream(list(prompt), **options)
        try:
            async for chunk in self._timed(stream):
                assert isinstance(chunk, AIMessageChunk)
                whole = chunk if whole is None else whole + chunk
                if on_token and isinstance(chunk.content, str) and chunk.content:
                    on_token(mended_text(chunk.content))
        except VarietError:
            raise
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._explain(error, started=whole is not None) from error
        return self._completion(whole)

    async def _timed(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        limit, waited_for = self.limits.first_token_s, "first token"
        try:
            while True:
                try:
                    async with asyncio.timeout(limit):
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise EngineTimeout(
                        "engine_timeout",
                        f"The engine at {self.engine.url} sent no {waited_for} for {limit:g} s.",
                        "Ask again; if it stays so, restart the engine (`variet doctor`).",
                    ) from None
                yield chunk
                limit, waited_for = self.limits.token_s, "further token"
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

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

    def _explain(self, error: Exception, started: bool) -> Exception:
        url = self.engine.url
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        if started:
            return EngineError(
                "engine_truncated",
                f"The engine at {url} broke off in the middle of its answer.",
                "Ask again; if it stays so, look at the engine's log.",
            )
        unreachable = Unavailable(
            "engine_unreachable",
            f"The engine at {url} cannot be reached.",
            "Start it, or correct OPENAI_COMPAT_URL; `variet doctor` checks both.",
        )
        unreachable.__cause__ = error
        return _NotStarted(unreachable)

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        url, status = self.engine.url, error.status_code
        text = mended_text(error.message[:300])
        if status == 400 and ("context" in text.lower() or "too long" in text.lower()):
            return ContextOverflow(
                "context_overflow",
                f"The engine's window is too small for this thread: {text}",
                "Start a new thread, or raise MAX_MODEL_LEN.",
            )
        if status in (401, 403):
            return EngineError(
                "engine_key",
                f"The engine at {url} refused the key (HTTP {status}).",
                "Set OPENAI_COMPAT_KEY to the key of that server.",
            )
        failure = EngineError(
            "engine_refused",
            f"The engine at {url} answered HTTP {status}: {text}",
            "Ask again; if it stays so, look at the engine's log.",
        )
        failure.__cause__ = error
        if status in (429, 502, 503):
            return _NotStarted(failure, _retry_after(error))
        return failure


class _NotStarted(Exception):
    """Nothing of the answer has arrived: the call may be made again."""

    def __init__(self, error: VarietError, retry_after: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


def _retry_after(error: openai.APIStatusError) -> float:
    value = error.response.headers.get("retry-after", "")
    return min(float(value), RETRY_AFTER_MAX_S) if value.isdigit() else 0.0


def elapsed_ms(since: float) -> float:
    """Milliseconds since a `time.perf_counter()` reading, to a microsecond."""
    return round((time.perf_counter() - since) * 1000, 3)
