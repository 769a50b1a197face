"""Runs, the graph, approvals and policy."""
