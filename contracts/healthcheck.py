"""Whether a server answers 200: `python -m contracts.healthcheck http://127.0.0.1:8000/health`.

For containers, whose images hold no curl. It runs every few seconds, so it imports next to nothing.
"""

import socket
import sys

TIMEOUT_S = 3.0


def main(arguments: list[str]) -> int:
    """0 when it answers 200, 1 when it does not, with the reason on standard error."""
    if len(arguments) != 1 or not arguments[0].startswith("http://"):
        print(__doc__, file=sys.stderr)
        return 2
    host, slash, path = arguments[0].removeprefix("http://").partition("/")
    try:
        status = ask(host, slash + path)
    except (OSError, ValueError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    if status != "200":
        print(f"{arguments[0]}: HTTP {status or 'without a status'}", file=sys.stderr)
        return 1
    return 0


def ask(host: str, path: str) -> str:
    """The status of a GET. Raises OSError or ValueError when there is none to be had."""
    name, _, port = host.rpartition(":")
    if not name:
        raise ValueError("the address has no port")
    with socket.create_connection((name.strip("[]"), int(port)), TIMEOUT_S) as connection:
        request = f"GET {path or '/'} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        connection.sendall(request.encode("ascii"))
        head = b""
        while b"\n" not in head and (data := connection.recv(1024)):
            head += data
    parts = head.split(b"\n")[0].split()
    return parts[1].decode("latin-1") if len(parts) > 1 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
