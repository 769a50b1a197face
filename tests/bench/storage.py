"""What a state folder holds, read after its orchestrator has stopped, and how fast its disk is."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

PAGE = b"x" * 4096


def flush_ms(file: Path) -> float:
    """How long the disk takes to keep one more page, in milliseconds."""
    with file.open("ab", buffering=0) as output:
        output.write(PAGE)
        started = time.perf_counter()
        os.fsync(output.fileno())
        return (time.perf_counter() - started) * 1_000


def stored_bytes(state: Path) -> int:
    """Bytes of all database files, write-ahead logs included."""
    return sum(file.stat().st_size for file in state.glob("*.db*"))


def exchange_bytes(state: Path) -> int:
    """Bytes of the raw engine exchanges as stored."""
    with closing(sqlite3.connect(state / "variet.db")) as db:
        row = db.execute("SELECT sum(length(request) + length(response)) FROM exchanges").fetchone()
    return int(row[0] or 0)
