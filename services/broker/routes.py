"""The calls of Docker's API that are passed on: method, path and query, each made anew from what
was understood of it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote_to_bytes

from contracts.broker import DockerHost
from services.broker.queries import QUERIES, Query
from services.broker.refusal import Refusal, shown

Action = Literal[
    "ping",
    "version",
    "list",
    "create",
    "inspect",
    "start",
    "stop",
    "kill",
    "wait",
    "logs",
    "stats",
    "delete",
    "image",
    "pull",
    "own_host",
    "own_health",
]
# Docker 25 came with 1.44. Calls of older versions mean other things: `start` once took a body.
VERSION = re.compile(r"/v1\.(4[4-9]|[5-9][0-9])(?=/)")
CONTAINER = r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127})"
ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("GET", r"/_ping", "ping"),
    ("HEAD", r"/_ping", "ping"),
    ("GET", r"/version", "version"),
    ("GET", r"/containers/json", "list"),
    ("POST", r"/containers/create", "create"),
    ("GET", rf"/containers/{CONTAINER}/json", "inspect"),
    ("POST", rf"/containers/{CONTAINER}/start", "start"),
    ("POST", rf"/containers/{CONTAINER}/stop", "stop"),
    ("POST", rf"/containers/{CONTAINER}/kill", "kill"),
    ("POST", rf"/containers/{CONTAINER}/wait", "wait"),
    ("GET", rf"/containers/{CONTAINER}/logs", "logs"),
    ("GET", rf"/containers/{CONTAINER}/stats", "stats"),
    ("DELETE", rf"/containers/{CONTAINER}", "delete"),
    ("GET", r"/images/(?P<image>[a-zA-Z0-9_.:/%@-]{1,400})/json", "image"),
    ("POST", r"/images/create", "pull"),
    ("GET", r"/variet/host", "own_host"),
    ("GET", r"/variet/health", "own_health"),
)
COMPILED = tuple((method, re.compile(path), action) for method, path, action in ROUTES)
PATH_CHARACTERS = re.compile(r"/[a-zA-Z0-9_.:/%@-]*")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is on the list. `container` is what the request named, an id or a name; `path`
    has {} in its place."""

    action: Action
    method: str
    version: str
    path: str
    query: Mapping[str, str]
    container: str | None = None
    image: str | None = None

    def target(self, container_id: str = "") -> str:
        """The path that Docker is asked for; `container_id` is the container's full id."""
        return f"{self.version}{self.path.format(container_id) if self.container else self.path}"


def read_call(method: str, target: str, host: DockerHost) -> Call:
    """What a request line asks for, `target` as it was sent. Raises Refusal."""
    path, mark, query = target.partition("?")
    if not PATH_CHARACTERS.fullmatch(path) or ".." in path or "//" in path:
        raise Refusal(f"the path {shown(path)} is not one of Docker's API")
    version = found.group() if (found := VERSION.match(path)) else ""
    path = path[len(version) :]
    for known, pattern, action in COMPILED:
        if known == method and (fits := pattern.fullmatch(path)):
            return _call(action, method, version, path, fits, _pairs(query if mark else ""), host)
    raise Refusal(f"{shown(method)} {shown(path)} is not among the calls that the broker passes on")


def _call(
    action: Action,
    method: str,
    version: str,
    path: str,
    fits: re.Match[str],
    given: dict[str, str],
    host: DockerHost,
) -> Call:
    made = _query(action, given, host)
    groups = fits.groupdict()
    if action == "image":
        image = _image(groups["image"], host)
        return Call(action, method, version, f"/images/{quoted(image)}/json", made, image=image)
    if container := groups.get("name"):
        path = f"/containers/{{}}{path[fits.end('name') :]}"
    return Call(action, method, version, path, made, container=container)


def quoted(image: str) -> str:
    return image.replace("@", "%40")


def _image(escaped: str, host: DockerHost) -> str:
    """The configured image that a path names. Only `@` has to be escaped in a name."""
    name = unquote_to_bytes(escaped).decode("ascii", "replace")
    if name not in host.images.values() or escaped not in (name, quoted(name)):
        raise Refusal(f"the image {shown(name)} is none of this host's engines")
    return name


def _pairs(query: str) -> dict[str, str]:
    """The query, whose names stand once each."""
    if not query:
        return {}
    if "\0" in query or "#" in query or not query.isascii():
        raise Refusal("the query has a character that is not allowed")
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict"
        )
    except ValueError as error:
        raise Refusal(f"the query {shown(query)} cannot be understood", 400) from error
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refusal("the query names something twice")
    return made


def _query(action: Action, given: dict[str, str], host: DockerHost) -> dict[str, str]:
    """The query for Docker. Raises Refusal for names and values that are not on the list."""
    reader: Callable[[Query], dict[str, str]] | None = QUERIES.get(action)
    query = Query(given, host)
    made = reader(query) if reader else {}
    if query.left:
        raise Refusal(f"{action} takes no {shown(sorted(query.left)[0])}")
    return made
