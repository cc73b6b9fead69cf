"""Rotary positions: how exact their angles are far out, and that no other numbers pass for a table of them."""

import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from tests.checkpoints import small_config, write_variant
from yizhi.errors import InputError
from yizhi.model.architectures import full_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.rotary import ROFORMER_TABLE, find_wrong_table, make_roformer_table, make_table, table_names
from yizhi.reading.checkpoint import WEIGHTS, Checkpoint
from yizhi.reading.litert_tensors import read_litert
from yizhi.reading.openvino_tensors import read_constants, read_openvino
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.stored_tensors import read_pytorch

LENGTH, D = 8192, 64
BASES = (160_000.0, 10_000.0)
# Half of a float32's last bit below 1, and what 1e-16 · 8191 leaves of float64.
LAST_BIT = 2.0**-24 * 1.001


@pytest.fixture(scope="module")
def spec():
    raw = small_config("modernbert", hidden_size=D, num_attention_heads=1, max_position_embeddings=LENGTH)
    whole = full_spec(EncoderConfig.from_dict(raw))
    # Without windows, whose masks are as large as the square of the length.
    return replace(whole, blocks=tuple((replace(layer, window=None),) for layer in whole.layers))


def exact(base):
    angles = np.outer(np.arange(LENGTH), base ** (-np.arange(0, D, 2) / D))
    return np.cos(angles), np.sin(angles)


def assert_exact(found):
    assert set(found) == set(BASES)
    for base, tables in found.items():
        for one, other in zip(tables, exact(base), strict=True):
            assert one.dtype == np.float32
            assert np.abs(one.reshape(other.shape) - other).max() <= LAST_BIT


def test_pytorch(spec):
    torch = pytest.importorskip("torch")
    from yizhi.converters.forwards import pytorch

    p = pytorch.see(pytorch.Pass({}, spec), torch.ones((1, LENGTH), dtype=torch.long), torch.zeros((1, LENGTH, 1)))
    assert_exact({base: tuple(table.numpy() for table in tables) for base, tables in p.angles.items()})


def test_onnx(spec):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from yizhi.converters.forwards.onnx import Pass, inputs, see
    from yizhi.converters.onnx_graph import Graph

    g = Graph({})
    angles = see(Pass(g, spec), inputs(g, spec)["attention_mask"]).angles
    for name in (name for tables in angles.values() for name in tables):
        g.output(name, onnx.TensorProto.FLOAT, ("length", D // 2))
    session = onnxruntime.InferenceSession(g.model().SerializeToString())
    ids = np.ones((1, LENGTH), np.int64)
    given = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    assert_exact({base: session.run(list(names), given) for base, names in angles.items()})


@pytest.mark.slow
def test_tensorflow(spec):
    tf = pytest.importorskip("tensorflow")
    from yizhi.converters.forwards import tensorflow

    p = tensorflow.see(tensorflow.Pass({}, spec), tf.ones((1, LENGTH), tf.int32), tf.zeros(1))
    assert_exact({base: tuple(table.numpy() for table in tables) for base, tables in p.angles.items()})


def test_tables():
    """OpenVINO's and LiteRT's."""
    assert_exact({base: [make_table(name, LENGTH, D // 2) for name in table_names(base)] for base in BASES})


def test_angles_in_float32_would_be_worse():
    """What the float64 is for: half of an angle's last bit, at 8191, is 2.4e-4."""
    for base in BASES:
        frequencies = (base ** (-np.arange(0, D, 2) / D)).astype(np.float32)
        angles = np.arange(LENGTH, dtype=np.float32)[:, None] * frequencies
        assert np.abs(np.cos(angles.astype(np.float64)) - exact(base)[0]).max() > 1e-4


@pytest.mark.slow
def test_transformers_modernbert_differs_by_its_float32_angles():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

    for base in BASES:
        config = transformers.ModernBertConfig(hidden_size=D, num_attention_heads=1)
        config.rope_theta = base
        cos, sin = ModernBertRotaryEmbedding(config)(torch.zeros(1), torch.arange(LENGTH)[None])
        for theirs, ours in zip((cos, sin), exact(base), strict=True):
            error = np.abs(theirs[0, :, : D // 2].numpy() - ours).max()
            assert 1e-4 < error < 5e-4


def test_a_name_that_is_no_tables():
    with pytest.raises(ValueError, match="names no table"):
        make_table("rotary.tan.10000.0", 4, 2)


@pytest.fixture
def copy_artifact(open_artifact, tmp_path):
    def copy(variant, target):
        return shutil.copytree(open_artifact(variant, target)[1].artifact.folder, tmp_path / target)

    return copy


def test_another_number_in_openvino_s_table_is_told(copy_artifact):
    folder = copy_artifact("roformer", "openvino")
    table = next(one for one in read_constants(folder / "features.xml") if one.name.startswith("rotary."))
    with open(folder / "openvino_model.bin", "r+b") as file:
        file.seek(table.spans[0][0] + 40)
        file.write(np.float32(0.5).tobytes())
    with pytest.raises(InputError) as caught:
        read_openvino(folder)
    assert f"features.xml: {table.name}: expected the rotary positions of its name" in caught.value.faults[0]


def test_another_number_in_litert_s_table_is_told(copy_artifact):
    folder = copy_artifact("roformer", "litert")
    name = table_names(10_000.0)[0]
    path = folder / LITERT_MODEL
    data = bytearray(path.read_bytes())
    at = data.index(make_table(name, 64, 4).tobytes())
    data[at : at + 4] = np.float32(0.5).tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_litert(folder)
    assert f"{name}: expected the rotary positions of its name" in caught.value.faults[0]


def test_transformers_roformer_finds_the_table(copy_artifact):
    folder = copy_artifact("roformer", "pytorch")
    with closing(SafetensorsFile(folder / WEIGHTS)) as file:
        np.testing.assert_array_equal(file.array(ROFORMER_TABLE), make_roformer_table(64, 8))
    assert ROFORMER_TABLE not in {place.name for place in read_pytorch(folder)}


@pytest.mark.parametrize("prefix", [True, False])
def test_another_table_in_a_roformer_is_told(make_checkpoint, prefix):
    """It is used by nobody here, and transformers would use it."""
    stored = ROFORMER_TABLE if prefix else ROFORMER_TABLE.partition(".")[2]

    def alter(dtype, change):
        def add(tensors):
            tensors[stored] = make_roformer_table(64, 8).astype(dtype) + dtype(change)

        return make_checkpoint("roformer", prefix=prefix, alter=add)

    with Checkpoint.open(alter(np.float16, 0)) as checkpoint:
        assert list(checkpoint.ignored) == [stored]
    with pytest.raises(InputError) as caught:
        Checkpoint.open(alter(np.float32, 0.1))
    (fault,) = caught.value.faults
    assert fault.startswith(f"{ROFORMER_TABLE}: expected the rotary positions of its name")


def test_a_table_of_any_other_shape_is_told():
    for shape in ((), (0,), (7,), (0, 8), (4, 7), (2, 4, 8)):
        assert list(find_wrong_table(ROFORMER_TABLE, np.ones(shape))), shape


def test_a_window_hides_no_less_and_no_more(tmp_path):
    """Of a row of nothing but padding, too, whose mask would overflow if two were added."""
    torch = pytest.importorskip("torch")
    from yizhi.converters.forwards import pytorch

    spec = Checkpoint.open(write_variant(tmp_path, "modernbert")).spec
    mask = torch.tensor([[1] * 9, [0] * 9])
    ((window, found),) = pytorch.see(pytorch.Pass({}, spec), mask, torch.zeros((2, 9, 1))).windows.items()
    assert window == 3
    assert torch.isfinite(found).all()
    distances = np.abs(np.arange(9)[:, None] - np.arange(9))
    np.testing.assert_array_equal(found[0, 0].numpy() == 0, distances <= 3)
    assert (found[1] == torch.finfo(torch.float32).min).all()
