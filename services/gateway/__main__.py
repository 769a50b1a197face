"""`python -m services.gateway`: serve until SIGTERM or Ctrl-C; SIGHUP rereads what it is to serve.

What is wrong at the start is one line on standard error, and exit code 2.
"""

import asyncio
import sys

from contracts.errors import VarietError
from contracts.settings import load_settings
from services.gateway.logs import configure_logs
from services.gateway.reload import read_all


def main() -> int:
    try:
        configure_logs(load_settings().log_level)
        read = read_all()
        # Late: what is wrong with the settings is said at once.
        from services.gateway.assembly import serve

        asyncio.run(serve(read))
    except VarietError as error:
        print(f"variet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # before the signals were ours
    return 0


if __name__ == "__main__":
    sys.exit(main())
