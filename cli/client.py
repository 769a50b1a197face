"""The orchestrator over HTTP: JSON calls, and a run's events as a stream that outlives a break."""

import time
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from contracts import errors
from contracts.chat import ApprovalDecision, ApprovalOutcome, ChatRequest
from contracts.errors import ErrorEnvelope, Unavailable, VarietError
from contracts.events import Event
from contracts.settings import LOOPBACK

SILENCE_S = 60.0
RESUME_ATTEMPTS = 8
BY_STATUS: dict[int, type[VarietError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.Unprocessable,
    502: errors.EngineError,
    503: errors.Unavailable,
    504: errors.EngineTimeout,
}


class Client:
    """Calls one orchestrator. Every failure is a VarietError with a remedy.

    `timeout` is in seconds and holds for JSON calls; a stream may be silent for SILENCE_S before
    it is taken up again where it was.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._wait = wait
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, connect=5.0),
            # A proxy of the environment is for the internet, not for this machine.
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=_given(params))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=body or {})

    def delete(self, path: str, **params: Any) -> Any:
        return self._call("DELETE", path, params=_given(params))

    def stop(self, run_id: str) -> None:
        self.post(f"/runs/{run_id}/stop")

    def decide(self, approval_id: str, decision: ApprovalDecision) -> ApprovalOutcome:
        body = decision.model_dump(exclude_none=True)
        return ApprovalOutcome.model_validate(self.post(f"/approvals/{approval_id}", body))

    def chat(self, request: ChatRequest) -> Iterator[Event]:
        """Start a run and yield its events up to `end`."""
        body = request.model_dump(exclude_none=True) | {"stream": True}
        return self._events(None, 0, body)

    def follow(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """Yield the events of a run with ids above `after`, up to the next `end`."""
        return self._events(run_id, after, None)

    def _events(
        self, run_id: str | None, after: int, body: dict[str, Any] | None
    ) -> Iterator[Event]:
        failures = 0
        while True:
            try:
                for event in self._read(run_id, after, body):
                    failures, after = 0, event.id
                    run_id = run_id or event.data.get("run_id")
                    yield event
                    if event.type == "end":
                        return
                problem = "the stream ended early"
            except httpx2.ReadTimeout:
                if run_id:
                    continue
                problem = f"nothing came for {SILENCE_S:.0f} s"
            except httpx2.TransportError as error:
                if run_id is None and isinstance(error, httpx2.ConnectError):
                    raise unreachable(self.url) from error
                problem = str(error) or type(error).__name__
            failures += 1
            if run_id is None or failures > RESUME_ATTEMPTS:
                raise _broken(self.url, run_id, problem)
            self._wait(min(0.1 * 2**failures, 5.0))

    def _read(self, run_id: str | None, after: int, body: dict[str, Any] | None) -> Iterator[Event]:
        """Read one connection's events; those that are known already are left out."""
        method, path = ("GET", f"/runs/{run_id}/events") if run_id else ("POST", "/chat")
        headers = {"Accept": "text/event-stream"}
        if run_id:
            headers["Last-Event-ID"] = str(after)
        timeout = httpx2.Timeout(SILENCE_S, connect=5.0)
        with self._http.stream(
            method, path, json=None if run_id else body, headers=headers, timeout=timeout
        ) as response:
            if response.is_error:
                response.read()
                raise _refused(response)
            for message in httpx2.EventSource(response, max_event_size=None):
                event = _parsed(message)
                if event.id > after:
                    yield event

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx2.ConnectError as error:
            raise unreachable(self.url) from error
        except httpx2.TimeoutException as error:
            raise errors.Unavailable(
                "no_answer", f"{self.url}{path} did not answer in time.", "Look at: variet doctor"
            ) from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _broken(self.url, None, str(error)) from error
        if response.is_error:
            raise _refused(response)
        try:
            return response.json() if response.content else None
        except JSONDecodeError as error:
            raise _stranger(self.url) from error


def unreachable(url: str) -> VarietError:
    """The error for an address where nothing listens."""
    if urlsplit(url).hostname in LOOPBACK:
        remedy = "Start it: `make up`, or on one machine `make run` in another terminal."
    else:
        remedy = "Check VARIET_URL, and that the orchestrator runs on that machine."
    return Unavailable("not_running", f"No Variet answers at {url}: it is not running.", remedy)


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _parsed(message: httpx2.ServerSentEvent) -> Event:
    try:
        return Event.model_validate(
            {"id": int(message.id), "type": message.event, "data": message.json()}
        )
    except (ValueError, ValidationError) as error:
        raise errors.EngineError(
            "bad_event",
            f"An event of the stream cannot be read: {message.event!r}.",
            "This command and the orchestrator may be of different versions: update both.",
        ) from error


def _refused(response: httpx2.Response) -> VarietError:
    try:
        body = ErrorEnvelope.model_validate_json(response.content).error
    except ValidationError:
        return _stranger(str(response.request.url), response.status_code)
    kind = BY_STATUS.get(response.status_code, VarietError)
    return kind(body.code, body.message, body.remedy)


def _stranger(url: str, status: int = 200) -> VarietError:
    return Unavailable(
        "not_variet",
        f"{url} answered {status}, but not as Variet's orchestrator does.",
        "Another program may have that port: check VARIET_URL and PORT.",
    )


def _broken(url: str, run_id: str | None, problem: str) -> VarietError:
    if run_id:
        return Unavailable(
            "stream_broken",
            f"The stream of run {run_id} broke and could not be taken up again: {problem}.",
            f"The run may go on: variet runs show {run_id}",
        )
    return Unavailable(
        "connection_broken", f"The connection to {url} broke: {problem}.", "Try: variet doctor"
    )
