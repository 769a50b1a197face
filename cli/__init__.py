"""The command `variet`: thin, and a client of the orchestrator's HTTP API like any other."""

__version__ = "0.1.0"
