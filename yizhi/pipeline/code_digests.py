"""Digests of our own code: which artifacts and which verdicts a change of the code makes out of date."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import yizhi
from yizhi.storage.digests import sha256_of_file

# Below the package: what shapes an artifact's bytes. A test holds that conversion imports nothing else that does.
MADE_WITH = (
    "converters",
    "model",
    "reading/auto_tokenizer.py",
    "reading/charsmap.py",
    "reading/checkpoint.py",
    "reading/folder_files.py",
    "reading/jieba_words.py",
    "reading/other_vocabularies.py",
    "reading/safetensors_file.py",
    "reading/sentence_dense.py",
    "reading/sentence_settings.py",
    "reading/sentences.py",
    "reading/tokenizer_classes.py",
    "reading/tokenizer_files.py",
    "reading/tokenizer_json.py",
    "reading/tokenizer_readings.py",
    "reading/tokenizer_sources.py",
    "reading/weight_files.py",
    "release/artifact.py",
    "storage/codec.py",
    "storage/digests.py",
    "storage/json_files.py",
    "storage/protobuf.py",
)
# What shapes a verdict of these bytes.
JUDGED_WITH = (
    "catalogue/own.py",
    "choices.py",
    "parity",
    *(
        f"reading/importers/{name}.py"
        for name in ("crc32c", "flax_msgpack", "foreign", "opened", "tensor_bundle", "tf_checkpoint")
    ),
    "reading/litert_tensors.py",
    "reading/openvino_tensors.py",
    "reading/saved_model.py",
    "reading/stored_tensors.py",
    "runtimes",
    "storage/flatbuffer.py",
    "storage/npm.py",
)

_ROOT = Path(yizhi.__file__).parent


def code_digest(parts: Iterable[str], root: Path = _ROOT) -> str:
    """sha256 over the source files in these folders and files below `root`."""
    digest = hashlib.sha256()
    for part in parts:
        for path in [root / part] if (root / part).is_file() else sorted((root / part).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(json.dumps([path.relative_to(root).as_posix(), sha256_of_file(path)]).encode())
    return digest.hexdigest()
