"""The one place that mounts tool servers in this process; in compose most are containers."""

from collections.abc import Mapping

from contracts.settings import Settings
from orchestrator.agent.toolservers import Source
from orchestrator.knowledge.index import Index
from orchestrator.knowledge.retrieval import match
from orchestrator.tool_servers_file import load_tool_servers
from tools import docs


def tool_servers(settings: Settings, index: Index) -> dict[str, Source]:
    """The tool servers by name: those that TOOL_SERVERS_FILE names, else the built-in ones over the
    in-memory transport. The one that asks the index is always in this process."""
    if settings.tool_servers_file is not None:
        others: Mapping[str, Source] = load_tool_servers(settings.tool_servers_file)
    else:
        others = _built_in(settings)
    return {**others, "docs": docs.server(match(index))}


def _built_in(settings: Settings) -> dict[str, Source]:
    # Imported here: the orchestrator's image does not hold them.
    from tools.calibration.server import server as calibration
    from tools.logs.server import server as logs
    from tools.workspace.server import server as workspace

    return {
        "calibration": calibration(settings.maps),
        "logs": logs(settings.logs),
        "workspace": workspace(
            [settings.workspace], settings.maps, settings.undo_dir, settings.allow_unsandboxed
        ),
    }
