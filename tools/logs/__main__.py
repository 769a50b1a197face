"""The log tools as a process of their own.

python -m tools.logs serve    # MCP on TOOL_HOST:TOOL_PORT, over the files of LOGS_DIR
"""

import sys
from typing import TYPE_CHECKING

from contracts.settings import Settings
from tools.serve import run

if TYPE_CHECKING:
    from mcp.server import MCPServer


def main(arguments: list[str]) -> int:
    if arguments == ["serve"]:
        return run("logs", _server)
    print(__doc__, file=sys.stderr)
    return 2


def _server(settings: Settings) -> "MCPServer":
    from tools.logs.server import server

    return server(settings.logs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
