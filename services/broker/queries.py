"""What may stand in a call's query, by the call."""

import json
import re
from collections.abc import Callable, Mapping

from contracts.broker import DockerHost
from services.broker.refusal import Refusal, shown
from services.broker.strict_json import read_json

TRUE, FALSE = ("1", "true"), ("", "0", "false", "none")
PROJECT_LABEL, ENGINE_LABEL = "com.docker.compose.project", "variet.engine"
SIGNALS = {"TERM": "SIGTERM", "SIGTERM": "SIGTERM", "15": "SIGTERM"}
SIGNALS |= {"KILL": "SIGKILL", "SIGKILL": "SIGKILL", "9": "SIGKILL"}
CONDITIONS = ("", "not-running", "next-exit", "removed")
FILTERS = ("label", "name", "status", "id")
TIME = re.compile(r"\d{1,12}(\.\d{1,9})?")
WHOLE = re.compile(r"-?\d{1,9}")
NAME_END = re.compile(r"[a-z0-9][a-z0-9-]{0,90}-[0-9a-f]{4}")


class Query:
    """A query that is taken apart; `left` is what nobody has asked for."""

    def __init__(self, given: Mapping[str, str], host: DockerHost) -> None:
        self.left = dict(given)
        self.host = host

    def flag(self, name: str) -> bool:
        value = self.left.pop(name, "").lower()
        if value not in (*TRUE, *FALSE):
            raise Refusal(f"{name}={shown(value)} is neither true nor false")
        return value in TRUE

    def text(self, name: str, pattern: re.Pattern[str]) -> dict[str, str]:
        value = self.left.pop(name, None)
        if value is None or value == "":
            return {}
        if not pattern.fullmatch(value):
            raise Refusal(f"{name}={shown(value)} is not allowed")
        return {name: value}

    def choice(self, name: str, choices: Mapping[str, str]) -> dict[str, str]:
        value = self.left.pop(name, None)
        if value is None:
            return {}
        if value.upper() not in choices:
            raise Refusal(f"{name}={shown(value)} is none of {', '.join(choices)}")
        return {name: choices[value.upper()]}

    def must_be_off(self, name: str, why: str) -> None:
        if self.flag(name):
            raise Refusal(f"{name}=1 is not allowed: {why}")


def _list(query: Query) -> dict[str, str]:
    """Whatever is asked for, only this project's engines are told of."""
    made = {"all": str(int(query.flag("all")))}
    query.flag("trunc_cmd")
    query.must_be_off("size", "it reads all of a container's files")
    limit = query.text("limit", WHOLE)
    if limit and int(limit["limit"]) > 0:
        made |= limit
    filters = _filters(query.left.pop("filters", ""))
    own = [f"{PROJECT_LABEL}={query.host.project}", ENGINE_LABEL]
    filters["label"] = [*filters.get("label", []), *own]
    return {**made, "filters": json.dumps(filters)}


def _filters(text: str) -> dict[str, list[str]]:
    found = read_json(text, "filters") if text else {}
    if not isinstance(found, dict):
        raise Refusal(f"filters={shown(text)} is no object")
    for name, values in found.items():
        if name not in FILTERS:
            raise Refusal(f"the filter {shown(name)} is none of {', '.join(FILTERS)}")
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise Refusal(f"the filter {name} is no list of texts")
    return found


def _create(query: Query) -> dict[str, str]:
    if query.left.pop("platform", ""):
        raise Refusal("the platform is not to be chosen")
    start, name = query.host.name_start, query.left.pop("name", "")
    if not name.startswith(start) or not NAME_END.fullmatch(name[len(start) :]):
        raise Refusal(f"the name {shown(name)} is not {start}ENGINE-HHHH")
    return {"name": name}


def _stop(query: Query) -> dict[str, str]:
    return {
        **query.text("t", re.compile(r"\d{1,4}")),
        **query.choice("signal", SIGNALS),
    }


def _kill(query: Query) -> dict[str, str]:
    return query.choice("signal", SIGNALS)


def _wait(query: Query) -> dict[str, str]:
    return query.text("condition", re.compile("|".join(CONDITIONS)))


def _logs(query: Query) -> dict[str, str]:
    flags = ("stdout", "stderr", "follow", "timestamps")
    return {
        **{name: str(int(query.flag(name))) for name in flags},
        **query.text("tail", re.compile(r"all|\d{1,9}")),
        **query.text("since", TIME),
        **query.text("until", TIME),
    }


def _stats(query: Query) -> dict[str, str]:
    if "stream" not in query.left:
        raise Refusal("stats is answered once, with stream=false")
    query.must_be_off("stream", "stats is answered once")
    return {"stream": "false", "one-shot": str(int(query.flag("one-shot")))}


def _delete(query: Query) -> dict[str, str]:
    query.must_be_off("v", "volumes are not the engines' own")
    query.must_be_off("link", "engines have no links")
    return {"force": str(int(query.flag("force")))}


def _pull(query: Query) -> dict[str, str]:
    """`fromImage` and `tag` as the SDK splits a name, or the name as a whole."""
    if query.left.pop("platform", ""):
        raise Refusal("the platform is not to be chosen")
    name, tag = query.left.pop("fromImage", ""), query.left.pop("tag", "")
    whole = f"{name}{'@' if tag.startswith('sha256:') else ':'}{tag}" if tag else name
    for image in query.host.images.values():
        if _tagged(whole) == _tagged(image):
            return {"fromImage": name, **({"tag": tag} if tag else _latest(name))}
    raise Refusal(f"the image {shown(whole)} is none of this host's engines")


def _tagged(image: str) -> str:
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _latest(name: str) -> dict[str, str]:
    """Without a tag Docker pulls every tag there is."""
    return {} if _tagged(name) == name else {"tag": "latest"}


QUERIES: Mapping[str, Callable[[Query], dict[str, str]]] = {
    "list": _list,
    "create": _create,
    "stop": _stop,
    "kill": _kill,
    "wait": _wait,
    "logs": _logs,
    "stats": _stats,
    "delete": _delete,
    "pull": _pull,
}
