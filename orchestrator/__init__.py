"""The hands: agent, knowledge, HTTP."""
