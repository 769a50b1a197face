"""`variet doctor`: looks at each part and says what to do about it.

One module per kind of check. Each check has a time limit and runs beside the others, so that the
report comes within LIMIT_S whatever hangs; a check that does not end in time is reported as such.
"""

from cli.doctor.examination import doctor

__all__ = ["doctor"]
