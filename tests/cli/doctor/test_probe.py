import contextlib
import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from cli.doctor import probe
from cli.doctor.probe import Answer, Silence, ask, own_address
from tests.knowledge.embeddings_server import EmbeddingsServer


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models"


def reason(url: str) -> str:
    silence = ask(url)
    assert isinstance(silence, Silence)
    assert silence.detail.endswith(".")
    return silence.reason


def unknown(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listener whose queue is full, so that further calls vanish as they do in a firewall."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            caller = held.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener


def test_each_way_of_not_answering_has_its_name(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket
) -> None:
    monkeypatch.setattr(probe, "CONNECT_S", 0.3)
    monkeypatch.setattr(probe, "ANSWER_S", 0.3)
    with socket.socket() as unused, socket.create_server(("127.0.0.1", 0)) as mute:
        unused.bind(("127.0.0.1", 0))
        assert reason(url_of(unused)) == "refused"
        assert reason(url_of(mute)) == "silent"
    assert reason(url_of(full)) == "timeout"
    assert reason("http://a..b:8000/v1/models") == "name"
    assert reason("http://127.0.0.1:80000/v1/models") == "name"
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert reason("http://brain.lan:8000/v1/models") == "name"


def test_no_way_there_is_told_apart_from_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, name in ((errno.EHOSTUNREACH, "route"), (errno.ENETUNREACH, "route")):

        def fail(*_: object, code: int = code) -> None:
            raise OSError(code, "No route to host")

        monkeypatch.setattr(socket, "create_connection", fail)
        assert reason("http://192.0.2.1:8000/v1") == name


def test_what_speaks_no_http_is_a_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(2):  # the call, then the question
                caller, _ = listener.accept()
                with caller:
                    caller.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert reason(url_of(listener)) == "stranger"
        thread.join()


def test_an_answer_carries_what_was_said_and_when() -> None:
    with EmbeddingsServer(3) as server:
        answer = ask(f"{server.url}/embeddings", "key", {"input": ["text"]})
        assert isinstance(answer, Answer)
        assert len(answer.json()["data"][0]["embedding"]) == 3
        assert answer.asked <= answer.received
        assert "date" in answer.headers
        assert server.requests[0][1] == "Bearer key"


def test_this_host_s_address_on_the_way_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert own_address("brain.lan") == ""


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with EmbeddingsServer(1) as served:
        assert isinstance(ask(f"{served.url}/embeddings", None, {"input": ["a"]}), Answer)
