"""Durable state: threads, messages, runs, event logs, raw exchanges; and the journal."""
