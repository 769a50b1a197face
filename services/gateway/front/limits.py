"""How long the front waits for those at its two ends. Seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`head`: until a connection has sent a request's headers. `body`: until the body is whole.
    `slow_client`: without a byte taken by a client that is sent to. `retry_pause`: before a request
    enters again whose engine died, so that its owner has noticed. `progress_after`: how long a
    refusal can still be a plain status, where the client asked for progress. `engine_idle`: how
    long a connection to an engine is kept; less than the 5 s after which llama-server and vLLM
    close it, so that no request meets a connection that is just being closed. `last_words`: what a
    stream has for its error event once the gateway stops."""

    head: float = 60.0
    body: float = 120.0
    slow_client: float = 60.0
    connect: float = 5.0
    engine_idle: float = 2.0
    retry_pause: float = 0.5
    ping: float = 10.0
    progress_after: float = 0.05
    last_words: float = 5.0
