"""What llama.cpp itself reckons that a model takes of each card: `llama-fit-params --fit-print on`.

The program comes with llama-server, but not with each package of it. It loads no weights, yet makes
a CUDA context for a moment, so it is asked when the configuration is read, never for a request.
"""

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path

from models.budget import CUDA_MIB
from services.gateway.catalogue import EngineSpec
from services.gateway.memory.load_log import card_of
from services.gateway.memory.needs import launch_of

LOG = logging.getLogger(__name__)
PROGRAM = "llama-fit-params"
TIMEOUT_S = 120.0
LINE = re.compile(r"^(?P<device>\S+) +(?P<model>\d+) +(?P<context>\d+) +(?P<compute>\d+) *$")
MIB = 2**20
MOST = 128
# Flags of llama-server that the program knows, too; it refuses to run with any other.
WITH_VALUE = {
    *("-ctk", "--cache-type-k", "-ctv", "--cache-type-v", "-fa", "--flash-attn"),
    *("-ub", "--ubatch-size", "-b", "--batch-size", "-np", "--parallel"),
    *("-ngl", "--gpu-layers", "--n-gpu-layers", "-sm", "--split-mode", "-ts", "--tensor-split"),
    *("-mg", "--main-gpu", "-ot", "--override-tensor", "-ncmoe", "--n-cpu-moe"),
    *("-ncffn", "--n-cpu-ffn"),
}
ALONE = {"-cmoe", "--cpu-moe", "--swa-full", "-nkvo", "--no-kv-offload"}


@dataclass(frozen=True, slots=True)
class Line:
    """MiB of one device by llama.cpp's name for it."""

    device: str
    model: int
    context: int
    compute: int

    @property
    def mib(self) -> int:
        return self.model + self.context + self.compute


def parse(text: str) -> tuple[Line, ...]:
    """The lines of `--fit-print on`; anything else is passed over."""
    matches = (LINE.match(line) for line in text.splitlines())
    return tuple(
        Line(one["device"], int(one["model"]), int(one["context"]), int(one["compute"]))
        for one in matches
        if one
    )


def arguments(spec: EngineSpec, context: int) -> tuple[str, ...]:
    """What of an engine's command line the program takes."""
    kept: list[str] = []
    words = iter(spec.flags)
    for word in words:
        if word in ALONE:
            kept.append(word)
        elif word in WITH_VALUE:
            kept += [word, next(words, "")]
    return ("--ctx-size", str(context), "--parallel", str(spec.concurrency), *kept)


class FitParams:
    """`program` is its command line; answers are kept below `state`, by the file, the program's
    version and its arguments."""

    def __init__(self, program: Sequence[str], state: Path) -> None:
        self._program = tuple(program)
        self._path = state / "fit-params.json"
        self._version: str | None = None

    @classmethod
    def beside(cls, llama_server: str, state: Path) -> "FitParams | None":
        """The one that lies next to llama-server; None: there is none."""
        server = shutil.which(llama_server.split()[0]) if llama_server.split() else None
        if server is None:
            return None
        found = shutil.which(PROGRAM, path=str(Path(server).parent))
        return cls((found,), state) if found else None

    def told(
        self, spec: EngineSpec, context: int, model_path: Path | None, visible: str = ""
    ) -> dict[str, int]:
        """MiB of each of the engine's cards, with CUDA's own memory; empty: it does not say.
        `visible` is CUDA's list of cards. Takes seconds at the first call for a file."""
        launch = launch_of(spec, context)
        if not spec.cards or model_path is None or launch.split_mode == "tensor":
            return {}
        words = ("--model", str(model_path), *arguments(spec, context))
        lines = self._asked(words, model_path, visible)
        # It knows no unified cache; the mask of one is larger by this than that of separate ones.
        shared = launch.unified and launch.parallel > 1
        mask = ceil(context * launch.ubatch / MIB) if shared else 0
        named = ((card_of(line.device, spec.cards), line.mib) for line in lines)
        return {name: mib + CUDA_MIB + mask for name, mib in named if name is not None}

    def _asked(self, words: tuple[str, ...], model: Path, visible: str) -> tuple[Line, ...]:
        try:
            stat = model.stat()
            key = self._key(words, stat.st_size, stat.st_mtime_ns, visible)
            kept = self._read()
            if key not in kept:
                kept[key] = self._run((*words, "--fit-print", "on"), visible)
                self._write(dict(list(kept.items())[-MOST:]))
            return parse(kept[key])
        except (OSError, subprocess.SubprocessError) as error:
            LOG.warning("llama-fit-params does not answer", extra={"error": str(error)[:300]})
            return ()

    def _key(self, words: tuple[str, ...], size: int, changed_ns: int, visible: str) -> str:
        if self._version is None:
            self._version = self._run(("--version",), visible)
        told = json.dumps([self._program, self._version, words, size, changed_ns, visible])
        return sha256(told.encode()).hexdigest()[:32]

    def _run(self, words: tuple[str, ...], visible: str) -> str:
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": "/tmp"}
        if visible:
            environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
        ended = subprocess.run(
            (*self._program, *words),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        # Its version it tells on standard error.
        told = ended.stdout or ended.stderr
        return told.decode("utf-8", "replace")

    def _read(self) -> dict[str, str]:
        with suppress(OSError, ValueError, RecursionError):
            told = json.loads(self._path.read_text("utf-8"))
            if isinstance(told, dict):
                return {str(key): value for key, value in told.items() if isinstance(value, str)}
        return {}

    def _write(self, kept: Mapping[str, str]) -> None:
        part = self._path.with_suffix(f".{os.getpid()}.part")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)
