import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from contracts.errors import NotFound, Unprocessable
from contracts.tools import MapList, MapTable
from tests.support.tool_errors import error_of
from tools.calibration.anomalies import Table, search, table_predictions
from tools.calibration.maps import load_map, map_paths, read_map
from tools.calibration.server import server

SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "maps"

TABLE = """\
# title: A table
# unit: kPa
# rows: engine speed [rpm]
# columns: load [%]
rpm : %, 10, 20
1000, 1.5, 2
2000, , -3.25
"""
CURVE = "# title: A curve\n# unit: ms\n# columns: voltage [V]\nV,ms\n8,2.5\n10,2\n"


async def call(maps_dir: Path, tool: str, **arguments: Any) -> Any:
    async with Client(server(maps_dir)) as client:
        return await client.call_tool(tool, arguments)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


async def test_both_tools_are_described_as_reading_ones_with_closed_schemas() -> None:
    async with Client(server(SAMPLES)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {name: tool.description for name, tool in tools.items()} == {
        "list_maps": "List the calibration maps.",
        "get_map": "Fetch one calibration map by key, with its table and detected anomalies.",
    }
    for tool in tools.values():
        assert tool.annotations
        assert tool.annotations.read_only_hint
        assert tool.output_schema
        assert tool.input_schema["additionalProperties"] is False
    assert tools["get_map"].input_schema["required"] == ["key"]


async def test_broken_maps_are_named_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path, "good.csv", CURVE)
    listed = {"maps": [{"key": "good", "title": "A curve", "unit": "ms", "shape": [1, 2]}]}
    assert (await call(tmp_path, "list_maps")).structured_content == listed
    write(tmp_path, "wrong.csv", TABLE.replace("-3.25", "3,25"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    maps = MapList.model_validate((await call(tmp_path, "list_maps")).structured_content)
    assert [entry.key for entry in maps.maps] == ["good"]
    assert maps.broken
    binary, wrong = maps.broken
    assert (binary.key, wrong.key) == ("binary", "wrong")
    assert "not UTF-8" in binary.error
    assert wrong.error.startswith("wrong.csv, line 7: 4 fields")


async def test_every_sample_map_is_listed() -> None:
    maps = MapList.model_validate((await call(SAMPLES, "list_maps")).structured_content).maps
    assert {path.stem for path in SAMPLES.iterdir()} == {entry.key for entry in maps}
    by_key = {entry.key: entry for entry in maps}
    assert by_key["boost_target"].unit == "kPa"
    assert by_key["boost_target"].shape == [12, 10]
    assert by_key["knock_log"].shape == [1, 120]


async def test_boost_target_holds_its_two_planted_anomalies() -> None:
    result = await call(SAMPLES, "get_map", key="boost_target")
    found = MapTable.model_validate(result.structured_content)
    assert [(a.row, a.column, a.at, a.value, a.expected) for a in found.anomalies] == [
        (3, 8, "2500 rpm, 90 %", 131, 177),
        (6, 5, "4000 rpm, 60 %", 214, 164),
    ]
    assert "Iglewicz" in found.method
    assert found.table[3][8] == 131
    assert [axis.unit for axis in found.axes] == ["rpm", "%"]


@pytest.mark.parametrize(
    ("key", "places"),
    [
        ("boost_log", ["5.2 s"]),
        ("coolant_correction", []),
        ("idle_speed_target", []),
        ("ignition_advance", ["3500 rpm, 80 %"]),
        ("injector_dead_time", ["14 V"]),
        ("knock_log", ["4.1 s", "8.7 s"]),
        ("lambda_target", []),
        ("ve_table", ["1000 rpm, 100 kPa", "6500 rpm, 120 kPa"]),
        ("wastegate_duty", []),
    ],
)
async def test_planted_anomalies_are_found_and_clean_maps_have_none(
    key: str, places: list[str]
) -> None:
    result = await call(SAMPLES, "get_map", key=key)
    assert [anomaly["at"] for anomaly in result.structured_content["anomalies"]] == places


async def test_an_unknown_key_is_answered_with_the_nearest_ones() -> None:
    error = error_of(await call(SAMPLES, "get_map", key="boost_targt"))
    assert error["code"] == "unknown_map"
    assert "boost_targt" in error["message"]
    assert "boost_target" in error["remedy"]


async def test_a_key_is_no_path() -> None:
    error = error_of(await call(SAMPLES, "get_map", key="../maps/boost_target"))
    assert error["code"] == "unknown_map"


async def test_wrong_arguments_are_named() -> None:
    error = error_of(await call(SAMPLES, "get_map", name="boost_target"))
    assert error["code"] == "bad_arguments"
    assert "key: Field required" in error["message"]
    assert "name: Extra inputs" in error["message"]


async def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "boost_target.csv", tmp_path)
    async with Client(server(tmp_path)) as client:
        before = await client.call_tool("get_map", {"key": "boost_target"})
        text = (tmp_path / "boost_target.csv").read_text()
        (tmp_path / "boost_target.csv").write_text(text.replace("214", "164"))
        after = await client.call_tool("get_map", {"key": "boost_target"})
    assert len(before.structured_content["anomalies"]) == 2
    assert len(after.structured_content["anomalies"]) == 1


async def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    error = error_of(await call(tmp_path / "none", "list_maps"))
    assert error["code"] == "no_folder"


def test_a_csv_table_is_read_with_its_missing_cell(tmp_path: Path) -> None:
    found = read_map(write(tmp_path, "a.csv", TABLE))
    assert found.table == [[1.5, 2], [None, -3.25]]
    assert found.axes[0].values == [1000, 2000]
    assert found.axes[1].values == [10, 20]
    assert found.resolution == 0.01
    assert found.place(1, 0) == "2000 rpm, 10 %"


def test_a_csv_curve_is_a_table_of_one_row(tmp_path: Path) -> None:
    found = read_map(write(tmp_path, "a.csv", CURVE))
    assert found.table == [[2.5, 2]]
    assert [axis.values for axis in found.axes] == [[8, 10]]
    assert found.place(0, 1) == "10 V"


def test_a_json_table_is_read(tmp_path: Path) -> None:
    body = {
        "title": "A", "unit": "%", "resolution": 0.5,
        "axes": [
            {"name": "speed", "unit": "rpm", "values": [1, 2]},
            {"name": "load", "unit": "%", "values": [5, 6, 7]},
        ],
        "table": [[1, 2.0, None], [4, -5e0, 6]],
    }  # fmt: skip
    found = read_map(write(tmp_path, "a.json", json.dumps(body)))
    assert found.table == [[1, 2, None], [4, -5, 6]]
    assert found.resolution == 0.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TABLE.replace("1.5", "abc"), "line 6: cell 'abc' is not a number"),
        (TABLE.replace("1.5", "nan"), "line 6: cell 'nan' is not a finite number"),
        (TABLE.replace("1.5", "1e999"), "line 6: cell '1e999' is not a finite number"),
        (TABLE.replace("1.5,", ""), "line 6: 2 fields, expected 3"),
        (TABLE.replace("# unit: kPa\n", ""), "there is no '# unit: …' line"),
        (TABLE.replace("2000,", "500,"), "does not rise from 1000 to 500"),
        (TABLE.replace("[rpm]", ""), "is not of the form 'name [unit]'"),
        (TABLE.replace("# unit: kPa", "# unit: kPa\n# unit: bar"), "line 3: a second 'unit'"),
        ("# title: t\n# unit: u\n# columns: x [s]\n", "the table has no cells"),
        (CURVE.replace("8,2.5", "8,2.5,9"), "line 5: 3 fields, expected 2"),
        ("", "there is no '# title: …' line"),
    ],
)
def test_a_malformed_csv_names_line_and_value(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, "bad.csv", text)
    with pytest.raises(Unprocessable) as caught:
        read_map(path)
    assert caught.value.message.startswith("bad.csv, line ")
    assert complaint in caught.value.message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "line 1"),
        ("[]", "does not hold an object"),
        ('{"title": 1}', "'title' is 1, not a str"),
        ('{"title": "a", "title": "b"}', "'title' stands there twice"),
        ('{"title": "a", "unit": "u", "axes": [], "table": [NaN]}', "NaN is not a number"),
        ('{"title": "a", "unit": "u", "axes": [], "table": []}', "0 axes"),
        (
            '{"title": "a", "unit": "u", "axes": [{"name": "x", "unit": "s", "values": [1]}],'
            ' "table": [\n"high"]}',
            "line 2: cell '\"high\"'",
        ),
        (
            '{"title": "a", "unit": "u", "axes": [{"name": "x", "unit": "s", "values": [1, 2]}],'
            ' "table": [1]}',
            "1 columns, 2 breakpoints",
        ),
        (
            '{"title": "a", "unit": "u", "axes": [], "table": [[1, 2], [1]]}',
            "rows differ in length",
        ),
        ("[" * 100_000, "line 1"),
        ('{"title": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_a_malformed_json_names_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, "bad.json", text)
    with pytest.raises(Unprocessable) as caught:
        read_map(path)
    assert complaint in caught.value.message


def test_two_files_of_one_key_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", TABLE)
    write(tmp_path, "a.json", "{}")
    with pytest.raises(Unprocessable, match=r"a\.csv and a\.json"):
        map_paths(tmp_path)


def test_a_link_is_no_map(tmp_path: Path) -> None:
    outside = write(tmp_path, "outside.csv", TABLE)
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "a.csv").symlink_to(outside)
    with pytest.raises(NotFound):
        load_map(folder, "a")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_cell_is_changed_in_place(tmp_path: Path, newline: str) -> None:
    text = TABLE.replace("\n", newline)
    found = read_map(write(tmp_path, "a.csv", text))
    changed = found.with_cells({(0, 0): 12.0, (1, 0): 7.0, (1, 1): 0.125})
    expected = (
        text.replace("1.5", "12.0").replace("2000, ,", "2000, 7.00,").replace("-3.25", "0.125")
    )
    assert changed == expected


def test_a_json_cell_is_changed_in_place(tmp_path: Path) -> None:
    text = (SAMPLES / "ve_table.json").read_text()
    found = read_map(SAMPLES / "ve_table.json")
    changed = found.with_cells({(1, 7): 70.2})
    again = read_map(write(tmp_path, "ve_table.json", changed))
    assert again.table[1][7] == 70.2
    assert sum(a != b for a, b in zip(text, changed, strict=True)) <= 3


def test_a_large_map_is_analysed_quickly() -> None:
    axis = [float(k) for k in range(16)]
    table: Table = [[100 + i * j * 0.3 + i for j in range(16)] for i in range(16)]
    table[4][5], table[9][9] = 300.0, 20.0
    predict = table_predictions(axis, axis)
    best = min(_seconds(lambda: search(table, predict, 1.0)) for _ in range(5))
    assert best < 0.1  # 7 ms on an idle core; the bound is for a busy machine


def _seconds(action: Any) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
