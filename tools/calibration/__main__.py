"""The calibration tools as a process of their own.

python -m tools.calibration serve    # MCP on TOOL_HOST:TOOL_PORT, over the maps of MAPS_DIR
"""

import sys
from typing import TYPE_CHECKING

from contracts.settings import Settings
from tools.serve import run

if TYPE_CHECKING:
    from mcp.server import MCPServer


def main(arguments: list[str]) -> int:
    if arguments == ["serve"]:
        return run("calibration", _server)
    print(__doc__, file=sys.stderr)
    return 2


def _server(settings: Settings) -> "MCPServer":
    from tools.calibration.server import server

    return server(settings.maps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
