from cli.host.command import Output
from cli.host.gpus import gpus

TWO = """\
0, NVIDIA GeForce RTX 4090, GPU-4d3b9a1e-0000-0000-0000-000000000001, 580.95.05, 24564, 23801, 8.9
1, NVIDIA GeForce RTX 2070, GPU-4d3b9a1e-0000-0000-0000-000000000002, 580.95.05, 8192, [N/A], 7.5
"""


def test_each_card_is_told_with_its_memory_and_driver() -> None:
    found = gpus(lambda command: Output(0, TWO))
    first, second = found.cards
    assert (first.name, first.total_mib, first.free_mib, first.compute) == (
        "NVIDIA GeForce RTX 4090",
        24_564,
        23_801,
        "8.9",
    )
    assert (second.index, second.free_mib) == (1, 0)
    assert (found.driver, found.driver_major, found.problem) == ("580.95.05", 580, "")


def test_a_missing_program_is_a_fact() -> None:
    found = gpus(lambda command: Output(None, error="nvidia-smi: No such file or directory"))
    assert (found.cards, found.driver_major) == ((), None)
    assert "No such file" in found.problem


def test_a_driver_that_does_not_answer_is_a_fact() -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert gpus(lambda command: Output(9, said)).problem == said
    assert gpus(lambda command: Output(0, "No devices were found\n")).problem
