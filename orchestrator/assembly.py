"""The orchestrator as a whole: its parts put together once, from the settings."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType

import httpx2
import orjson
from langchain_core.messages import HumanMessage

from contracts.errors import VarietError
from contracts.settings import Settings
from contracts.tiers import SwapProgress
from orchestrator.agent.approvals import Approvals
from orchestrator.agent.context import Window
from orchestrator.agent.model import ChatModel, Engine, Limits, Watch
from orchestrator.agent.policy import load_policy
from orchestrator.agent.prompt import SYSTEM_PROMPT
from orchestrator.agent.runs import Runs
from orchestrator.agent.toolbox import Toolbox
from orchestrator.agent.toolservers import Source
from orchestrator.agent.turn import Parts
from orchestrator.agent.waking import Waker
from orchestrator.agent.wire import tls
from orchestrator.engine import as_served, engine_of
from orchestrator.knowledge.index import Index
from orchestrator.knowledge.ingest import Ingest
from orchestrator.knowledge.supervision import IndexProcess
from orchestrator.store.opening import open_stores
from orchestrator.tracing import make_tracer

RENEW_S = 5.0
TIDY_S = 30.0
LEARN_S = 30.0
RETENTION_S = 3_600.0
DAY_S = 86_400

log = logging.getLogger(__name__)
ToolServers = Callable[[Settings, Index], Mapping[str, Source]]


class Orchestrator:
    """Enter it to start everything, leave it to stop everything."""

    settings: Settings
    parts: Parts
    runs: Runs
    approvals: Approvals
    index: Index
    ingest: Ingest
    toolbox: Toolbox
    http: httpx2.AsyncClient

    def __init__(
        self,
        settings: Settings,
        engine: Engine | None = None,
        tool_servers: ToolServers | None = None,
        index: Index | None = None,
    ) -> None:
        """`engine`, `tool_servers` and `index` default to what the settings say."""
        self.settings = settings
        self._engine = self.engine = engine or engine_of(settings)
        self._tool_servers = tool_servers
        self._index = index
        self._stack = AsyncExitStack()
        self.ready = asyncio.Event()
        self.started = time.time()
        self._recovered = False

    async def __aenter__(self) -> "Orchestrator":
        try:
            await self._start()
        except BaseException:  # boundary: what was started is stopped, whatever went wrong
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        state = settings.state_dir
        store, journal = await open_stores(settings)
        stack.push_async_callback(store.close)
        stack.push_async_callback(journal.close)
        self.store = store
        tracer = make_tracer(settings)
        stack.push_async_callback(tracer.close)
        unbounded = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        self.http = await stack.enter_async_context(
            httpx2.AsyncClient(timeout=None, limits=unbounded, verify=tls())
        )
        self.index = await self._start_index()
        roots = [settings.workspace]
        self.ingest = Ingest(self.index, state / "ingest.db", roots)
        self.ingest.start()
        stack.push_async_callback(self.ingest.close)
        self.toolbox = await self._open_tools()
        model = self._model()
        offered = orjson.dumps(self.toolbox.offered(self.engine.tools_evaluated))
        head = len(SYSTEM_PROMPT) + len(offered)
        window = Window(self.engine.context, model.max_tokens, head)
        self.parts = Parts(
            store=store,
            journal=journal,
            model=model,
            window=window,
            toolbox=self.toolbox,
            policy=load_policy(settings.policy_file),
            tracer=tracer,
            approval_ttl_s=settings.approval_ttl_s,
            max_steps=settings.max_steps,
            raw_runs=settings.raw_runs,
        )
        self.runs = Runs(self.parts)
        self.approvals = Approvals(self.runs)
        stack.push_async_callback(self.runs.shutdown, settings.drain_timeout_s)
        self._recovered = True
        await self.runs.recover()
        self._background(self._repeat(self.runs.renew, RENEW_S), "leases")
        self._background(self._repeat(self._tidy, TIDY_S), "tidy")
        self._background(self._repeat(self._retain, RETENTION_S), "retention")
        self._background(self._begin(), "prewarm")

    async def delete_threads(self, thread_ids: Sequence[str]) -> int:
        """Delete threads on which no run lives, with all that is theirs in both stores; how many
        there were. What the journal holds of a run goes only after the run."""
        run_ids = await self.parts.store.run_ids(thread_ids)
        deleted = await self.parts.store.delete_threads(thread_ids)
        gone = [run_id for run_id in run_ids if await self.parts.store.run(run_id) is None]
        await self.parts.journal.forget(gone)
        return deleted

    async def drain(self, within_s: float) -> None:
        """Take no new run and let those that run end, before everything is stopped. Called again
        with a shorter time it gets impatient."""
        if self._recovered:
            await self.runs.shutdown(within_s)

    @property
    def withheld(self) -> list[str]:
        """Tools that the model is not offered, because it was not evaluated with them."""
        evaluated = self.engine.tools_evaluated
        return [] if evaluated is None else sorted(set(self.toolbox.tools) - evaluated)

    async def _start_index(self) -> Index:
        if self._index is not None:
            return self._index
        settings = self.settings
        embed_key, qdrant_key = settings.embed_key, settings.qdrant_api_key
        process = IndexProcess(
            settings.state_dir / "index",
            settings.embed_url,
            settings.embed_model,
            embed_key.get_secret_value() if embed_key else None,
            qdrant_url=settings.qdrant_url,
            qdrant_key=qdrant_key.get_secret_value() if qdrant_key else None,
        )
        await process.start()
        self._stack.push_async_callback(process.stop)
        return process.client

    async def _open_tools(self) -> Toolbox:
        if self._tool_servers is None:
            from orchestrator.embedded import tool_servers

            self._tool_servers = tool_servers
        servers = self._tool_servers(self.settings, self.index)
        toolbox = Toolbox(servers, self.settings.tool_timeout_s)
        return await self._stack.enter_async_context(toolbox)

    def _model(self) -> ChatModel:
        settings = self.settings
        limits = Limits(
            settings.max_tokens,
            settings.temperature,
            settings.first_token_timeout_s,
            settings.token_timeout_s,
            settings.engine_wait_s,
        )
        model = ChatModel(self.engine, limits, Waker.of(self.engine.url, settings))
        self._stack.push_async_callback(model.close)
        return model

    async def _begin(self) -> None:
        """Meet the engine, then ask now and then whether it is another one meanwhile."""
        await self._learn()
        await self._prewarm()
        await asyncio.sleep(LEARN_S)
        await self._repeat(self._learn, LEARN_S)

    async def _learn(self) -> None:
        # From the settings anew each time: nothing of a model that is gone stays.
        served = await as_served(self._engine, self.settings, self.http)
        if served is None:
            return
        changed = served != self.engine
        self.engine = self.parts.model.engine = served
        if changed:
            log.info("the engine serves a window of %d tokens", served.context)
            self.parts.window.resize(served.context, self.parts.model.max_tokens)

    async def _prewarm(self) -> None:
        """Let the engine read the system prompt and the tools once, so that the first question
        finds them in its cache. An engine that is down costs no readiness, and nobody who waits for
        an answer has to wait for this one. A model that is not loaded stays so: another one, which
        is in use, may have to go for it."""
        if not self.engine.loaded:
            self.ready.set()
            return
        watch = Watch(priority="background", on_progress=self._waits)
        try:
            greeting = await self.parts.model.complete(
                [HumanMessage("Hello")], tools=self.parts.offered(), max_tokens=1, watch=watch
            )
            self.parts.window.measure_head(greeting.usage.prompt_tokens)
        except VarietError as error:
            log.warning("pre-warm: %s", error)
        except Exception:  # boundary: without it the first question is slower, and that is all
            log.exception("pre-warm failed")
        finally:
            self.ready.set()

    def _waits(self, progress: SwapProgress | None) -> None:
        if progress is not None:
            self.ready.set()

    async def _tidy(self) -> None:
        await self.store.checkpoint()
        await self.approvals.expire()
        await self.runs.catch_up()

    async def _retain(self) -> None:
        settings = self.settings
        await self.store.prune_exchanges(settings.raw_runs)
        if settings.retention_days:
            since = time.time() - settings.retention_days * DAY_S
            await self.delete_threads(await self.store.idle_threads(since))

    async def _repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            try:
                await work()
            except VarietError as error:
                log.warning("housekeeping: %s", error)
            except Exception:  # boundary: housekeeping tries again; it must not end the process
                log.exception("housekeeping failed")
            await asyncio.sleep(every_s)

    def _background(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(stop)
