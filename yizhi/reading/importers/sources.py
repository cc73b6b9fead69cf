"""Which files of a folder or an archive are the weights, the configuration and the vocabulary."""

import fnmatch
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from yizhi.errors import InputError
from yizhi.reading.folder_files import ADAPTER, MERGE, is_adapter_alone
from yizhi.reading.importers.opened import Opened
from yizhi.reading.tokenizer_sources import BPE_VOCAB, SENTENCEPIECE, SETTINGS, TOKENIZER, TOKENIZER_FILES
from yizhi.reading.weight_files import INDEX, WEIGHTS


@dataclass(frozen=True)
class Format:
    """A kind of weights. marks: patterns of the file it is known by, the most usual name first.

    opener: the function that opens that file. files: patterns of all that it reads.
    """

    name: str
    marks: tuple[str, ...]
    files: tuple[str, ...]
    opener: str

    def open(self, path: Path) -> Opened:
        """Open the weights that `path` marks. Raises InputError."""
        module, function = self.opener.split(":")
        opened: Opened = getattr(importlib.import_module(module), function)(path)
        return opened


# In the order of preference where a folder has several.
FORMATS = (
    Format(
        "safetensors",
        (WEIGHTS, INDEX, "*.safetensors"),
        ("*.safetensors", INDEX),
        "yizhi.reading.importers.safetensors_weights:open_safetensors",
    ),
    Format(
        "PyTorch .bin",
        ("pytorch_model.bin", "pytorch_model.bin.index.json", "*.bin", "*.bin-[0-9]*"),
        ("*.bin", "*.bin-[0-9]*", "pytorch_model.bin.index.json"),
        "yizhi.reading.importers.torch_bin:open_bin",
    ),
    Format("Keras .h5", ("tf_model.h5", "*.h5"), ("*.h5",), "yizhi.reading.importers.keras_h5:open_h5"),
    Format(
        "Flax .msgpack",
        ("flax_model.msgpack", "*.msgpack"),
        ("*.msgpack",),
        "yizhi.reading.importers.flax_msgpack:open_msgpack",
    ),
    Format(
        "PaddleNLP .pdparams",
        ("model_state.pdparams", "*.pdparams"),
        ("*.pdparams",),
        "yizhi.reading.importers.pdparams:open_pdparams",
    ),
    Format(
        "SavedModel",
        ("saved_model.pb",),
        ("saved_model.pb", "variables/variables.*"),
        "yizhi.reading.importers.tf_checkpoint:open_saved_model",
    ),
    Format(
        "TensorFlow checkpoint",
        ("*.index",),
        ("*.index", "*.data-*-of-*"),
        "yizhi.reading.importers.tf_checkpoint:open_checkpoint",
    ),
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")
CONFIGS = (
    *("config.json", "bert_config.json", "albert_config.json", "ernie_config.json", "model_config.json"),
    "*config*.json",
)
TIKTOKEN = ".tiktoken"
VOCABS = ("vocab.txt", "*vocab*.txt", f"*{TIKTOKEN}", f"vocab/*{TIKTOKEN}")
# What *config*.json matches and is not the model's.
_OTHER_CONFIGS = (SETTINGS, "generation_config.json", "preprocessor_config.json", "quantize_config.json")


@dataclass(frozen=True)
class Source:
    """The files that an import reads. unread: other weights that lie there -> why they are not read.

    vocab: empty if `tokenizer.json` has it. tokenizer: those of TOKENIZER_FILES that are there. others: all other
    files, if the whole folder or archive was named.
    """

    format: Format
    weights: str
    config: str
    vocab: str
    tokenizer: tuple[str, ...]
    unread: dict[str, str]
    others: tuple[str, ...] = ()

    @property
    def says_how_to_tokenize(self) -> bool:
        """Whether a file says whether to lower-case, and the like."""
        return SETTINGS in self.tokenizer or TOKENIZER in self.tokenizer

    def needs(self, name: str) -> bool:
        """Whether a file is read at all."""
        return name in (self.config, self.vocab, *self.tokenizer) or _matches(name, self.format.files)


def choose(subject: object, names: Iterable[str], weights: str | None = None, given: Iterable[str] = ()) -> Source:
    """Pick from the names of a folder's files, those of `variables/` included.

    weights: the one file that the user named. given: which of `config`, `vocab` and `adapter` the user gives otherwise.
    Raises InputError listing everything that is missing or ambiguous.
    """
    names = sorted(names)
    if is_adapter_alone(names):
        raise InputError(subject, f"{ADAPTER}: {MERGE}")
    faults: list[str] = []
    found = _find_weights(names if weights is None else [weights], faults)
    config = (
        ""
        if "config" in given
        else _find_one([name for name in names if name not in _OTHER_CONFIGS], CONFIGS, "`config`", faults)
    )
    known = "vocab" in given or any(name in names for name in (TOKENIZER, SENTENCEPIECE, BPE_VOCAB))
    vocab = "" if known else _find_one(names, VOCABS, "`vocab`", faults)
    tokenizer = tuple(name for name in TOKENIZER_FILES if name in names)
    if ADAPTER in names and weights is None and "adapter" not in given:
        faults.append(f"{ADAPTER}: {MERGE}")
    if faults or found is None:
        raise InputError(subject, faults)
    chosen, mark = found
    unread = {
        name: f"{mark} was read instead"
        for name in names
        for other in FORMATS
        if other is not chosen and name != config and _matches(name, other.marks)
    }
    source = Source(chosen, mark, config, vocab, tokenizer, unread)
    if weights is not None:
        return source
    chosen_otherwise = VOCABS if "vocab" in given else ()
    others = [name for name in names if not (source.needs(name) or name in unread or _matches(name, chosen_otherwise))]
    return replace(source, others=tuple(others))


def _find_weights(names: list[str], faults: list[str]) -> tuple[Format, str] | None:
    for candidate in FORMATS:
        for pattern in candidate.marks:
            matching = [name for name in names if _matches(name, (pattern,))]
            if len(matching) > 1 and all(map(_SHARD.search, matching)):
                faults.append(
                    f"{candidate.name}: {len(matching)} shards, which cannot be joined here: save it as one file "
                    "(max_shard_size of save_pretrained)"
                )
            elif len(matching) > 1:
                faults.append(f"holds {len(matching)} files of weights ({', '.join(matching[:4])}): name one of them")
            if matching:
                return candidate, matching[0]
    if any(_matches(name, ("*.data-*-of-*",)) for name in names):
        faults.append("has a TensorFlow checkpoint's data file, but not its .index")
    elif any(name.endswith(".onnx") for name in names):
        faults.append("is an ONNX model, which is not imported: import the checkpoint that it was made from")
    else:
        faults.append(
            f"holds no weights: expected one of {', '.join(mark for known in FORMATS for mark in known.marks[:1])}"
        )
    return None


def _find_one(names: list[str], patterns: tuple[str, ...], option: str, faults: list[str]) -> str:
    """The file that the first matching pattern matches."""
    for pattern in patterns:
        matching = [name for name in names if _matches(name, (pattern,))]
        if len(matching) == 1:
            return matching[0]
        if matching:
            faults.append(
                f"holds {len(matching)} files like {pattern} ({', '.join(matching[:4])}): choose with {option}"
            )
            return ""
    faults.append(f"has no {patterns[0]}: give it with {option}")
    return ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is like one of the patterns, in which `*` does not reach into folders."""
    return any(name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def list_folder(folder: Path) -> list[str]:
    """Names of the files in a folder, of those in its `variables/`, and of tiktoken vocabularies in its `vocab/`."""
    return [
        path.relative_to(folder).as_posix()
        for parent, pattern in ((folder, "*"), (folder / "variables", "*"), (folder / "vocab", f"*{TIKTOKEN}"))
        for path in parent.glob(pattern)
        if path.is_file()
    ]


_DOCUMENTS = (".md", ".pdf", ".html", "license", "readme", "notice")


def _is_junk(name: str) -> bool:
    """What a Mac puts into archives."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def flatten(names: Iterable[str]) -> dict[str, str]:
    """An archive's member names without the one folder they may all be in: name there -> name in the archive."""
    members = [name for name in names if not _is_junk(name)]
    # Documents may lie beside the folder.
    model = [name for name in members if not name.lower().endswith(_DOCUMENTS)] or members
    tops = {PurePosixPath(name).parts[0] for name in model}
    depth = 1 if len(tops) == 1 and all(len(PurePosixPath(name).parts) > 1 for name in model) else 0
    members = [name for name in members if len(PurePosixPath(name).parts) > depth]
    return {PurePosixPath(*PurePosixPath(name).parts[depth:]).as_posix(): name for name in members}
