"""Breaking things, and asking the hands afterwards."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.stack.docker import docker
from tests.stack.hosts import Host, client

Json = dict[str, Any]
RETURN_S = 180.0


def kill(host: Host, service: str) -> None:
    """The container's process dies by itself, as far as Docker can tell."""
    pid = int(docker("inspect", "--format", "{{.State.Pid}}", host.container(service)))
    # 0 would be this test itself.
    assert pid > 1, f"{service} does not run"
    os.kill(pid, signal.SIGKILL)


def started_at(host: Host, service: str) -> str:
    return docker("inspect", "--format", "{{.State.StartedAt}}", host.container(service))


def wait_until_started_anew(host: Host, service: str, since: str) -> None:
    deadline = time.monotonic() + RETURN_S
    while started_at(host, service) == since:
        assert time.monotonic() < deadline, f"{service} was not started again"
        time.sleep(0.1)


@contextmanager
def stopped(host: Host, *services: str) -> Iterator[None]:
    """These containers are gone at once, and back and healthy in the end."""
    containers = [host.container(name) for name in services]
    docker("kill", *containers)
    try:
        yield
    finally:
        docker("start", *containers)
        host.wait_until_healthy(*services)


def events(http: httpx2.Client, message: str) -> Iterator[tuple[str, Json]]:
    """Type and data of each event of a new run, as they come."""
    request = {"message": message, "stream": True}
    with http.stream("POST", "/chat", json=request) as answer:
        answer.raise_for_status()
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                yield kind, json.loads(line.removeprefix("data:"))


def ask(http: httpx2.Client, message: str) -> Json:
    answer: Json = http.post("/chat", json={"message": message}).json()
    return answer


def tool(http: httpx2.Client, name: str, **arguments: object) -> httpx2.Response:
    return http.post("/tools/execute", json={"name": name, "arguments": arguments})


def ask_to_write(http: httpx2.Client, path: str, content: str) -> Json:
    """The approval that a write waits for."""
    answer = tool(http, "file_operations", operation="write", path=path, content=content)
    assert answer.status_code == 202, answer.text
    approval: Json = answer.json()["approval"]
    return approval


def pending(http: httpx2.Client) -> list[str]:
    return [one["id"] for one in http.get("/approvals").raise_for_status().json()["items"]]


def decide(http: httpx2.Client, approval: Json, decision: str = "approve") -> httpx2.Response:
    body = {"decision": decision, "wait": True}
    return http.post(f"/approvals/{approval['id']}", json=body)


def wait_for(hands: Host, path: str, status: int = 200) -> float:
    """Seconds until the orchestrator answers so; it may not even listen yet."""
    began = time.monotonic()
    said = ""
    with client(hands) as http:
        while time.monotonic() - began < RETURN_S:
            try:
                answer = http.get(path)
            except httpx2.TransportError as error:
                said = str(error)
            else:
                if answer.status_code == status:
                    return time.monotonic() - began
                said = f"{answer.status_code} {answer.text}"
            time.sleep(0.1)
    raise AssertionError(f"{path}: {said}")


def ingest(http: httpx2.Client, text: str, source: str) -> Json:
    """The job when it is done, or the error that refused it."""
    accepted = http.post("/ingest", json={"text": text, "source": source})
    if accepted.status_code != 202:
        refusal: Json = accepted.json()
        return refusal
    deadline = time.monotonic() + RETURN_S
    while True:
        job: Json = http.get(f"/ingest/jobs/{accepted.json()['job_id']}").json()
        if "error" in job or job["status"] in ("done", "failed"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
