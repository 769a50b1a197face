"""Run a module that must not outlive its parent: `python -m cli.tether MODULE`.

Standard input is a pipe whose other end the parent holds. However the parent ends, kill -9
included, the system closes that end; then this process ends as at SIGTERM.
"""

import os
import runpy
import signal
import sys
import threading

# Longer than the default drain; after it the module has no say.
PATIENCE_S = 30.0


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(PATIENCE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="tether", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
