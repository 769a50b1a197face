"""An engine that costs as little as it can, so that what is measured is what stands before it.

It takes llama-server's `--port`, `--alias` and `--ctx-size`, and answers chat requests:
`max_tokens` says how many chunks, `seed` how many of them a second (0: all at once). Each chunk
holds the moment at which it was sent, on the clock that all processes of this machine share.

`python -m tests.bench.gateway_engine --port 9000`
"""

import argparse
import asyncio
import json
import re
import time

from tests.bench.process import loopback_listener

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
CHUNKS = re.compile(rb'"max_tokens": *(\d+)')
PACE = re.compile(rb'"seed": *(\d+)')
STREAMED = re.compile(rb'"stream": *true')


class Answering(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self, name: str, context: int) -> None:
        self._buffer = b""
        self._paced: asyncio.Task[None] | None = None
        model = {"id": name, "object": "model", "meta": {"n_ctx": context}}
        self._models = _json({"object": "list", "data": [model]})
        self._props = _json({"default_generation_settings": {"n_ctx": context}, "total_slots": 256})
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": name}
        choice = {"index": 0, "delta": {"content": "@"}, "finish_reason": None}
        self._frame = json.dumps({**frame, "choices": [choice]}).encode()
        end = {**choice, "delta": {}, "finish_reason": "stop"}
        self._end = _chunk(json.dumps({**frame, "choices": [end]}).encode()) + _chunk(b"[DONE]")
        message = {"role": "assistant", "content": "It is fine."}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        whole = {"index": 0, "message": message, "finish_reason": "stop"}
        self._whole = _json(
            {**frame, "object": "chat.completion", "choices": [whole], "usage": usage}
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._paced is not None:
            self._paced.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        told = LENGTH.search(head)
        length = int(told[1]) if told else 0
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(head.split(b" ", 2)[1], rest[:length])

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/v1/models"):
            self._transport.write(self._models)
        elif path.startswith(b"/props"):
            self._transport.write(self._props)
        elif not body:
            self._transport.write(_json({"status": "ok"}))
        elif not STREAMED.search(body):
            self._transport.write(self._whole)
        else:
            count, pace = _number(CHUNKS, body, 20), _number(PACE, body, 0)
            self._transport.write(HEAD)
            if pace:
                self._paced = asyncio.create_task(self._stream(count, 1 / pace))
                return
            for _ in range(count):
                self._write()
            self._transport.write(self._end + LAST)

    async def _stream(self, count: int, step_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(count):
            self._write()
            due += step_s
            await asyncio.sleep(due - loop.time())
        self._transport.write(self._end + LAST)

    def _write(self) -> None:
        stamp = b"@%.6f@" % time.perf_counter()
        self._transport.write(_chunk(self._frame.replace(b"@", stamp)))


def _number(pattern: re.Pattern[bytes], body: bytes, default: int) -> int:
    found = pattern.search(body)
    return int(found[1]) if found else default


def _chunk(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _json(value: object) -> bytes:
    data = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(data) + data


async def serve(port: int, name: str, context: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Answering(name, context), sock=loopback_listener(port)
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps({"url": url}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--alias", default="bench")
    parser.add_argument("--ctx-size", type=int, default=4_096)
    known, _ = parser.parse_known_args()
    asyncio.run(serve(known.port, known.alias, known.ctx_size))
