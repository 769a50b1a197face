from math import erf, sqrt
from pathlib import Path

import numpy as np
import pytest

from orchestrator.knowledge.embedding import weights_folder
from orchestrator.knowledge.minilm import DIMENSION, MiniLM, gelu, read_safetensors

# Every 64th component, from ONNX Runtime 1.31 on a graph built from the same safetensors file.
REFERENCE = {
    "Boost pressure target at 4000 rpm is 1.85 bar.": (
        [-0.093287, 0.117962, 0.019919, -0.011069, -0.045766, -0.020692]
    ),
    "def read(path: Path) -> str:\n    return path.read_text()": (
        [0.050322, -0.068448, -0.084356, 0.009785, -0.021066, -0.023298]
    ),
    "ERROR boost_control: overboost detected, code P0234": (
        [-0.091368, 0.023774, 0.041651, 0.034575, -0.014922, 0.030359]
    ),
    # Longer than the 256 tokens that are read, and than the 128 that the tokenizer ships with.
    "pressure " * 300: [-0.03537, -0.01293, 0.045274, 0.045321, -0.083969, 0.034118],
}


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM(weights_folder())


@pytest.mark.parametrize("text", REFERENCE)
def test_vectors_equal_those_of_onnx_runtime(encoder: MiniLM, text: str) -> None:
    vector = encoder.encode(text)
    np.testing.assert_allclose(vector[::64], REFERENCE[text], atol=2e-6)


def test_a_vector_is_a_float32_unit_vector(encoder: MiniLM) -> None:
    vector = encoder.encode("hello")
    assert vector.shape == (DIMENSION,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_empty_text_has_a_vector_too(encoder: MiniLM) -> None:
    assert np.isfinite(encoder.encode("")).all()


def test_related_texts_are_nearer_than_unrelated_ones(encoder: MiniLM) -> None:
    question = encoder.encode("How high may the boost pressure be?")
    related = encoder.encode("The turbocharger is limited to 1.9 bar.")
    unrelated = encoder.encode("Parental leave is granted for twelve months.")
    assert question @ related > question @ unrelated + 0.2


def test_gelu_follows_the_error_function() -> None:
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    exact = [value * 0.5 * (1 + erf(value / sqrt(2))) for value in x.tolist()]
    np.testing.assert_allclose(gelu(x), exact, atol=1e-6)


def test_safetensors_are_read_even_when_unaligned(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        len(header).to_bytes(8, "little") + header + np.array([1.5, -2], "<f4").tobytes()
    )
    assert (8 + len(header)) % 4
    assert read_safetensors(path)["a"].tolist() == [1.5, -2]
