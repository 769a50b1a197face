"""The one read-only tool that both sides of the benchmark have."""

NAME = "read_value"
DESCRIPTION = "Read one value of a series by its position."
SERIES = [round(0.8 + 0.01 * n, 2) for n in range(50)]


def value_at(series: str, position: int) -> dict[str, object]:
    return {
        "series": series,
        "position": position,
        "value": SERIES[position % len(SERIES)],
        "unit": "bar",
    }
