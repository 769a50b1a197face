"""The brain's gateway in its stack: it swaps engines, finds them again, and make knows of them."""

import time

import httpx2
import pytest

from tests.stack import faults
from tests.stack.docker import docker, run
from tests.stack.hosts import LAN_IP, Host, gateway
from tests.stack.report import Report

pytestmark = pytest.mark.stack

TIERS = ("fast", "balanced", "deep")
SLOW = "0.05"
EMBED = "bge-small-en-v1.5"


def asked(model: str, **more: object) -> dict[str, object]:
    message = {"role": "user", "content": "Who are you?"}
    return {"model": model, "messages": [message], "max_tokens": 8, **more}


def chat(http: httpx2.Client, tier: str) -> httpx2.Response:
    return http.post("/v1/chat/completions", json=asked(tier))


def chat_engines(brain: Host) -> set[str]:
    return brain.engines().keys() - {EMBED}


def test_every_tier_is_swapped_in_for_who_asks_for_it(brain: Host, report: Report) -> None:
    with gateway(brain) as http:
        for tier in (*TIERS, "balanced"):
            began = time.monotonic()
            answer = chat(http, tier).raise_for_status().json()
            report.times[f"swap to {tier}"] = time.monotonic() - began
            assert answer["model"] == f"nano@{tier}"
            assert chat_engines(brain) == {f"nano@{tier}"}, "there is room for one"
        vectors = http.post("/v1/embeddings", json={"model": EMBED, "input": ["a"]})
        assert len(vectors.raise_for_status().json()["data"][0]["embedding"]) == 384


def test_a_gateway_that_is_killed_finds_its_engines_again(brain: Host, report: Report) -> None:
    with gateway(brain) as http:
        chat(http, "balanced").raise_for_status()
        before = brain.engines()
        engine = before["nano@balanced"]
        docker("update", "--cpus", SLOW, engine)
        since = faults.started_at(brain, "gateway")
        try:
            request = asked("balanced", stream=True, max_tokens=64)
            with http.stream("POST", "/v1/chat/completions", json=request) as stream:
                lines = stream.iter_lines()
                assert next(line for line in lines if line.startswith("data:"))
                faults.kill(brain, "gateway")
                with pytest.raises(httpx2.TransportError):
                    list(lines)
        finally:
            docker("update", "--cpus", brain.values["ENGINE_CPUS"], engine)
        began = time.monotonic()
        faults.wait_until_started_anew(brain, "gateway", since)
        brain.wait_until_healthy("gateway")
        answer = chat(http, "balanced").raise_for_status()
    report.fault("gateway is killed", "finds its engines, answers", time.monotonic() - began)
    assert int(answer.headers["x-variet-queue-ms"]) < 1_000, "nothing was loaded"
    assert brain.engines() == before


def test_make_shows_engines_leaves_them_alone_and_takes_them_down(brain: Host) -> None:
    with gateway(brain) as http:
        chat(http, "balanced").raise_for_status()
    before = brain.engines()
    assert before.keys() == {EMBED, "nano@balanced"}
    for target, words in (("ps", ()), ("logs", ()), ("logs", ("S=engines",))):
        # The logs are followed until somebody ends that.
        command = ("timeout", "15", "make", "-s", target, f"ENV_FILE={brain.env_file}", *words)
        said = run(*command, check=False)
        assert "engine-nano-balanced" in said, said
        # The stand-in for embeddings has nothing to say.
        assert target == "logs" or "engine-bge-small" in said
    brain.make("up")
    brain.make("restart", "S=gateway")
    assert brain.engines() == before
    brain.make("down")
    project = f"label=com.docker.compose.project={brain.values['COMPOSE_PROJECT_NAME']}"
    assert docker("ps", "--all", "--quiet", "--filter", project) == ""
    assert docker("network", "ls", "--quiet", "--filter", project) == ""
    brain.make("up")


def test_engines_reach_neither_broker_nor_docker(brain: Host) -> None:
    with gateway(brain) as http:
        chat(http, "balanced").raise_for_status()
    form = "{{json .Mounts}} {{json .HostConfig.Binds}}"
    look = ("sh", "-c", "ls /run/broker /var/run/docker.sock")
    for container in brain.engines().values():
        mounts = docker("inspect", "--format", form, container)
        assert "broker" not in mounts
        assert "docker.sock" not in mounts
        assert "No such file" in docker("exec", container, *look, check=False)
    routes = "print(open('/proc/net/route').read())"
    told = brain.compose("exec", "--no-TTY", "broker", "python", "-c", routes)
    assert len(told.strip().splitlines()) == 1, "the broker has no network"


def test_an_engine_without_a_need_of_the_internet_reaches_nothing(brain: Host) -> None:
    with gateway(brain) as http:
        chat(http, "balanced").raise_for_status()
    curl = ("curl", "--silent", "--max-time", "3", "--output", "/dev/null")
    container = brain.engines()["nano@balanced"]
    for target in (f"http://{LAN_IP}:8000/health", "http://198.18.76.99/"):
        done = docker("exec", container, *curl, "--write-out", "%{http_code}", target, check=False)
        assert done.startswith("000"), (target, done)


def test_who_has_no_key_or_the_user_s_may_not_unload(brain: Host) -> None:
    with gateway(brain) as http:
        assert http.post("/tiers/balanced/unload").status_code == 403
        assert http.post("/tiers/balanced/unload", headers={"authorization": ""}).status_code == 401
        assert http.get("/version", headers={"authorization": ""}).status_code in (401, 404)
