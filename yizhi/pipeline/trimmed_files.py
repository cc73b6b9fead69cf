"""The other files of a checkpoint whose tokens get new ids: copied, renumbered, or left out with a reason."""

import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.folder_files import WEIGHTS_READ
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES
from yizhi.reading.weight_files import INDEX
from yizhi.storage.json_files import read_json_object, to_json

GENERATION = "generation_config.json"
# They hold no ids.
_COPIED = ("chat_template*", "README*", "LICENSE*", "NOTICE*", "preprocessor_config.json")
# Keys of `generation_config.json` with ids in lists, pairs or names.
_OTHER_IDS = (
    *("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids", "bad_words_ids", "force_words_ids"),
    *("sequence_bias", "encoder_bad_words_ids"),
)


def ids_of(raw: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The keys of a configuration that name a token by its id, such as `pad_token_id`, or several, with each id."""
    for key, value in raw.items():
        if key.endswith("_token_id"):
            yield from ((key, index) for index in (value if isinstance(value, list) else [value]) if type(index) is int)


def renumber(raw: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The keys of a configuration that name tokens, with the new ids. An id that no token has stays."""
    found: dict[str, Any] = {}
    for key, index in ids_of(raw):
        several = isinstance(raw[key], list)
        found[key] = [*found.get(key, ()), new.get(index, index)] if several else new.get(index, index)
    return found


def read_generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """`generation_config.json`; empty without one. Raises InputError if it is no JSON object."""
    path = checkpoint.folder / GENERATION
    return read_json_object(path) if path.exists() else {}


def write_other_files(checkpoint: Checkpoint, new: Mapping[int, int], folder: Path) -> dict[str, str]:
    """Write the files that go along into `folder`, which has the weights, the configuration and the tokenizer.

    new: old id -> new id. Returns the files and folders that are left out, each with the reason. Hidden ones are git's
    and the hub's, and not told of.
    """
    if checkpoint.sentence:
        checkpoint.sentence.copy(checkpoint.folder, folder)
    generation = read_generation(checkpoint)
    unknown = [key for key in _OTHER_IDS if generation.get(key)]
    if generation and not unknown:
        (folder / GENERATION).write_text(to_json(generation | renumber(generation, new)), encoding="utf-8")
    left_out: dict[str, str] = {}
    for path in sorted(checkpoint.folder.iterdir()):
        name = path.name
        if (folder / name).exists() or name.startswith(".") or _is_replaced(checkpoint, name):
            continue
        if path.is_file() and any(fnmatchcase(name, pattern) for pattern in _COPIED):
            shutil.copyfile(path, folder / name)
        elif path.is_dir():
            left_out |= {f"{name}/": "a folder that is not read"} if any(path.iterdir()) else {}
        elif name == GENERATION and unknown:
            left_out[name] = f"{', '.join(unknown)}: ids of the old vocabulary"
        elif name in TOKENIZER_FILES:
            left_out[name] = "tokenizer.json and tokenizer_config.json say all of it"
        else:
            left_out[name] = checkpoint.file_uses[name].partition(": ")[2]
    return left_out


def _is_replaced(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a file of weights is one that was read, or says in which files those are."""
    return name == INDEX or checkpoint.file_uses.get(name) == WEIGHTS_READ
