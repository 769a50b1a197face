from pathlib import Path

from tests.bench.gateway import percentile, phases
from tests.bench.gateway_sides import REQUIREMENTS, Side, asker
from tests.bench.process import child

EXPOSITION = """\
# HELP variet_gateway_swap_seconds Parts
variet_gateway_swap_seconds_bucket{le="0.1",model="a",phase="start"} 1.0
variet_gateway_swap_seconds_count{model="a",phase="start"} 2.0
variet_gateway_swap_seconds_sum{model="a",phase="start"} 3.5
variet_gateway_swap_seconds_count{model="b",phase="start"} 1.0
variet_gateway_swap_seconds_sum{model="b",phase="start"} 0.5
variet_gateway_swap_seconds_created{model="b",phase="start"} 1.7e+09
"""


def test_the_phases_of_all_models_are_added_up() -> None:
    assert phases(EXPOSITION) == {"start": (4.0, 3.0)}


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 95) == 7.0
    assert percentile([float(n) for n in range(1, 100)], 50) == 50.0


def test_each_chunk_and_each_answer_is_timed(tmp_path: Path) -> None:
    with (
        child("tests.bench.gateway_engine", folder=tmp_path) as engine,
        asker(tmp_path) as asking,
    ):
        direct = Side("engine", engine.url, "none", "bench")
        paced = asking.ask(direct, stream=True, chunks=5, pace=50, at_once=2, requests=4)
        whole = asking.ask(direct, stream=False, chunks=5, pace=0, at_once=2, requests=6)
    assert [len(paced[name]) for name in ("first_ms", "chunk_ms", "total_ms")] == [4, 20, 4]
    assert min(paced["total_ms"]) > 80, "five chunks of 20 ms"
    assert all(age >= 0 for age in paced["chunk_ms"])
    assert (len(whole["total_ms"]), whole["chunk_ms"], whole["failed"]) == (6, [], 0)


def test_the_proxy_that_it_is_compared_with_is_pinned_by_hashes_and_none_of_the_bad_ones() -> None:
    text = REQUIREMENTS.read_text("utf-8")
    (version,) = [
        line.split("==")[1].split()[0] for line in text.splitlines() if line.startswith("litellm==")
    ]
    assert version not in ("1.82.7", "1.82.8")
    packages = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    assert all(line.endswith("\\") for line in packages)
