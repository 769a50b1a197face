"""`python -m orchestrator`: serve until SIGTERM or Ctrl-C. Says on standard output when ready."""

import asyncio
import gc
import json
import logging
import os
import sys

from contracts.errors import VarietError
from contracts.settings import load_settings


def main() -> int:
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        for chatty in ("httpx2", "mcp", "openai", "httpcore2"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # Nothing that is imported becomes garbage: looking for some takes a fifth of the start.
        gc.disable()
        from orchestrator.assembly import Orchestrator
        from orchestrator.serve import serve

        gc.freeze()
        gc.enable()
        asyncio.run(serve(Orchestrator(settings), announce))
    except VarietError as error:
        print(f"variet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # before the signals were ours
    return 0


def announce(url: str, model: str, withheld: list[str]) -> None:
    line = {"ready": True, "url": url, "model": model, "withheld": withheld, "pid": os.getpid()}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
