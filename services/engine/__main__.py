"""Run an engine: `ENGINE_API_KEY=... python -m services.engine --model FILE.gguf --alias NAME`.

When it answers, it prints one line `{"ready": true, "url", "context", "threads"}`; if it cannot
start, `{"ready": false, "error": {code, message, remedy}}` and exits with 2. llama.cpp's log goes
to standard error. With --exit-with-parent it ends when its standard input ends.
"""

import argparse
import http.client
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from contracts.errors import EngineError, VarietError
from services.engine.options import PROMPT_CACHE_MIB, EngineOptions
from services.engine.server import Engine


def main() -> int:
    options, exit_with_parent = _parse()
    report = _take_stdout()
    ending = _end_on_signal()
    if exit_with_parent:
        threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        engine = Engine(options, _api_key())
        _check_health(engine)
    except VarietError as error:
        report({"ready": False, "error": error.body()})
        return 2
    report({"ready": True, "url": engine.url, "context": engine.context, "threads": engine.threads})
    ending.join()
    return 0


def _parse() -> tuple[EngineOptions, bool]:
    parser = argparse.ArgumentParser(prog="python -m services.engine")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="name that answers carry as `model`")
    parser.add_argument("--context", type=int, default=0, help="tokens per request; 0: trained")
    parser.add_argument("--threads", type=int, default=0, help="0: by the model's size")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at once")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--prompt-cache-mib", type=int, default=PROMPT_CACHE_MIB)
    parser.add_argument("--reasoning", action="store_true", help="let thinking models think")
    parser.add_argument("--exit-with-parent", action="store_true")
    values = vars(parser.parse_args())
    exit_with_parent = bool(values.pop("exit_with_parent"))
    return EngineOptions(**values), exit_with_parent


def _take_stdout() -> Any:
    """Keep the real standard output for reports; whatever else prints goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        os.write(own, json.dumps(message).encode() + b"\n")
        os.close(own)

    return report


def _api_key() -> str:
    key = os.environ.get("ENGINE_API_KEY", "")
    if key:
        return key
    raise EngineError(
        "no_engine_key",
        "ENGINE_API_KEY is not set: any program and any web page could use this engine.",
        "Set it to a long random text.",
    )


def _check_health(engine: Engine) -> None:
    connection = http.client.HTTPConnection(urlsplit(engine.url).netloc, timeout=10)
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        raise EngineError(
            "engine_health", f"The engine's /health answers {status}.", "Look at its log."
        )


def _end_on_signal() -> threading.Thread:
    """Blocked here, before llama.cpp's threads exist, the signals reach none of them."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        signal.sigwait(signals)
        # Not a normal return: llama.cpp would first wait for the clients of open streams.
        os._exit(0)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _follow_parent() -> None:
    """The parent holds the other end of standard input; its death, of any kind, closes it."""
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
