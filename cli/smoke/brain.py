"""The brain: every engine that is selected answers, on the cards that are configured, to whoever
has the key and to nobody else."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cli.address import local_url
from cli.compose import profiles
from cli.smoke import gpu
from cli.smoke.table import Check, Failed
from cli.smoke.wire import Server
from contracts.deployment import Deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings

ENGINES = ("llamacpp", "vllm")
NAME = "default"
KEY = "GATEWAY_API_KEY"
QUESTION = "Count from one to forty in English words, separated by commas."
TOKENS = 96
# Some releases of llama-server list their models to anyone; what costs is what has to be closed.
ASKED = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
LOAD_S = 4.0
# The relevant one second, so that a server that answers in the order given is found out.
QUERY = "How is boost pressure limited at altitude?"
TEXTS = [
    "The radio has four speakers.",
    "At altitude the boost target is lowered so that the turbocharger does not overspeed.",
]


class Load(NamedTuple):
    """What keeps an engine busy once, and the cards that have to show it."""

    engine: str
    cards: list[str]
    work: Callable[[], object]


def checks(here: Deployment, gateway: GatewaySettings) -> list[Check]:
    """All rows; those whose profile is not selected are off."""
    if here.lan_ip is None:
        raise SettingsError("no_lan_ip", "LAN_IP is not set.", "Set it in .env, or: variet init")
    selected = profiles(here)
    engine = next((name for name in ENGINES if name in selected), "")
    key = gateway.gateway_api_key.get_secret_value() if gateway.gateway_api_key else None
    chat = Server(
        engine or "engine", _base(here, gateway.gateway_port) + "/v1", key, "GATEWAY_PORT", KEY
    )
    embeddings = Server("embeddings", _base(here, here.embed_port) + "/v1", key, "EMBED_PORT", KEY)
    rerank = Server("rerank", _base(here, here.rerank_port), key, "RERANK_PORT", KEY)
    no_engine = "" if engine else f"no profile of {', '.join(ENGINES)} is selected"
    no_embeddings, no_rerank = _off(selected, "embeddings"), _off(selected, "rerank")
    servers = [
        *([] if no_engine else [(chat, "/chat/completions", ASKED)]),
        *([] if no_embeddings else [(embeddings, "/embeddings", _embedding(here, TEXTS))]),
        *([] if no_rerank else [(rerank, "/rerank", {"query": QUERY, "texts": TEXTS})]),
    ]
    loads = _loads(here, selected, chat, embeddings, rerank)
    return [
        Check("models", lambda: _models(chat), no_engine),
        Check("chat", lambda: _chat(chat), no_engine),
        Check("embedding", lambda: _embed(embeddings, here), no_embeddings),
        Check("rerank", lambda: _rerank(rerank), no_rerank),
        Check("key", lambda: _refused(servers), "" if servers else "no profile is selected"),
        Check("gpu", lambda: _gpu(loads), "" if loads else _no_gpu(here)),
    ]


def _base(here: Deployment, port: int) -> str:
    assert here.lan_ip
    return local_url(here.lan_ip, port)


def _off(selected: frozenset[str], profile: str) -> str:
    return "" if profile in selected else f"the profile {profile} is not selected"


def _models(server: Server) -> str:
    ids = [str(one.get("id")) for one in _list(server.get("/models"), server)]
    if not ids:
        raise Failed(f"{server.url} lists no model.", f"Look at: make logs S={server.name}")
    return ", ".join(ids)


def _chat(server: Server) -> str:
    said = server.chat(NAME, QUESTION, TOKENS)
    return (
        f"{said.tokens} tokens, {said.tokens_per_s:.1f} tokens/s,"
        f" first token after {said.first_token_s * 1_000:.0f} ms"
    )


def _embed(server: Server, here: Deployment) -> str:
    rows = _list(server.post("/embeddings", _embedding(here, TEXTS)), server)
    vectors = [row["embedding"] for row in rows if isinstance(row.get("embedding"), list)]
    lengths = {len(vector) for vector in vectors}
    if len(vectors) != len(TEXTS) or len(lengths) != 1:
        raise Failed(f"{server.url} answered {len(vectors)} vectors of lengths {lengths}.", LOG)
    if not all(any(vector) for vector in vectors) or vectors[0] == vectors[1]:
        raise Failed(f"{server.url} answered vectors of zeros, or the same for two texts.", LOG)
    return f"{len(vectors[0])} dimensions"


def _rerank(server: Server) -> str:
    ranked = server.post("/rerank", {"query": QUERY, "texts": TEXTS})
    if not isinstance(ranked, list) or len(ranked) != len(TEXTS):
        raise Failed(f"{server.url} answered {str(ranked)[:200]}.", LOG)
    scores = {int(one["index"]): float(one["score"]) for one in ranked}
    if scores[1] <= scores[0]:
        raise Failed(f"{server.url} ranks the irrelevant text first: {scores}.", LOG)
    return f"scores {scores[1]:.3f} and {scores[0]:.3f}"


def _refused(servers: list[tuple[Server, str, dict[str, Any]]]) -> str:
    for server, path, body in servers:
        server.refuses(path, body)
    return f"refused without a key and with a wrong one: {', '.join(s.name for s, _, _ in servers)}"


def _gpu(loads: list[Load]) -> str:
    phrases: list[str] = []
    for engine, cards, work in loads:
        with gpu.Watch() as watch:
            until = time.monotonic() + LOAD_S
            # A busy machine may take long for a sample.
            while watch.waiting or time.monotonic() < until:
                work()
        phrases.append(f"{engine} on {', '.join(watch.used(cards))}")
    idle = watch.others([card for load in loads for card in load.cards])
    return "; ".join(phrases) + (f"; used by no engine: {', '.join(idle)}" if idle else "")


def _loads(
    here: Deployment, selected: frozenset[str], chat: Server, embeddings: Server, rerank: Server
) -> list[Load]:
    """One for each engine that runs on a card."""
    loads: list[Load] = []
    llm = gpu.configured(here.nvidia_visible_devices_llm)
    emb = gpu.configured(here.nvidia_visible_devices_emb)
    if "vllm" in selected or ("llamacpp" in selected and _on_card(here.llamacpp_variant)):
        loads.append(Load(chat.name, llm, lambda: chat.chat(NAME, QUESTION, TOKENS)))
    if not _on_card(here.tei_variant):
        return loads
    batch = _embedding(here, TEXTS * 16)
    asked = {"query": QUERY, "texts": TEXTS * 16}
    if "embeddings" in selected:
        loads.append(Load("embeddings", emb, lambda: embeddings.post("/embeddings", batch)))
    if "rerank" in selected:
        loads.append(Load("rerank", emb, lambda: rerank.post("/rerank", asked)))
    return loads


def _on_card(variant: str | None) -> bool:
    return bool(variant) and not str(variant).endswith("-cpu")


def _no_gpu(here: Deployment) -> str:
    return f"no GPU is configured (preset {here.variet_preset or 'none'}: engines on the CPU)"


def _embedding(here: Deployment, texts: list[str]) -> dict[str, Any]:
    return {"input": texts, **({"model": here.tei_model} if here.tei_model else {})}


def _list(answer: Any, server: Server) -> list[dict[str, Any]]:
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise Failed(f"{server.url} answered {str(answer)[:200]}.", LOG)
    return rows


LOG = "Another program may have that port; else look at its log: make logs"
