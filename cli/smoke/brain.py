"""The brain: every tier answers at its one port, on the cards that are configured, to whoever has
the key and to nobody else."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx2

from cli.address import local_url
from cli.smoke import gpu
from cli.smoke.table import Check, Failed
from cli.smoke.wire import Server
from contracts.deployment import Deployment
from contracts.errors import SettingsError, Unauthorized
from contracts.gateway_settings import GatewaySettings
from contracts.preset import TIERS, HostPreset
from models.manifest import load_manifest, load_preset

NAME = "default"
KEY = "GATEWAY_API_KEY"
QUESTION = "Count from one to forty in English words, separated by commas."
TOKENS = 96
# What costs is what has to be closed.
ASKED = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
# Of no tier, alias or model.
NOBODY = "smoke--nobody"
LOAD_S = 4.0
# A model that is loaded for the first time is read from the disk whole.
SWAP_TIMEOUT = httpx2.Timeout(1_800.0, connect=5.0)
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
    """All rows; those that the preset has nothing for are off."""
    if here.lan_ip is None:
        raise SettingsError("no_lan_ip", "LAN_IP is not set.", "Set it in .env, or: variet init")
    if here.variet_preset is None:
        raise SettingsError("no_preset", "VARIET_PRESET is not set.", "Run: variet init")
    folder = gateway.models_dir
    preset = load_preset(
        here.variet_preset, folder / "hosts", load_manifest(folder / "manifest.yaml")
    )
    base = local_url(here.lan_ip, gateway.gateway_port)
    chat = _server(f"{base}/v1", gateway)
    admin = _server(base, gateway)
    reranks = preset.rerank if "rerank" in preset.profiles else None
    no_rerank = "" if reranks else f"the preset {here.variet_preset} reranks nothing"
    loads = _loads(here, preset, chat)
    return [
        Check("models", lambda: _models(chat)),
        Check("swap", lambda: _swap(chat, here)),
        Check("chat", lambda: _chat(chat)),
        Check("embedding", lambda: _embed(chat, preset.embed)),
        Check("rerank", lambda: _rerank(chat, reranks or ""), no_rerank),
        Check("key", lambda: _refused(chat, admin)),
        Check("gpu", lambda: _gpu(loads), "" if loads else _no_gpu(here)),
    ]


def _server(url: str, gateway: GatewaySettings) -> Server:
    secret = gateway.gateway_api_key
    key = secret.get_secret_value() if secret else None
    return Server("gateway", url, key, "GATEWAY_PORT", KEY, SWAP_TIMEOUT)


def _models(server: Server) -> str:
    ids = [str(one.get("id")) for one in _list(server.get("/models"), server)]
    if missing := [tier for tier in TIERS if tier not in ids]:
        raise Failed(
            f"{server.url} does not list the tier {', '.join(missing)}.",
            "Another program may have that port; else look at: make logs S=gateway",
        )
    return ", ".join(ids)


def _swap(server: Server, here: Deployment) -> str:
    """Every tier once; the one that is to be loaded comes last, and stays."""
    order = [*(tier for tier in TIERS if tier != here.engine_tier), here.engine_tier]
    told = []
    for tier in order:
        began = time.monotonic()
        answer = server.post("/chat/completions", {**ASKED, "model": tier})
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise Failed(f"{tier} answered {str(answer)[:200]}.", LOG)
        told.append(f"{tier} {time.monotonic() - began:.1f} s ({answer.get('model')})")
    return ", ".join(told)


def _chat(server: Server) -> str:
    said = server.chat(NAME, QUESTION, TOKENS)
    return (
        f"{said.tokens} tokens, {said.tokens_per_s:.1f} tokens/s,"
        f" first token after {said.first_token_s * 1_000:.0f} ms"
    )


def _embed(server: Server, model: str) -> str:
    rows = _list(server.post("/embeddings", {"model": model, "input": TEXTS}), server)
    vectors = [row["embedding"] for row in rows if isinstance(row.get("embedding"), list)]
    lengths = {len(vector) for vector in vectors}
    if len(vectors) != len(TEXTS) or len(lengths) != 1:
        raise Failed(f"{server.url} answered {len(vectors)} vectors of lengths {lengths}.", LOG)
    if not all(any(vector) for vector in vectors) or vectors[0] == vectors[1]:
        raise Failed(f"{server.url} answered vectors of zeros, or the same for two texts.", LOG)
    return f"{len(vectors[0])} dimensions by {model}"


def _rerank(server: Server, model: str) -> str:
    asked = {"model": model, "query": QUERY, "documents": TEXTS}
    answer = server.post("/rerank", asked)
    ranked = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(ranked, list) or len(ranked) != len(TEXTS):
        raise Failed(f"{server.url} answered {str(answer)[:200]}.", LOG)
    scores = {int(one["index"]): float(one["relevance_score"]) for one in ranked}
    if scores[1] <= scores[0]:
        raise Failed(f"{server.url} ranks the irrelevant text first: {scores}.", LOG)
    return f"scores {scores[1]:.3f} and {scores[0]:.3f} by {model}"


def _refused(chat: Server, admin: Server) -> str:
    chat.refuses("/chat/completions", ASKED)
    path = f"/tiers/{NOBODY}/unload"
    admin.refuses(path, {})
    try:
        admin.post(path, {})
    except Unauthorized:
        return "refused without a key and with a wrong one; unloading is the admin's alone"
    except Failed as error:
        raise Failed(
            f"{KEY} may unload models: {error.message}", "Set GATEWAY_ADMIN_KEY: variet init"
        ) from error
    raise Failed(f"{KEY} may unload models.", "Set GATEWAY_ADMIN_KEY: variet init")


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


def _loads(here: Deployment, preset: HostPreset, server: Server) -> list[Load]:
    """One for each engine that runs on a card: that of the chat, and those beside it."""
    if not preset.cards or preset.native:
        return []
    llm = gpu.configured(here.nvidia_visible_devices_llm)
    loads = [Load("chat", llm, lambda: server.chat(NAME, QUESTION, TOKENS))]
    if not _on_card(here.tei_variant):
        return loads
    emb = gpu.configured(here.nvidia_visible_devices_emb)
    batch = {"model": preset.embed, "input": TEXTS * 16}
    loads.append(Load("embeddings", emb, lambda: server.post("/embeddings", batch)))
    if "rerank" in preset.profiles:
        asked = {"model": preset.rerank, "query": QUERY, "documents": TEXTS * 16}
        loads.append(Load("rerank", emb, lambda: server.post("/rerank", asked)))
    return loads


def _on_card(variant: str | None) -> bool:
    return bool(variant) and not str(variant).endswith("-cpu")


def _no_gpu(here: Deployment) -> str:
    return f"no GPU is configured (preset {here.variet_preset}: engines on the CPU)"


def _list(answer: Any, server: Server) -> list[dict[str, Any]]:
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise Failed(f"{server.url} answered {str(answer)[:200]}.", LOG)
    return rows


LOG = "Another program may have that port; else look at its log: make logs"
