"""The header parser trusts nothing; the writer is read by the reference library."""

import io
import json
import os
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.open_files import DESCRIPTORS, open_files
from yizhi.errors import InputError
from yizhi.reading.safetensors_file import ITEM_SIZES, SafetensorsFile, cut, write_safetensors


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def faults_of(tmp_path: Path, content: bytes) -> list[str]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    before = open_files()
    with pytest.raises(InputError) as caught:
        SafetensorsFile(path)
    assert open_files() == before
    assert caught.value.subject == str(path)
    return caught.value.faults


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "b": rng.normal(size=(3, 5)).astype(np.float32),
        "a": rng.normal(size=(7,)).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "ids": np.arange(4)[None],
        "空": np.zeros((0, 3), np.float32),
    }


def test_reads_what_the_reference_library_writes(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert file.entries.keys() == tensors.keys()
    for name, expected in tensors.items():
        found = file.array(name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, strict=True)
        assert b"".join(map(bytes, file.chunks(name))) == expected.tobytes()
        file.release(name)
        np.testing.assert_array_equal(file.array(name), expected)
    file.close()
    np.testing.assert_array_equal(found, expected)  # a view outlives the file


def test_the_reference_library_reads_what_is_written(tmp_path, tensors):
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int64): "I64"}
    header = {name: (names[array.dtype], array.shape) for name, array in tensors.items()}
    with open(tmp_path / "x.safetensors", "wb") as file:
        write_safetensors(file, header, (array.tobytes() for array in tensors.values()))
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(found[name], expected, strict=True)
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt"}  # without it, transformers refuses the file


def test_bfloat16_is_read_exactly(tmp_path):
    # 1, -2, 2^-133 (a subnormal) and infinity, by their bits.
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x7F80], np.uint16)
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": entry(0, 8, [2, 2], "BF16")}, bits.tobytes()))
    expected = np.array([[1, -2], [2.0**-133, np.inf]], np.float32)
    np.testing.assert_array_equal(SafetensorsFile(path).array("x"), expected, strict=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 1)])
def test_parts_join_to_the_whole(monkeypatch, shape, axis):
    monkeypatch.setattr("yizhi.reading.safetensors_file._BLOCK", 6)
    whole = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    parts = list(cut(whole, axis))
    assert all(part.size <= 6 or part.shape[axis] == 1 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts, axis), whole)


def test_a_single_number_and_a_vector_are_cut_too(monkeypatch):
    monkeypatch.setattr("yizhi.reading.safetensors_file._BLOCK", 2)
    assert [part.tolist() for part in cut(np.array(5.0))] == [5.0]
    assert [part.tolist() for part in cut(np.arange(5))] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated: expected an 8-byte header length; found 0 bytes"),
        (b"\x01\x02\x03", "found 3 bytes"),
        (pack({}, length=10**6), "header says 1000000 bytes; 2 follow"),
        (pack({}, length=2**64 - 1), "header says 18446744073709551615 bytes"),
        (pack({}, length=1), "not valid JSON"),
        (pack(b"{}{}"), "not valid JSON"),
        (pack(b'{"\xff": 1}'), "not valid JSON"),
        (pack(b"[" * 100_000), "not valid JSON"),
        (pack(b'{"x": {"shape": [' + b"9" * 5000 + b"]}}"), "not valid JSON"),
        (pack([]), "not a JSON object: found list"),
        (pack(b"null"), "not a JSON object"),
        (pack({"__metadata__": {"a": 1}}), "__metadata__: expected an object of strings"),
        (pack({"__metadata__": []}), "__metadata__"),
        (pack(b'{"x": 1, "x": 2}'), "'x' appears twice"),
        (pack(b'{"x": {"dtype": "F32", "dtype": "F16"}}'), "'dtype' appears twice"),
        (pack({"x": 3}), "x: expected an object; found int"),
        (pack({"x": {}}), "x: dtype: found None"),
        (pack({"x": entry(0, 4, dtype="F24")}, bytes(4)), "x: dtype: found 'F24'"),
        (pack({"x": entry(0, 4, [1.0])}, bytes(4)), "x: shape"),
        (pack({"x": entry(0, 4, [True])}, bytes(4)), "x: shape"),
        (pack({"x": entry(0, 4, [-1])}, bytes(4)), "x: shape"),
        (pack({"x": entry(0, 4, [2**63])}, bytes(4)), "x: shape"),
        (pack({"x": entry(0, 4, [1] * 33)}, bytes(4)), "x: shape: expected at most 32 sizes"),
        (pack({"x": entry(0, 4, [2**62] * 30_000)}, bytes(4)), "x: shape"),
        (pack({"x": {**entry(0, 4), "data_offsets": [0]}}, bytes(4)), "x: data_offsets"),
        (pack({"x": {**entry(0, 4), "data_offsets": [0, "4"]}}, bytes(4)), "x: data_offsets"),
        (pack({"x": {**entry(0, 4), "data_offsets": [4, 0]}}, bytes(4)), "F32 [1] takes 4 bytes"),
        (pack({"x": entry(0, 8, [3])}, bytes(8)), "x: F32 [3] takes 12 bytes; data_offsets give 8"),
        (pack({"x": entry(0, 4, [2**62] * 32)}, bytes(4)), "bytes; data_offsets give 4"),
        (pack({"x": entry(0, 8)}, bytes(7)), "x: truncated: ends at byte"),
        (pack({"x": entry(2**62, 2**62 + 4)}, bytes(4)), "x: truncated"),
        (pack({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12)), "y: overlaps the tensor before it by 4 bytes"),
        (pack({"x": entry(0, 8), "y": entry(0, 8)}, bytes(8)), "y: overlaps the tensor before it by 8 bytes"),
        (pack({"x": entry(4, 8)}, bytes(8)), "x: 4 bytes before it belong to no tensor"),
        (pack({"x": entry(0, 4), "y": entry(8, 12)}, bytes(12)), "y: 4 bytes before it belong to no tensor"),
        (pack({"x": entry(0, 4)}, bytes(9)), "5 bytes at the end belong to no tensor"),
        (pack({}, b"hidden"), "6 bytes at the end belong to no tensor"),
    ],
    ids=range(37),
)
def test_headers_that_lie(tmp_path, content, says):
    (fault,) = faults_of(tmp_path, content)
    assert says in fault
    assert len(fault) < 300


def test_every_lying_tensor_is_named(tmp_path):
    header = {"x": entry(0, 8, [3]), "y": entry(8, 12, dtype="F24"), "z": entry(12, 400), "good": entry(12, 16)}
    assert [fault.split(":")[0] for fault in faults_of(tmp_path, pack(header, bytes(16)))] == ["x", "y", "z"]


def test_a_huge_header_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(300_000_000)  # sparse
    with pytest.raises(InputError, match="header says 200000000 bytes"):
        SafetensorsFile(path)


def test_a_missing_or_unreadable_file(tmp_path):
    with pytest.raises(InputError, match="the file is missing"):
        SafetensorsFile(tmp_path / "no.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        SafetensorsFile(tmp_path)


def test_control_characters_in_names_are_not_printed(tmp_path):
    faults = faults_of(tmp_path, pack({"\x1b[2J\ud800": 1}))
    assert faults == ["\\x1b[2J\\ud800: expected an object; found int"]


def test_chunks_of_a_tensor_that_is_no_multiple_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("yizhi.reading.safetensors_file._CHUNK", 64)
    array = np.arange(50, dtype=np.float32)
    safetensors.numpy.save_file({"x": array, "y": -array}, tmp_path / "x.safetensors")
    with closing(SafetensorsFile(tmp_path / "x.safetensors")) as file:
        pieces = [bytes(piece) for piece in file.chunks("x")]
    assert [len(piece) for piece in pieces] == [64, 64, 64, 8]
    assert b"".join(pieces) == array.tobytes()


def test_a_file_shortened_while_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": entry(0, 8)}, bytes(8)))
    file = SafetensorsFile(path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(InputError, match="x: the file was shortened while it was read"):
        list(file.chunks("x"))
    file.close()


def test_closing_frees_every_descriptor(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"x": entry(0, 8)}, bytes(8)))
    before = open_files()
    files = [SafetensorsFile(path) for _ in range(5)]
    assert len(open_files()) - len(before) == (10 if DESCRIPTORS.exists() else 0)  # the file and its mapping
    for file in files:
        file.close()
    assert open_files() == before


SIZES = st.integers(-1, 20) | st.sampled_from([2**31, 2**63, 2**64, True, None, "4", 1.5])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*ITEM_SIZES, "F24", None, []]),
        "shape": st.lists(SIZES, max_size=4) | SIZES,
        "data_offsets": st.lists(SIZES, max_size=3) | SIZES,
    },
)
HEADERS = st.dictionaries(st.sampled_from(["x", "y", "z", "__metadata__", "\ud800"]), ENTRIES | SIZES, max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    header=HEADERS.map(lambda header: json.dumps(header).encode()) | st.binary(max_size=40), data=st.binary(max_size=20)
)
def test_any_header_is_read_or_refused(tmp_path_factory, header, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(pack(header, data))
    try:
        file = SafetensorsFile(path)
    except InputError as error:
        str(error).encode()
    else:
        # Whatever is accepted covers the data exactly.
        assert sum(entry.nbytes for entry in file.entries.values()) == len(data)
        file.close()


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), end=st.integers(0, 400))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, at, byte, end):
    good = io.BytesIO()
    names = [f"layer.{index}" for index in range(4)]
    write_safetensors(good, dict.fromkeys(names, ("F32", (2, 2))), [bytes(16)] * 4)
    content = bytearray(good.getvalue())
    content[at % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content[: max(0, len(content) - end // 4)])
    try:
        file = SafetensorsFile(path)
    except InputError as error:
        str(error).encode()
    else:
        for name in file.entries:
            assert len(b"".join(map(bytes, file.chunks(name)))) == file.entries[name].nbytes
        file.close()
