"""The structured answer that the demo and the chat clients ask for."""

from pydantic import Field

from contracts.base import Message
from contracts.tools import CellEdit


class ReportedAnomaly(Message):
    row: int
    column: int
    at: str
    value: float
    expected: float
    unit: str


class SuggestedPatch(Message):
    """Arguments that the tool `apply_patch` takes as they are."""

    cell_edits: list[CellEdit]


class Report(Message):
    """Findings, and what to do next: a patch where one follows from them, else an action."""

    summary: str
    anomalies: list[ReportedAnomaly]
    suggested_patch: SuggestedPatch | None = Field(
        description="new cell values, or null when nothing is to be changed"
    )
    next_action: str
