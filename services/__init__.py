"""Processes of the stack other than the orchestrator, one package each."""
