import pytest

from models.gguf.launch import ALL_LAYERS, SWITCHES, VALUES, Launch, read_flags


def read(*flags: str) -> Launch:
    return read_flags(Launch(4_096), flags)


def test_without_flags_the_defaults_of_the_server_hold() -> None:
    assert read() == Launch(4_096)
    assert (read().ubatch, read().cache_ram_mib, read().checkpoints) == (512, 8_192, 32)


def test_flags_are_read_by_either_name_and_the_last_one_counts() -> None:
    long = read("--parallel", "3", "--cache-type-k", "Q8_0", "--n-gpu-layers", "12", "--kv-unified")
    short = read("-np", "3", "-ctk", "q8_0", "-ngl", "12", "-kvu")
    assert long == short
    assert (long.parallel, long.key_type, long.gpu_layers, long.unified) == (3, "q8_0", 12, True)
    assert read("-kvu", "--no-kv-unified", "-np", "2", "-np", "5") == Launch(4_096, parallel=5)


def test_every_flag_changes_what_it_is_for() -> None:
    # What changes a field that has this value by default already.
    same = {"--no-kv-unified", "-no-kvu", "--no-mmproj"}
    for flag in SWITCHES.keys() - same:
        assert read(flag) != Launch(4_096), flag
    values = {"flash": "off", "overrides": "x=CPU", "split": "3,1"}
    for flag, field in VALUES.items():
        assert read(flag, values.get(field, "7")) != Launch(4_096), flag


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (("--cache-ram", "-1"), "cache_ram_mib", 16_384),
        (("--cache-ram", "0"), "cache_ram_mib", 0),
        (("--n-gpu-layers", "all"), "gpu_layers", ALL_LAYERS),
        (("--n-gpu-layers", "-1"), "gpu_layers", ALL_LAYERS),
        (("--parallel", "-1"), "parallel", 1),
        (("--ubatch-size", "0"), "ubatch", 1),
        (("--tensor-split", "3/1.5"), "split", (3.0, 1.5)),
        (("--flash-attn", "auto"), "flash", True),
        (("--cpu-moe",), "cpu_moe_layers", ALL_LAYERS),
        (("-ot", "a.*=CPU,out=CUDA1"), "overrides", (("a.*", "CPU"), ("out", "CUDA1"))),
        (("--mmproj", "/models/M.gguf"), "mmproj", "/models/M.gguf"),
    ],
)
def test_special_values_are_understood(flags: tuple[str, ...], field: str, value: object) -> None:
    assert getattr(read(*flags), field) == value


def test_what_cannot_be_read_is_passed_over() -> None:
    assert read("--parallel", "many", "--jinja", "--tensor-split", "a,b", "--parallel") == read()
