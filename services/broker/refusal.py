"""A call that the broker does not pass on."""


class Refusal(Exception):
    """`status` is HTTP's; `message` names what is refused and why, as Docker's SDK shows it."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def shown(value: object, limit: int = 120) -> str:
    """A value of a request in one short line of ASCII."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
