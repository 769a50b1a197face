from itertools import pairwise
from pathlib import Path

import pytest
from boost_control.maps import Table

MAPS = Path(__file__).parent.parent / "maps"


@pytest.fixture
def boost_target():
    return Table.read(MAPS / "boost_target.csv")


def test_boost_target_rises_with_the_throttle(boost_target):
    for rpm, cells in zip(boost_target.rows, boost_target.cells, strict=True):
        for before, after in pairwise(cells):
            assert after >= before, f"boost_target falls at {rpm:.0f} rpm: {before} to {after} kPa"


def test_boost_target_stays_below_the_turbo_limit(boost_target):
    assert max(max(cells) for cells in boost_target.cells) <= 235


def test_lookup_interpolates_between_breakpoints(boost_target):
    low, high = boost_target.at(1000, 100), boost_target.at(1500, 100)
    assert boost_target.at(1250, 100) == pytest.approx((low + high) / 2)


def test_wastegate_duty_stays_within_its_range():
    duty = Table.read(MAPS / "wastegate_duty.csv")
    assert all(0 <= cell <= 95 for cells in duty.cells for cell in cells)
