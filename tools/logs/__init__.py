"""Log files: found by text, level and time."""
