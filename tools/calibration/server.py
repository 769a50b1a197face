"""The calibration tools: which maps there are, and one map with its anomalies."""

from pathlib import Path
from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

from contracts.errors import VarietError
from contracts.tools import BrokenMap, MapList, MapSummary, MapTable
from tools.calibration.anomalies import find_anomalies
from tools.calibration.maps import load_map, map_paths, read_map
from tools.tool import tool


def server(maps_dir: Path) -> MCPServer:
    """An MCP server over the map files of `maps_dir`, which are read anew at every call."""

    def list_maps() -> MapList:
        summaries, broken = [], []
        for key, path in map_paths(maps_dir).items():
            try:
                found = read_map(path)
            except VarietError as error:
                broken.append(BrokenMap(key=key, error=error.message))
                continue
            summaries.append(
                MapSummary(key=key, title=found.title, unit=found.unit, shape=list(found.shape))
            )
        return MapList(maps=summaries, broken=broken or None)

    def get_map(
        key: Annotated[str, Field(description="the map's key")],
    ) -> MapTable:
        found = load_map(maps_dir, key)
        anomalies, method = find_anomalies(found)
        return MapTable(
            key=found.key,
            unit=found.unit,
            shape=list(found.shape),
            anomalies=anomalies,
            title=found.title,
            method=method,
            axes=found.axes,
            table=found.table,
        )

    return MCPServer(
        "calibration",
        tools=[
            tool(list_maps, "List the calibration maps."),
            tool(
                get_map,
                "Fetch one calibration map by key, with its table and detected anomalies.",
            ),
        ],
    )
