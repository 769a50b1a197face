"""Tool servers: each folder is one MCP server, mounted in-process or served over HTTP."""
