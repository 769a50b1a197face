"""Run the broker: `python -m services.broker`. `--check` asks the one that runs for its health.

It listens on BROKER_SOCKET and ends with SIGTERM or SIGINT. If it cannot start, it says why in one
line of JSON and exits with 2.
"""

import os
import socket
import sys

CHECK_S = 5.0


def check() -> int:
    """0 when the broker answers and Docker answers it. Imports next to nothing: it runs often."""
    path = os.environ.get("BROKER_SOCKET") or "/run/broker/docker.sock"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CHECK_S)
            connection.connect(path)
            connection.sendall(
                b"GET /variet/health HTTP/1.1\r\nhost: broker\r\nconnection: close\r\n\r\n"
            )
            status = connection.recv(64).split(b" ")[1:2]
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    return 0 if status == [b"200"] else 1


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return check()
    from services.broker.running import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
