"""How far the clocks of two hosts are apart, from what the other one's servers say of the time.

uvicorn (vLLM, our services) and hyper (TEI) send `Date`. llama-server does not, but puts the
present second into `created` of each model that it lists.
"""

from email.utils import parsedate_to_datetime

from cli.doctor.finding import Finding, failure, ok, warning
from cli.doctor.probe import Answer

WARN_S = 2.0
FAIL_S = 60.0
REMEDY = "Let both hosts follow a time server: timedatectl set-ntp true"


def check_clock(answers: list[Answer]) -> Finding:
    """`answers` of servers on the other host."""
    found = [ahead for answer in answers if (ahead := seconds_ahead(answer)) is not None]
    if not found:
        detail = "Unknown: no server of the brain that answered says what time it is."
        return warning("clock", detail, "Compare what both hosts print: date -u")
    ahead = min(found, key=abs)
    if abs(ahead) <= WARN_S:
        return ok("clock", f"that of the brain and ours differ by less than {WARN_S:.0f} s")
    detail = f"The brain's clock is {_words(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}."
    return (failure if abs(ahead) > FAIL_S else warning)("clock", detail, REMEDY)


def seconds_ahead(answer: Answer) -> float | None:
    """How far its clock is ahead of ours, at least; None if it does not tell the time. It told
    whole seconds, at a moment between our asking and our receiving."""
    told = _told(answer)
    if told is None:
        return None
    least, most = told - answer.received, told + 1 - answer.asked
    return 0.0 if least <= 0 <= most else min(least, most, key=abs)


def _told(answer: Answer) -> int | None:
    try:
        return int(parsedate_to_datetime(answer.headers["date"]).timestamp())
    except (KeyError, ValueError):
        return _created(answer.json())


def _created(listed: object) -> int | None:
    """llama-server's only: others give the time at which a model was made or loaded."""
    rows = listed.get("data") if isinstance(listed, dict) else None
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict) or row.get("owned_by") != "llamacpp":
        return None
    created = row.get("created")
    return created if isinstance(created, int) else None


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
