"""The one place that mounts tool servers in this process; in compose they are containers."""

from mcp.server import MCPServer

from contracts.settings import Settings
from orchestrator.knowledge.index import Index
from orchestrator.knowledge.retrieval import match
from tools import docs
from tools.calibration.server import server as calibration
from tools.logs.server import server as logs
from tools.workspace.server import server as workspace


def tool_servers(settings: Settings, index: Index) -> dict[str, MCPServer]:
    """The built-in tool servers by name, each over the in-memory transport."""
    root = settings.workspace
    return {
        "calibration": calibration(settings.maps),
        "logs": logs(settings.logs),
        "workspace": workspace(
            [root], settings.maps, settings.undo_dir, settings.allow_unsandboxed
        ),
        "docs": docs.server(match(index)),
    }
