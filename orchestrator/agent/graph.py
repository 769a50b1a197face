"""The agent as a LangGraph: ask the model, use tools, structure the answer.

    START → ask ⇄ use_tools → structure → END
                     └→ END, when a call awaits an approval

The graph keeps no checkpoint of its own: every node stores the messages that it adds before the
next node begins, and `route` finds the way from the messages alone. So a run that was interrupted,
by an approval or by a crash, is continued by entering the graph again.
"""

import operator
import time
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypedDict

import orjson
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from contracts.errors import EngineError, Unprocessable
from orchestrator.agent import messages as wire
from orchestrator.agent.calls import answer_calls
from orchestrator.agent.context import Aside, characters
from orchestrator.agent.model import Completion, ContextOverflow, Watch
from orchestrator.agent.prompt import structured_instruction
from orchestrator.agent.schemas import compile_schema, schema_problem
from orchestrator.agent.turn import Turn
from orchestrator.agent.waiting import Waiting
from orchestrator.store.records import new_id

EMPTY = "Your last answer was empty. Answer the question, or call a tool."
CUT = "\n[cut at the limit of {} tokens]"
STRUCTURE_ATTEMPTS = 2


Step = Literal["ask", "use_tools", "structure", "__end__"]


class State(TypedDict):
    """`messages` are the thread's; `resting` says that a tool call awaits an approval."""

    messages: Annotated[list[AnyMessage], operator.add]
    resting: bool


async def ask(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """One engine call: its tool calls, or the answer."""
    turn = runtime.context
    turn.progress.steps += 1
    if turn.progress.steps > turn.parts.max_steps:
        raise Unprocessable(
            "step_limit",
            f"The run needed more than {turn.parts.max_steps} engine calls.",
            "Ask for less at once, or raise MAX_STEPS.",
        )
    completion = await _complete(turn, state["messages"])
    text = completion.text
    turn.take_partial()
    if not completion.calls and not text.strip():
        return {"messages": [_nudge(turn)]}
    if completion.cut and not completion.calls:
        notice = CUT.format(turn.parts.model.max_tokens)
        turn.emit("token", {"text": notice})
        text += notice
    # Our own ids: engines may repeat theirs, and the journal is keyed by them.
    calls = [(new_id("call"), name, raw) for name, raw in completion.calls]
    if not calls:
        turn.progress.answer = text
    return {"messages": await turn.append([wire.assistant(text, calls)])}


async def use_tools(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Answer the open tool calls, all at once; those that await an approval stay open."""
    turn = runtime.context
    proposal = next(m for m in reversed(state["messages"]) if isinstance(m, AIMessage))
    calls = wire.unanswered(state["messages"])
    malformed = proposal.additional_kwargs.get(wire.MALFORMED, {})
    answers = await answer_calls(turn, calls, malformed)
    bodies = [wire.tool(call_id, text) for call_id, text in answers.items() if text is not None]
    messages = await turn.append(bodies)
    return {"messages": messages, "resting": len(bodies) < len(calls)}


async def structure(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """The answer again, as JSON of the form that was asked for; one repair."""
    turn = runtime.context
    assert turn.request is not None
    schema = turn.request.response_schema or {}
    validator = compile_schema(schema)
    messages: list[AnyMessage] = [
        *state["messages"],
        Aside(structured_instruction(schema)),
    ]
    problem: str | None = None
    for _ in range(STRUCTURE_ATTEMPTS):
        completion = await _complete(turn, messages, schema)
        value, problem = _parsed(completion)
        problem = problem or schema_problem(validator, value)
        if problem is None:
            turn.progress.structured = value
            return {}
        messages += [
            AIMessage(completion.text),
            Aside(f"That JSON is wrong: {problem}. Give it again, complete."),
        ]
    raise EngineError(
        "bad_structure",
        f"The model's structured answer is wrong, also after a repair: {problem}.",
        "Simplify response_schema, or use a larger model.",
    )


async def route(state: State, runtime: Runtime[Turn]) -> Step:
    """The next node, from the messages alone. A coroutine, since LangGraph calls a plain function
    in a thread."""
    turn = runtime.context
    last = state["messages"][-1]
    if state["resting"]:
        return "__end__"
    if wire.unanswered(state["messages"]):
        return "use_tools"
    if turn.direct:
        return "__end__"
    if not isinstance(last, AIMessage):
        return "ask"
    wanted = turn.request is not None and turn.request.response_schema is not None
    return "structure" if wanted else "__end__"


@cache
def agent() -> "CompiledStateGraph[State, Turn, State, State]":
    """The compiled graph; it holds no state and serves every run."""
    graph = StateGraph(State, context_schema=Turn)
    graph.add_node(ask)
    graph.add_node(use_tools)
    graph.add_node(structure)
    graph.add_conditional_edges(START, route)
    graph.add_conditional_edges("ask", route)
    graph.add_conditional_edges("use_tools", route)
    graph.add_edge("structure", END)
    return graph.compile()


async def _complete(
    turn: Turn, messages: Sequence[BaseMessage], schema: dict[str, Any] | None = None
) -> Completion:
    """Call the engine with as much of the thread as fits; count tokens, keep the exchange."""
    parts = turn.parts
    started = time.time_ns()
    prompt = _fit(turn, messages)
    with turn.stage("structure" if schema else "model"):
        try:
            completion = await _call(turn, prompt, schema)
        except ContextOverflow:
            parts.window.shrink(prompt)
            prompt = _fit(turn, messages)
            completion = await _call(turn, prompt, schema)
    size = sum(characters(m) for m in prompt)
    parts.window.learn(size, completion.usage.prompt_tokens)
    turn.count(completion.usage, completion.model)
    turn.span(
        "generation",
        "structure" if schema else "model",
        started,
        input=[{"role": m.type, "content": m.content} for m in prompt],
        output=completion.text or completion.calls,
        model=completion.model,
        prompt_tokens=completion.usage.prompt_tokens,
        completion_tokens=completion.usage.completion_tokens,
        request_id=turn.request_id,
    )
    return completion


async def _call(
    turn: Turn, prompt: Sequence[BaseMessage], schema: dict[str, Any] | None
) -> Completion:
    model = turn.parts.model
    tier = turn.request.tier if turn.request else None
    with Waiting(turn, tier or model.engine.model) as waiting:
        watch = Watch(
            on_token=None if schema else turn.token,
            on_retry=lambda error: turn.note("retry", error.message),
            on_progress=waiting.show,
            on_exchange=turn.keep_exchange,
            request_ids=turn.request_ids(),
        )
        return await model.complete(
            prompt, tools=turn.parts.offered(), tier=tier, schema=schema, watch=watch
        )


def _fit(turn: Turn, messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    fitted = turn.parts.window.fit(messages)
    if fitted.note and fitted.note not in turn.told:
        turn.told.add(fitted.note)
        turn.note("compaction", fitted.note)
    return fitted.messages


def _nudge(turn: Turn) -> Aside:
    if EMPTY in turn.told:
        raise EngineError(
            "empty_answer",
            "The model answered nothing, also when asked again.",
            "Ask in other words, or use a larger model.",
        )
    turn.told.add(EMPTY)
    turn.note("retry", "the model answered nothing; asked again")
    return Aside(EMPTY)


def _parsed(completion: Completion) -> tuple[Any, str | None]:
    if completion.cut:
        return None, "it was cut at the token limit"
    try:
        return orjson.loads(completion.text), None
    except orjson.JSONDecodeError as error:
        return None, f"it is not JSON ({error})"
