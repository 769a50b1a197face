"""llama.cpp's own HTTP server, in this process, with what a local assistant needs switched on
and everything else switched off."""

import socket
from typing import Any

from contracts.errors import EngineError
from models.gguf.header import read_header
from services.engine.memory import check_memory
from services.engine.options import HTTP_THREADS, EngineOptions, choose_threads

LOOPBACK = "127.0.0.1"
WARNINGS = 2


class Engine:
    """A loaded model that answers. `url` is the OpenAI base, `context` tokens per request."""

    def __init__(self, options: EngineOptions, api_key: str) -> None:
        """Load the model and listen; returns when both are done. Raises EngineError."""
        header = read_header(options.model)
        if not header.has_chat_template:
            raise EngineError(
                "no_chat_template",
                f"{options.model} has no chat template, so it cannot be talked to.",
                "Give an instruction-tuned model; base models have no template.",
            )
        _check_port(options.port)
        self.context = options.context or header.context_length
        check_memory(options.model, header, self.context, options.parallel)
        self.threads = choose_threads(options.threads, options.model.stat().st_size)
        self._server = _serve(options, api_key, self.context, self.threads)
        self.url = f"{self._server.listening_address}/v1"


def _check_port(port: int) -> None:
    """llama.cpp says only that it failed, so the commonest reason is looked for before."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise EngineError(
                "engine_port",
                f"The engine cannot listen on {LOOPBACK}:{port}: {error.strerror}.",
                "Give another port, or 0 for a free one.",
            ) from error


def _serve(options: EngineOptions, api_key: str, context: int, threads: int) -> Any:
    # Late: the library loads in 0.1 s and 30 MB, and a wrong file shall be named before that.
    import xllamacpp  # type: ignore[import-untyped]

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.model)
    parameters.model_alias = {options.alias}
    parameters.hostnames = [LOOPBACK]
    parameters.port = options.port
    parameters.api_keys = [api_key]
    # llama.cpp divides the context among the slots; each shall have all of it.
    parameters.n_ctx = context * options.parallel
    parameters.n_parallel = options.parallel
    parameters.kv_unified = False
    parameters.fit_params = False
    parameters.cache_ram_mib = options.prompt_cache_mib
    parameters.n_threads_http = HTTP_THREADS + options.parallel
    for pool in (parameters.cpuparams, parameters.cpuparams_batch):
        pool.n_threads = threads
        # Waiting threads sleep instead of spinning.
        pool.poll = 0
    parameters.use_jinja = True
    parameters.enable_reasoning = int(options.reasoning)
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False
    parameters.ui = False
    parameters.cors_origins = ""
    parameters.verbosity = WARNINGS
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise EngineError(
            "engine_start",
            f"llama.cpp did not start with {options.model} and {context} tokens of context"
            f" for each of {options.parallel} requests.",
            "Its log says why. Try a smaller context or another file.",
        ) from error
