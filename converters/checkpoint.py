"""Checkpoint: the canonical input. Memory-mapped tensors under canonical names, all accounted for."""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from converters.architectures import CLASS_SUFFIXES, FAMILIES, Family, build_spec
from converters.config import EncoderConfig, read_json_object
from converters.errors import InputError
from converters.safetensors_file import SafetensorsFile
from converters.spec import EncoderSpec, Parameter

T = TypeVar("T")

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# transformers' masked-LM classes have no pooler, so the PyTorch artifact keeps it in a file of its own.
POOLER = "pooler.safetensors"
FLOAT_TYPES = ("F32", "F16", "BF16")
_NORM_ALIASES = (
    (re.compile(r"(\bLayerNorm|layer_norm|\bln)\.gamma$"), r"\1.weight"),
    (re.compile(r"(\bLayerNorm|layer_norm|\bln)\.beta$"), r"\1.bias"),
)


class Checkpoint:
    """An opened checkpoint: `config`, `spec`, `vocab`, and every parameter as float32.

    Weights may be stored as float32, float16 or bfloat16; reading them as float32 is exact.
    `ignored` maps each tensor that no output uses to the reason.
    """

    def __init__(self, folder: Path, files: list[SafetensorsFile], config: EncoderConfig, vocab: list[str]):
        self.folder = folder
        self.config = config
        self.vocab = vocab
        self._files = files
        self.ignored: dict[str, str] = {}
        self._sources: dict[str, tuple[SafetensorsFile, str]] = {}
        faults = self._index_tensors(FAMILIES[config.model_type])
        try:
            self.spec: EncoderSpec = build_spec(config, self._sources.keys())
        except InputError as error:
            raise InputError(folder, faults + error.faults) from None
        faults += self._check_against_spec()
        if faults:
            raise InputError(folder, faults)

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Open a folder, or a `.safetensors` file beside its `config.json` and `vocab.txt`.

        Raises InputError, listing every fault, unless names, shapes and dtypes are exactly what
        the configuration asks for. Values are checked by `check_values`.
        """
        path = Path(path)
        folder = path.parent if path.suffix == ".safetensors" else path
        if not folder.is_dir():
            raise InputError(path, "no such checkpoint folder")
        faults: list[str] = []
        config = _collect(faults, lambda: EncoderConfig.read(folder / "config.json"))
        vocab = _collect(faults, lambda: read_vocab(folder / "vocab.txt"))
        weight_files = [path] if path.suffix == ".safetensors" else _collect(faults, lambda: _find_weights(folder))
        files = [_collect(faults, lambda file=file: SafetensorsFile(file)) for file in weight_files or []]
        if config and vocab and len(vocab) != config.vocab_size:
            faults.append(f"vocab.txt: expected {config.vocab_size} lines (config.json vocab_size); found {len(vocab)}")
        if faults:
            raise InputError(path, faults)
        return cls(folder, files, config, vocab)

    def array(self, name: str) -> np.ndarray:
        """The parameter as float32; a view of the file where it is stored so."""
        file, stored_name = self._sources[name]
        return file.array(stored_name).astype(np.float32, copy=False)

    def chunks(self, parameter: Parameter, transpose: bool = False) -> Iterator[bytes | memoryview]:
        """The parameter's float32 bytes in row-major order, using little memory of its own."""
        file, stored_name = self._sources[parameter.name]
        if file.entries[stored_name].dtype == "F32" and not transpose:
            yield from file.chunks(stored_name)
            return
        array = self.array(parameter.name)
        yield np.ascontiguousarray(array.T if transpose else array).reshape(-1).view(np.uint8).data
        file.release(stored_name)

    def release(self, name: str) -> None:
        """Let go of the memory behind `array(name)`; it is read again from the file when needed."""
        file, stored_name = self._sources[name]
        file.release(stored_name)

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter the encoder uses, in the order the forward pass reads them."""
        return self.spec.parameters()

    @property
    def dtypes(self) -> dict[str, int]:
        """How many parameters are stored in each safetensors dtype."""
        counts: dict[str, int] = {}
        for parameter in self.parameters():
            file, stored_name = self._sources[parameter.name]
            dtype = file.entries[stored_name].dtype
            counts[dtype] = counts.get(dtype, 0) + 1
        return counts

    def check_values(self) -> None:
        """Read every weight once. Raises InputError naming each tensor that holds NaN or Inf."""
        with ThreadPoolExecutor() as pool:
            faults = [fault for fault in pool.map(self._find_bad_values, self.parameters()) if fault]
        if faults:
            raise InputError(self.folder, faults)

    def digest(self) -> dict[str, str]:
        """sha256 of each file that the checkpoint was read from."""
        paths = [self.folder / "config.json", self.folder / "vocab.txt", *(file.path for file in self._files)]
        tokenizer_config = self.folder / "tokenizer_config.json"
        if tokenizer_config.exists():
            paths.append(tokenizer_config)
        with ThreadPoolExecutor() as pool:
            return dict(sorted(zip((path.name for path in paths), pool.map(sha256_of_file, paths), strict=True)))

    def published_config(self) -> dict[str, object]:
        """`config.json` for artifacts: as read, but for what the conversion changed."""
        return {
            **{key: value for key, value in self.config.raw.items() if key != "torch_dtype"},
            "architectures": [FAMILIES[self.config.model_type].class_name + CLASS_SUFFIXES[self.spec.task]],
            "dtype": "float32",
        }

    def close(self) -> None:
        """Close the weight files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index_tensors(self, family: Family) -> list[str]:
        """Fill `_sources` and `ignored`; return the faults seen on the way."""
        faults = []
        for file in self._files:
            for stored_name in file.entries:
                name = canonical_name(stored_name, family)
                reason = next((why for glob, why in family.ignored.items() if fnmatch.fnmatch(name, glob)), None)
                if reason:
                    self.ignored[stored_name] = reason
                elif name in self._sources:
                    faults.append(f"{stored_name}: the same tensor as {self._sources[name][1]}")
                else:
                    self._sources[name] = (file, stored_name)
        faults += self._merge_alias(family.decoder_bias_alias, _decoder_bias_name(self.config, family))
        embeddings = f"{family.prefix}.embeddings.word_embeddings.weight"
        faults += self._settle_decoder(family.untied_decoder, embeddings)
        return faults

    def _merge_alias(self, alias: str | None, name: str) -> list[str]:
        """Two names for one tensor: keep the canonical one, and refuse two different values."""
        if alias is None or alias not in self._sources:
            return []
        source = self._sources.pop(alias)
        if name not in self._sources:
            self._sources[name] = source
        elif not np.array_equal(source[0].array(source[1]), self.array(name)):
            return [f"{alias}: differs from {name}, which must be the same tensor"]
        return []

    def _settle_decoder(self, decoder: str, embeddings: str) -> list[str]:
        """Drop a decoder that repeats the embeddings; refuse what transformers would read differently."""
        present = decoder in self._sources
        if not self.config.tie_word_embeddings:
            return []  # an untied decoder, or a missing one, is the spec's business
        if not present or embeddings not in self._sources:
            return []
        if not np.array_equal(self.array(decoder), self.array(embeddings)):
            return [
                f"{decoder}: differs from {embeddings}, but config.json ties them (tie_word_embeddings is not false), "
                "and transformers would discard it. Set tie_word_embeddings to false to keep it, or remove the tensor"
            ]
        del self._sources[decoder]
        return []

    def _check_against_spec(self) -> list[str]:
        faults = []
        parameters = {parameter.name: parameter for parameter in self.spec.parameters()}
        for name, parameter in parameters.items():
            if name not in self._sources:
                faults.append(f"{name}: missing; expected {list(parameter.shape)}")
                continue
            file, stored_name = self._sources[name]
            entry = file.entries[stored_name]
            if entry.shape != parameter.shape:
                faults.append(f"{stored_name}: expected {list(parameter.shape)}; found {list(entry.shape)}")
            if entry.dtype not in FLOAT_TYPES:
                faults.append(f"{stored_name}: expected dtype {', '.join(FLOAT_TYPES)}; found {entry.dtype}")
        for name in self._sources.keys() - parameters.keys():
            faults.append(f"{self._sources[name][1]}: not a tensor of this {self.config.model_type} configuration")
        return sorted(faults)

    def _find_bad_values(self, parameter: Parameter) -> str | None:
        array = self.array(parameter.name)
        # A sum is finite only if all its terms are; the slow count runs for the guilty alone.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.add.reduce(array, axis=None))
        bad = 0 if finite else int(array.size - np.isfinite(array).sum())
        self.release(parameter.name)
        return f"{parameter.name}: {bad} of {array.size} values are NaN or Inf" if bad else None


def canonical_name(stored_name: str, family: Family) -> str:
    """The Hugging Face PyTorch name of a tensor that a file may call by an older or shorter one."""
    name = stored_name
    for pattern, replacement in _NORM_ALIASES:
        name = pattern.sub(replacement, name)
    if name.startswith(("embeddings.", "embeddings_project.", "encoder.", "pooler.")):
        name = f"{family.prefix}.{name}"
    return name


def read_vocab(path: Path) -> list[str]:
    """The entries of a `vocab.txt`, in id order. Raises InputError.

    Lines end in LF or CRLF and nothing else: two real entries hold U+2028, a line break to
    `str.splitlines`.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(path, "the file is missing") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})") from None
    vocab = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    faults = [f"missing entry {token}" for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token not in vocab]
    if len(set(vocab)) != len(vocab):
        seen: set[str] = set()
        twice = [token for token in vocab if token in seen or seen.add(token)]
        faults.append(f"{len(twice)} entries appear twice, first {twice[0]!r}")
    if faults:
        raise InputError(path, faults)
    return vocab


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_weights(folder: Path) -> list[Path]:
    index_path = folder / INDEX
    if (folder / WEIGHTS).exists():
        paths = [folder / WEIGHTS]
    elif index_path.exists():
        paths = _read_index(folder, index_path)
    elif (folder / "pytorch_model.bin").exists():
        raise InputError(folder, f"has pytorch_model.bin but no {WEIGHTS}; convert it with `yizhi import`")
    else:
        raise InputError(folder, f"has neither {WEIGHTS} nor {INDEX}")
    if (folder / POOLER).exists():
        paths.append(folder / POOLER)
    return paths


def _read_index(folder: Path, index_path: Path) -> list[Path]:
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(index_path, "weight_map: expected an object of tensor name to file name")
    faults = []
    for name in {str(value): None for value in weight_map.values()}:
        if Path(name).name != name or not name.endswith(".safetensors"):
            faults.append(f"weight_map: {name!r} is not a .safetensors file name")
        elif not (folder / name).is_file():
            faults.append(f"{name}: the shard is missing")
    if faults:
        raise InputError(index_path, faults)
    shards = {name: SafetensorsFile(folder / name) for name in sorted(set(weight_map.values()))}
    found = {tensor: name for name, shard in shards.items() for tensor in shard.entries}
    for shard in shards.values():
        shard.close()
    for tensor in sorted(weight_map.keys() | found.keys()):
        if weight_map.get(tensor) != found.get(tensor):
            faults.append(f"{tensor}: the index says {weight_map.get(tensor)}; found in {found.get(tensor)}")
    if faults:
        raise InputError(index_path, faults)
    return [folder / name for name in shards]


def _collect(faults: list[str], read: Callable[[], T]) -> T | None:
    """Run one reader; on InputError, note its faults under the file's name and go on."""
    try:
        return read()
    except InputError as error:
        faults += [f"{Path(error.subject).name}: {fault}" for fault in error.faults]
        return None


def _decoder_bias_name(config: EncoderConfig, family: Family) -> str:
    return family.masked_lm(config, family.untied_decoder).decoder_bias
