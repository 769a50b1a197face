"""The HTTP surface: routes, server-sent events, auth. It only reads logs and calls the registry."""
