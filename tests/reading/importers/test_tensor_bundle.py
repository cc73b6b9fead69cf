import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.reading.importers.foreign_files import save_tf1
from yizhi.errors import InputError
from yizhi.model.architectures import FAMILIES, full_spec
from yizhi.model.config import EncoderConfig
from yizhi.reading.importers.crc32c import crc32c, masked, unmasked
from yizhi.reading.importers.foreign import ForeignTensor, Place
from yizhi.reading.importers.tensor_bundle import TensorBundle, read_index
from yizhi.reading.importers.tf_checkpoint import place_google_name


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The index of a small checkpoint in two data files, of every dtype that a checkpoint of weights may hold."""
    rng = np.random.default_rng(0)
    tensors = {f"layer_{n}/{name}": rng.normal(size=(3, n + 1)).astype(np.float32) for n in range(40) for name in "abc"}
    tensors |= {"half": np.float16([1.5, -2]), "double": np.float64([1 / 3]), "empty": np.zeros((0, 4), np.float32)}
    folder = tmp_path_factory.mktemp("bundle")
    save_tf1(folder / "model.ckpt", tensors, shards=2)
    np.savez(folder / "tensors.npz", **{name.replace("/", "~"): array for name, array in tensors.items()})
    return folder / "model.ckpt.index"


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for path in written.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / written.name


def test_crc32c_is_rfc_3720s():
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(memoryview(b"123456789")) == 0xE3069283
    assert crc32c(b"") == 0


def test_unmasking_undoes_masking():
    assert all(unmasked(masked(crc)) == crc for crc in (0, 1, 0xE3069283, 0xFFFFFFFF))


def test_every_tensor_is_read(written: Path):
    reader = TensorBundle(written)
    with np.load(written.with_name("tensors.npz")) as tensors:
        for name in tensors:
            array = reader.read(name.replace("~", "/"))
            assert array.dtype == tensors[name].dtype
            assert np.array_equal(array, tensors[name])
    assert reader.read("global_step") == 1000
    assert {entry.shard for entry in reader.entries.values()} == {0, 1}
    reader.close()


def test_googles_index_is_read_exactly(shared_data: Path):
    """Names, shapes, offsets and CRCs of Google's real Chinese checkpoint, against an independent listing."""
    entries, shards = read_index(shared_data / "tf1" / "bert_model.ckpt.index")
    header, *expected = json.loads((shared_data / "tf1" / "bert_model.ckpt.index.json").read_text())
    assert (shards, header["name"]) == (1, "")
    found = [
        {
            "name": entry.name,
            "dtype": "float32",
            "shape": list(entry.shape),
            "shard": entry.shard,
            "offset": entry.offset,
            "size": entry.nbytes,
            "crc32c": f"{entry.crc32c:08x}",
            "crc32c_masked": masked(entry.crc32c),
        }
        for entry in entries.values()
    ]
    assert found == expected
    assert {entry.dtype for entry in entries.values()} == {"F32"}


def test_googles_tensors_are_those_of_bert_base_chinese(shared_data: Path):
    """Each has one place, with the shape that the configuration asks for, and no place stays empty."""
    entries, _ = read_index(shared_data / "tf1" / "bert_model.ckpt.index")
    config = EncoderConfig.read(shared_data / "configs" / "bert-base-chinese" / "config.json")
    expected = {p.name: p.shape for p in full_spec(config).parameters()}
    found = {}
    for entry in entries.values():
        place = place_google_name(ForeignTensor(entry.name, entry.dtype, entry.shape, lambda: None))
        assert isinstance(place, Place)
        found[place.name] = place.shape(entry.shape)
    ignored = {name for name in found if name.startswith("cls.seq_relationship.")}
    assert FAMILIES["bert"].ignored.keys() & {"cls.seq_relationship.*"}
    assert {name: shape for name, shape in found.items() if name not in ignored} == expected
    assert len(ignored) == 2


def test_missing_data_is_said_once(bundle: Path):
    for path in bundle.parent.glob("*.data-*"):
        path.unlink()
    with pytest.raises(InputError) as caught:
        TensorBundle(bundle)
    assert len(caught.value.faults) == 2
    assert "model.ckpt.data-00000-of-00002: the data file is missing" in caught.value.faults[0]


def test_shortened_data_is_refused(bundle: Path):
    data = bundle.with_name("model.ckpt.data-00000-of-00002")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match="ends at byte"):
        TensorBundle(bundle)


def test_damaged_data_is_refused(bundle: Path):
    reader = TensorBundle(bundle)
    entry = reader.entries["layer_7/b"]
    path = bundle.with_name(f"model.ckpt.data-0000{entry.shard}-of-00002")
    data = bytearray(path.read_bytes())
    data[entry.offset + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"layer_7/b: expected CRC32C {entry.crc32c:08x}"):
        TensorBundle(bundle).read("layer_7/b")


def test_any_damaged_byte_of_an_index_is_refused(bundle: Path):
    """Every byte of blocks and footer, a few bits each: never anything but InputError, and never a wrong tensor."""
    original = bundle.read_bytes()
    expected, _ = read_index(bundle)
    unnoticed = 0
    for position in range(0, len(original), 31):
        data = bytearray(original)
        data[position] ^= 1 << position % 8
        bundle.write_bytes(data)
        try:
            found, _ = read_index(bundle)
        except InputError:
            continue
        assert found == expected
        unnoticed += 1  # padding of the footer, and the block of filters that nobody reads
    assert unnoticed < 5


@pytest.mark.parametrize("size", [0, 10, 47, 48, 200])
def test_a_cut_index_is_refused(bundle: Path, size: int):
    bundle.write_bytes(bundle.read_bytes()[:size])
    with pytest.raises(InputError, match="not a TensorFlow checkpoint index"):
        read_index(bundle)


def table(*items: tuple[bytes, bytes]) -> bytes:
    """A LevelDB table of one block, written by hand."""

    def block(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
        contents = b"".join(bytes([0, len(key), len(value)]) + key + value for key, value in pairs)
        contents += struct.pack("<II", 0, 1) + b"\0"
        return contents + struct.pack("<I", masked(crc32c(contents)))

    data = block(items)
    index = block(((b"\xff", bytes([0, len(data) - 5])),))
    footer = bytes([0, 0, len(data), len(index) - 5]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return data + index + footer


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (bytes([8, 1, 18, 4, 18, 2, 8, 3, 40, 11]), "takes 12 bytes; found 11"),
        (bytes([8, 1, 18, 4, 18, 2, 8]), "cut short"),
        (bytes([8, 1, 18, 6, 18, 4, 8, 255, 255, 255]), "index out of range|cut short"),
        (bytes([15]), "unknown kind 7"),
        (bytes([8, 1, 32, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), "impossible"),
        (bytes([8, *[255] * 11]), "too long"),
        (bytes([10, 1, 1]), "expected an integer"),
    ],
)
def test_lying_entries_are_refused(tmp_path: Path, message: bytes, fault: str):
    path = tmp_path / "model.index"
    path.write_bytes(table((b"", bytes([8, 1])), (b"name", message)))
    with pytest.raises(InputError, match=fault):
        read_index(path)


def test_a_key_that_borrows_from_nothing_is_refused(tmp_path: Path):
    """The first key of a block has no key before it to share a beginning with."""
    path = tmp_path / "model.index"
    data = bytearray(table((b"", bytes([8, 1])), (b"name", bytes([8, 1]))))
    data[5] = 9  # of the second entry: the empty key's header takes three bytes, its value two
    body = bytes(data[: data.index(bytes([8, 1]), 8) + 2 + 8])
    data[len(body) + 1 : len(body) + 5] = struct.pack("<I", masked(crc32c(body + b"\0")))
    path.write_bytes(data)
    with pytest.raises(InputError, match="overruns"):
        read_index(path)


def test_a_hand_written_table_is_read(tmp_path: Path):
    path = tmp_path / "model.index"
    path.write_bytes(table((b"", bytes([8, 1])), (b"name", bytes([8, 1, 18, 4, 18, 2, 8, 3, 40, 12]))))
    entries, shards = read_index(path)
    assert (entries["name"].shape, entries["name"].nbytes, shards) == ((3,), 12, 1)


def test_what_is_sliced_or_text_is_not_read(tmp_path: Path):
    path = tmp_path / "model.index"
    path.write_bytes(table((b"", bytes([8, 1])), (b"sliced", bytes([8, 1, 58, 0])), (b"text", bytes([8, 7]))))
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"")
    reader = TensorBundle(path)
    with pytest.raises(InputError, match="in slices: True"):
        reader.read("sliced")
    with pytest.raises(InputError, match="dtype DT_7"):
        reader.read("text")
