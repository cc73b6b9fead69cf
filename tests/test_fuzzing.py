"""Damaged input files: whatever the bytes, the answer is a value or an InputError, never another exception.

Plain seeded mutation rather than hypothesis: it makes ten times as many inputs in the same time, the
same ones everywhere. What it found is kept in `test_what_was_found_stays_mended`.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints import small_config, write_variant
from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.parity.golden import ARRAYS, CASES, Golden
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.checkpoint import INDEX, WEIGHTS
from yizhi.reading.safetensors_file import SafetensorsFile
from yizhi.reading.weight_files import open_weights
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import MANIFEST, read_manifest
from yizhi.release.schema import find_violations

INPUTS_OF_EACH = 12_600
TOKENIZER_SETTINGS = {
    "do_lower_case": True,
    "model_max_length": 9,
    "mask_token": "[MASK]",
    "added_tokens_decoder": {"0": {"content": "[PAD]", "lstrip": False}},
}

# Bytes and values that have broken parsers before.
TOKENS = [
    *(
        b"",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b"\r\n",
        b"{",
        b"}",
        b"[",
        b'"',
        b"\\ud800",
        b"\\",
        b",",
    ),
    *(b"-1", b"0", b"1e999", b"NaN", b"null", b"true", b"9" * 25, b"9" * 5000, b"[" * 2000, b'{"a":' * 500, b"../x"),
    *(b"F32", b"BF16", b"data_offsets", b"shape", b"__metadata__", b"[MASK]", b"model.safetensors"),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**30,
        0.5,
        -0.0,
        1e308,
        "",
        "x",
        "\ud800",
        "../../etc/passwd",
        "[MASK]",
    ),
    *([], [1, 2], ["x"], [[]], {}, {"x": 1}, {"": None}, [None], "F32", "gelu", "bert", [0, 4], [2**62, 2**63]),
]


def damage_bytes(chance: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert, a few times."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(damaged) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del damaged[at : at + chance.choice((1, 2, 8, 100))]
        elif kind == 2:
            damaged[at:at] = damaged[at : at + chance.choice((1, 8, 60))]
        elif kind == 3:
            damaged[at:at] = chance.choice(TOKENS)
        else:
            damaged = damaged[:at]
    return bytes(damaged)


def damage_json(chance: random.Random, value: object) -> object:
    """Replace, remove or add one value somewhere in the tree."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        changed = dict(value)
        key = chance.choice(list(changed))
        kind = chance.randrange(8)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[chance.choice(("x", "", "../x", "__metadata__", key + "x"))] = chance.choice(VALUES)
        else:
            changed[key] = damage_json(chance, changed[key])
        return changed
    if isinstance(value, list) and value and chance.random() < 0.7:
        changed = list(value)
        at = chance.randrange(len(changed))
        changed[at : at + chance.randrange(2)] = [damage_json(chance, changed[at])]
        return changed
    return chance.choice(VALUES)


def damage(chance: random.Random, data: bytes) -> bytes:
    """One damaged file: as JSON where it is JSON, half of the time; else as bytes. A safetensors header as either."""
    if chance.random() < 0.5:
        return damage_bytes(chance, data)
    length = int.from_bytes(data[:8], "little")
    if length < len(data):
        header = json.dumps(damage_json(chance, json.loads(data[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
    if data.startswith(b"{"):
        return json.dumps(damage_json(chance, json.loads(data))).encode()
    return damage_bytes(chance, data)


def read_safetensors(folder: Path) -> None:
    file = SafetensorsFile(folder / WEIGHTS)
    try:
        for name in file.entries:
            file.chunks(name)
            if file.entries[name].dtype in ("F32", "BF16"):
                file.array(name)
    finally:
        file.close()


def read_index(folder: Path) -> None:
    faults: list[str] = []
    for file in open_weights(folder, faults):
        file.close()
    if faults:
        raise InputError(folder, faults)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "safetensors": (WEIGHTS, read_safetensors),
    "config": ("config.json", lambda folder: EncoderConfig.read(folder / "config.json")),
    "index": (INDEX, read_index),
    "tokenizer settings": ("tokenizer_config.json", read_tokenizer),
    "special tokens": ("special_tokens_map.json", read_tokenizer),
    "tokenizer": ("tokenizer.json", read_tokenizer),
    "artifact": (DESCRIPTION, Artifact.read),
    "manifest": (MANIFEST, read_manifest),
    "golden": (CASES, Golden.read),
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, tuple[Path, bytes]]:
    """For each reader a folder and the good bytes of its file."""
    folder = tmp_path_factory.mktemp("fuzzing")
    write_variant(folder / "checkpoint", "bert")
    sharded = write_variant(folder / "sharded", "bert-sharded", config={"num_hidden_layers": 1, "hidden_size": 4})
    header = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    text = json.dumps(header).encode()
    file = {"sha256": "0" * 64, "size": 3}
    described = {
        "schema_version": 1,
        "target": "onnx",
        "precision": "fp32",
        "task": "fill-mask",
        "inputs": {"input_ids": ["batch", "length"]},
        "outputs": {"logits": ["batch", "length", 9]},
        "signatures": {"serving_default": ["logits"]},
        "made_with": {"yizhi": "0", "converters": "0"},
        "files": {"model.onnx": file, "assets/vocab.txt": file},
    }
    manifest = {
        "schema_version": 1,
        "sha256": "0" * 64,
        "source": {
            "files": {"vocab.txt": "0" * 64},
            "model_type": "bert",
            "task": "fill-mask",
            "judged_with": "0" * 64,
        },
        "golden": {"cases.json": file},
        "documents": {},
        "artifacts": {"onnx": {**described, DESCRIPTION: "0" * 64, "parity": {"passed": True}}},
    }
    for kind in ("tokenizer settings", "special tokens", "tokenizer"):
        (folder / kind).mkdir()
        (folder / kind / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n的\nhello\n##ing\n")
    contents = {
        "safetensors": len(text).to_bytes(8, "little") + text + bytes(32),
        "config": json.dumps(small_config("albert")).encode(),
        "index": (sharded / INDEX).read_bytes(),
        "tokenizer settings": json.dumps(TOKENIZER_SETTINGS).encode(),
        "special tokens": b'{"mask_token": {"content": "[MASK]", "lstrip": true}, "additional_special_tokens": ["a"]}',
        "tokenizer": read_tokenizer(folder / "tokenizer settings").files(64)["tokenizer.json"].encode(),
        "artifact": json.dumps({**described, "source": {"vocab.txt": "0" * 64}}).encode(),
        "manifest": json.dumps(manifest).encode(),
    }
    case = {"name": "a", "catches": "b", "alone": [0], "signatures": ["serving_default"]}
    contents["golden"] = json.dumps(
        {"schema_version": 1, "per": {"logits": "token"}, "sums": ["logits"], "cases": [case]}
    ).encode()
    (folder / "golden").mkdir()
    ids = dict.fromkeys(("a/input_ids", "a/attention_mask", "a/token_type_ids"), np.ones((1, 3), np.int32))
    save_file({**ids, "a/logits": np.ones((1, 3, 2), np.float32)}, folder / "golden" / ARRAYS)
    folders = {kind: sharded if kind == "index" else folder / kind for kind in READERS}
    for path in folders.values():
        path.mkdir(exist_ok=True)
    return {kind: (folders[kind], content) for kind, content in contents.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_only_clean_errors(samples, kind):
    chance = random.Random(kind)
    folder, content = samples[kind]
    name, read = READERS[kind]
    path = folder / name
    refused = 0
    # Written in place: making and removing a file each time would take most of the time.
    with open(path, "wb", buffering=0) as file:
        for number in range(INPUTS_OF_EACH):
            damaged = damage(chance, content)
            file.seek(0)
            file.truncate()
            file.write(damaged)
            try:
                read(folder)
            except InputError as error:
                refused += 1
                if not error.faults:
                    pytest.fail(f"input {number} of {kind}: an error that says nothing")
            except Exception as error:
                error.add_note(f"input {number} of {kind}: {damaged[:400]!r}")
                raise
    assert refused > INPUTS_OF_EACH // 10, "the damage is too mild to show anything"


def test_what_was_found_stays_mended(tmp_path):
    """An index that names a file with a name longer than any file system allows."""
    name = "9" * 5000 + ".safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(InputError, match="the shard is missing"):
        read_index(tmp_path)


def test_enough_inputs():
    assert INPUTS_OF_EACH * len(READERS) >= 100_000


def test_our_reader_of_schemas_agrees_with_jsonschema(samples):
    """On damaged manifests and descriptions, valid is valid to both."""
    jsonschema = pytest.importorskip("jsonschema")
    from tests.schemas import schema_registry
    from yizhi.release.schema import load_schema

    chance = random.Random("schema")
    agreed = {True: 0, False: 0}
    for kind in ("artifact", "manifest"):
        schema = load_schema(f"{kind}.v1")
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema, registry=schema_registry())
        value = json.loads(samples[kind][1])
        if kind == "manifest":
            parity = {"passed": True, "precision": "fp32", "device": "cpu", "faults": [], "worst": {}}
            value["artifacts"]["onnx"]["parity"] = {**parity, "tolerance": {"reason": "measured"}}
        assert validator.is_valid(value)
        for _ in range(1500):
            damaged = damage_json(chance, value)
            valid = not find_violations(damaged, f"{kind}.v1")
            assert valid == validator.is_valid(damaged), damaged
            agreed[valid] += 1
    assert min(agreed.values()) > 50
