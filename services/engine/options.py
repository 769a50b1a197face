"""What an engine is started with."""

import os
from dataclasses import dataclass
from pathlib import Path

SMALL_MODEL_BYTES = 64 * 2**20
PROMPT_CACHE_MIB = 512
HTTP_THREADS = 32


@dataclass(frozen=True)
class EngineOptions:
    """`context` is tokens per request, whole for each of `parallel` requests; 0: what the model
    was trained for. `threads` 0: chosen by the model's size. `port` 0: a free one. `reasoning`:
    whether a thinking model thinks when a request does not say (`chat_template_kwargs`
    {"enable_thinking"}); on a CPU that costs minutes, so it is off."""

    model: Path
    alias: str
    context: int = 0
    threads: int = 0
    parallel: int = 1
    port: int = 0
    prompt_cache_mib: int = PROMPT_CACHE_MIB
    reasoning: bool = False

    def arguments(self, port: int) -> list[str]:
        """The command line that starts this engine on `port`."""
        return [
            f"--model={self.model}",
            f"--alias={self.alias}",
            f"--context={self.context}",
            f"--threads={self.threads}",
            f"--parallel={self.parallel}",
            f"--prompt-cache-mib={self.prompt_cache_mib}",
            f"--port={port}",
            *(["--reasoning"] if self.reasoning else []),
        ]


def choose_threads(wanted: int, model_bytes: int) -> int:
    """Threads of computation. All cores for a model that has work for them; one for a small one:
    a second thread gains a third on an idle machine, and costs ten times on a busy one, where a
    barrier waits for a thread that is not running."""
    if wanted:
        return wanted
    if model_bytes < SMALL_MODEL_BYTES:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
