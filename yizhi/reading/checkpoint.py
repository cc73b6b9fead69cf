"""Checkpoint: the canonical input. Memory-mapped tensors under canonical names, all accounted for."""

import fnmatch
import math
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, collect_faults, collect_own_faults
from yizhi.model.architectures import CLASS_SUFFIXES, DROPPED_HEADS, FAMILIES, build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.family import Family
from yizhi.model.rotary import ROFORMER_TABLE, find_wrong_table
from yizhi.model.spec import EncoderSpec, LinearHead, Parameter, Pooling, find_pooling_faults
from yizhi.reading.auto_tokenizer import check_beside, read_tokenizer
from yizhi.reading.folder_files import ADAPTER, MERGE, TOKEN_HEAD_PICKLES, account_for_files, is_adapter_alone
from yizhi.reading.safetensors_file import SafetensorsFile, cut, widen
from yizhi.reading.sentence_dense import DENSE, dense_name, open_dense_weights
from yizhi.reading.sentence_settings import SentenceSettings, compare_pooling, read_sentence_settings
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.tokenizer_sources import SENTENCEPIECE, TOKENIZER_FILES
from yizhi.reading.weight_files import INDEX, POOLER, TOKEN_HEADS, WEIGHTS, TensorFile, open_weights, written_by
from yizhi.release.artifact import DESCRIPTION
from yizhi.storage.digests import sha256_of_file

__all__ = [
    "INDEX",
    "POOLER",
    "TOKEN_HEADS",
    "WEIGHTS",
    "Checkpoint",
    "canonical_name",
    "explain_names",
    "find_families",
]

FLOAT_TYPES = ("F32", "F16", "BF16")
# Keys of config.json that artifacts do not carry on: the stored dtype, a path of somebody's machine, code to run, and
# what `tokenizer_config.json` says.
_NOT_PUBLISHED = ("torch_dtype", "_name_or_path", "auto_map", "tokenizer_class")
_NORM_ALIASES = {"gamma": "weight", "beta": "bias"}


class Checkpoint:
    """An opened checkpoint: `config`, `spec`, `text` (how text becomes ids), and every parameter as float32.

    Weights may be stored as float32, float16 or bfloat16; reading them as float32 is exact.
    `ignored` maps each tensor that no output uses to the reason. `file_uses` maps each file of the folder to its
    reader, or to the reason why it has none. `ignored_files` are the files that the caller ignores. `sentence` has
    the settings of sentence-transformers, if the folder is one of its own.
    """

    def __init__(self, folder: Path, files: Sequence[TensorFile], config: EncoderConfig, text: TextTokenizer) -> None:
        self.folder = folder
        self.text = text
        self._files = files
        self.ignored: dict[str, str] = {}
        self.file_uses: dict[str, str] = {}
        self.ignored_files: tuple[str, ...] = ()
        self.sentence: SentenceSettings | None = None
        self._sources: dict[str, tuple[TensorFile, str]] = {}
        config = _as_stored(config, [name for file in files for name in file.entries])
        config = self.config = _with_padding(config, text)
        faults = self._index_tensors(FAMILIES[config.model_type])
        try:
            self.spec: EncoderSpec = build_spec(config, self._sources.keys())
        except InputError as error:
            raise InputError(folder, faults + error.faults) from None
        faults += self._check_against_spec()
        if faults:
            raise InputError(folder, faults)

    @classmethod
    def open(
        cls,
        path: str | Path,
        pooling: Pooling | None = None,
        ignored_files: Collection[str] = (),
        dimensions: int | None = None,
    ) -> "Checkpoint":
        """Open a folder, or a `.safetensors` file beside its `config.json` and tokenizer files.

        pooling: of `sentence_embedding` in its artifacts; None: as in sentence-transformers, if the folder is one of
        its own. dimensions: the number of first values of that vector to keep; None: all.
        ignored_files: names, or patterns, of files to ignore.
        Raises InputError, listing every fault, unless names, shapes and dtypes are exactly those of the
        configuration, and every file of the folder is known. `check_values` checks the values.
        """
        path = Path(path)
        folder = path.parent if path.suffix == ".safetensors" else path
        if not folder.is_dir():
            raise InputError(path, "no such checkpoint folder")
        if is_adapter_alone([file.name for file in folder.iterdir()]):
            raise InputError(path, f"{ADAPTER}: {MERGE}")
        if not (folder / "config.json").exists() and any(folder.glob(f"*/{DESCRIPTION}")):
            raise InputError(path, "is a release: give the checkpoint that it was made from, or its `pytorch` folder")
        faults: list[str] = []
        config = collect_faults(faults, lambda: EncoderConfig.read(folder / "config.json"))
        if any("`yizhi import`" in fault for fault in faults):  # the other files are another project's, too
            raise InputError(path, faults)
        text = read_text(folder, config, faults, ignored_files)
        sentence = collect_own_faults(faults, lambda: read_sentence_settings(folder, text, ignored_files))
        files = open_weights(path, faults)
        try:
            kind = written_by(files)
            if kind != "pt":
                faults.append(
                    f"the tensors have the names and orientation of format {kind!r}: `yizhi import` reads them"
                )
            names = {file.path.name for file in files} or {file.name for file in folder.glob("*.safetensors")}
            uses = collect_own_faults(faults, lambda: account_for_files(folder, names, ignored_files))
            if config:
                faults = _find_other_family(config, files) + faults
            if faults or config is None or text is None:
                raise InputError(path, faults)
            checkpoint = cls(folder, files, config, text.shorten(sentence.max_length) if sentence else text)
            check_task(checkpoint, folder / "config.json")
            checkpoint._set_pooling(pooling, sentence, dimensions)
            checkpoint.file_uses, checkpoint.sentence = uses or {}, sentence
            checkpoint.ignored_files = tuple(
                name for name in checkpoint.file_uses if checkpoint.file_uses[name].startswith("ignored")
            )
            return checkpoint
        except BaseException:
            for file in files:
                file.close()
            raise

    def notes(self) -> list[str]:
        """Notes for the user: files that were ignored, and tensors of a head that is dropped."""
        notes = [*self.text.notes, *(self.sentence.notes if self.sentence else ())]
        if self.sentence and self.spec.pooling:
            notes += compare_pooling(self.sentence.pooling, self.spec.pooling)
        notes += [f"{name}: passed over, as asked" for name in self.ignored_files]
        if not (self.spec.token_weights or self.spec.token_vectors):
            notes += [f"{name}: {self.file_uses[name]}" for name in TOKEN_HEAD_PICKLES if name in self.file_uses]
        for reason in sorted(set(self.ignored.values()) & DROPPED_HEADS):
            names = [name for name, why in self.ignored.items() if why == reason]
            notes.append(f"{', '.join(names[:2])}: dropped: {reason}")
        return notes

    def array(self, name: str) -> np.ndarray:
        """The parameter as float32; a view of the file where it is stored so."""
        file, stored_name = self._sources[name]
        return file.array(stored_name).astype(np.float32, copy=False)

    def chunks(self, parameter: Parameter, transpose: bool = False, dtype: str = "F32") -> Iterator[bytes | memoryview]:
        """The parameter's bytes in row-major order, in little memory. A piece is good until the next comes.

        dtype: F32, or BF16 for a parameter that is stored so.
        """
        file, stored_name = self._sources[parameter.name]
        if file.entries[stored_name].dtype == dtype and not transpose:
            yield from file.chunks(stored_name)
            return
        for part in cut(file.stored(stored_name), axis=1 if transpose else 0):
            numbers = widen(part) if dtype == "F32" else part
            yield np.ascontiguousarray(numbers.T if transpose else numbers).reshape(-1).view(np.uint8).data
        file.release(stored_name)

    def dtype_of(self, name: str, keep_bf16: bool) -> str:
        """How an artifact stores the parameter: F32, or BF16 where the checkpoint does and that is to be kept."""
        file, stored_name = self._sources[name]
        return "BF16" if keep_bf16 and file.entries[stored_name].dtype == "BF16" else "F32"

    def blocks(self, name: str, axis: int = 0) -> Iterator[NDArray[np.float32]]:
        """The parameter as float32, cut along an axis: one part after the other, in little memory."""
        return map(widen, cut(self.stored(name), axis))

    def stored(self, name: str) -> np.ndarray:
        """The parameter as it is stored: `widen` makes it float32."""
        file, stored_name = self._sources[name]
        return file.stored(stored_name)

    def source(self, name: str) -> tuple[TensorFile, str]:
        """The file that holds a parameter, and its name there."""
        return self._sources[name]

    def ignored_array(self, stored_name: str) -> np.ndarray:
        """A tensor of `ignored`, in the dtype that it is stored in; BF16 as float32."""
        return next(file.array(stored_name) for file in self._files if stored_name in file.entries)

    def release(self, name: str) -> None:
        """Free the memory behind `array(name)`; it is read again from the file when needed."""
        file, stored_name = self._sources[name]
        file.release(stored_name)

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter the encoder uses, in the order the forward pass reads them."""
        return self.spec.parameters()

    @property
    def vocab(self) -> list[str]:
        """Every token in the order of the ids."""
        return self.text.vocab

    @property
    def dtypes(self) -> dict[str, int]:
        """How many parameters are stored in each safetensors dtype."""
        counts: dict[str, int] = {}
        for parameter in self.parameters():
            file, stored_name = self._sources[parameter.name]
            dtype = file.entries[stored_name].dtype
            counts[dtype] = counts.get(dtype, 0) + 1
        return counts

    def find_bf16_faults(self) -> list[str]:
        """A fault if no tensor is bfloat16, so that none can be kept so."""
        if "BF16" in self.dtypes:
            return []
        stored = ", ".join(f"{count} {dtype}" for dtype, count in sorted(self.dtypes.items()))
        return [f"bf16: keeps tensors that are bfloat16; found {stored}: `precision` may be fp32"]

    def check_values(self) -> None:
        """Read every weight once. Raises InputError naming each tensor that holds NaN or Inf."""
        with ThreadPoolExecutor() as pool:
            faults = [fault for fault in pool.map(self._find_bad_values, self.parameters()) if fault]
        if faults:
            raise InputError(self.folder, faults)

    def digest(self) -> dict[str, str]:
        """sha256 of each file that the checkpoint was read from."""
        paths = [self.folder / "config.json", *(file.path for file in self._files)]
        paths += [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).exists()]
        paths += [self.folder / name for name in (self.sentence.files if self.sentence else ())]
        with ThreadPoolExecutor() as pool:
            return dict(
                sorted(
                    zip(
                        (path.relative_to(self.folder).as_posix() for path in paths),
                        pool.map(sha256_of_file, paths),
                        strict=True,
                    )
                )
            )

    def tokenizer_files(self) -> dict[str, str | bytes]:
        """File name -> content of the tokenizer's files in artifacts; among them the folder's SentencePiece model."""
        files: dict[str, str | bytes] = dict(self.text.files(self.config.longest))
        model = self.folder / SENTENCEPIECE
        if model.exists() and SENTENCEPIECE not in self.ignored_files:
            files[SENTENCEPIECE] = model.read_bytes()
        return files

    def published_config(self) -> dict[str, object]:
        """`config.json` for artifacts: as it was read, with the changes of the conversion."""
        family, raw = FAMILIES[self.config.model_type], self.config.raw
        # transformers 4 does not read `rope_parameters`, and would take its default.
        has_base = family.causal and raw.get("rope_parameters")
        return {
            **{key: value for key, value in raw.items() if key not in _NOT_PUBLISHED},
            **self._published_labels(),
            **({"rope_theta": self.config.layers.global_rope_theta} if has_base else {}),
            "architectures": [family.class_name + CLASS_SUFFIXES[self.spec.task]],
            "dtype": "float32",
        }

    def _published_labels(self) -> dict[str, object]:
        """`id2label`, without which transformers overlooks the labels of `label2id`."""
        head, raw = self.spec.head, self.config.raw
        labels = head.labels if isinstance(head, LinearHead) else ()
        if not labels or raw.get("id2label") is not None or not raw.get("label2id"):
            return {}
        return {"id2label": {str(number): label for number, label in enumerate(labels)}, "num_labels": len(labels)}

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
        faults: list[str] = []
        for file in self._files:
            for stored_name in file.entries:
                name = canonical_name(stored_name, family)
                reason = next((why for glob, why in family.ignored.items() if fnmatch.fnmatchcase(name, glob)), None)
                if reason:
                    self.ignored[stored_name] = reason
                    if name == ROFORMER_TABLE:  # in half precision its numbers are rounded
                        faults += find_wrong_table(name, file.array(stored_name), told_by=0.01)
                elif name in self._sources:
                    faults.append(f"{stored_name}: the same tensor as {self._sources[name][1]}")
                else:
                    self._sources[name] = (file, stored_name)
        head = family.masked_lm_names
        faults += self._merge_alias(head.decoder_bias_alias, head.decoder_bias)
        if self.config.adapter and self.config.adapter.ln_before:  # the library registers this norm twice
            for alias in [name for name in self._sources if ".adapter_down.0." in name]:
                faults += self._merge_alias(alias, alias.replace(".adapter_down.0.", ".adapter_norm_before."))
        faults += self._settle_decoder(f"{head.untied_decoder}.weight", f"{family.word_embeddings}.weight")
        return faults

    def _merge_alias(self, alias: str | None, name: str) -> list[str]:
        """Two names for one tensor: keep the canonical one, and refuse two different values."""
        if alias is None or alias not in self._sources:
            return []
        source = self._sources.pop(alias)
        if name not in self._sources:
            self._sources[name] = source
        elif not _hold_equal_values(source, self._sources[name]):
            return [f"{alias}: differs from {name}, which must be the same tensor"]
        return []

    def _settle_decoder(self, decoder: str, embeddings: str) -> list[str]:
        """Drop a decoder that repeats the embeddings. Refuse a decoder that transformers would read differently."""
        present = decoder in self._sources
        if not self.config.tie_word_embeddings:
            return []  # an untied decoder, or a missing one, is the spec's business
        if not present or embeddings not in self._sources:
            return []
        if not _hold_equal_values(self._sources[decoder], self._sources[embeddings]):
            return [
                f"{decoder}: differs from {embeddings}, but config.json ties them (tie_word_embeddings is not false), "
                "and transformers would discard it. Set tie_word_embeddings to false to keep it, or remove the tensor"
            ]
        del self._sources[decoder]
        return []

    def _set_pooling(self, pooling: Pooling | None, sentence: SentenceSettings | None, dimensions: int | None) -> None:
        """Put it into the spec, with the parameters of Dense modules. Raises InputError where it does not fit."""
        pooling = pooling or (sentence.pooling if sentence else None)
        if dimensions is not None and pooling is None:
            raise InputError("`dimensions`", "expected `pooling` with it, or a folder of sentence-transformers")
        if pooling is None:
            return
        dimensions = pooling.dimensions if dimensions is None else dimensions
        if dimensions == replace(pooling, dimensions=None).size(self.config.hidden_size):
            dimensions = None  # all the numbers: `modules.json` has no module for that
        self.spec = replace(self.spec, pooling=replace(pooling, dimensions=dimensions))
        faults = list(find_pooling_faults(self.spec))
        opened: list[SafetensorsFile] = []
        if pooling.dense:
            # The files may have been passed over: what is to be computed was found in them before.
            sentence = sentence or read_sentence_settings(self.folder, None)
            opened = open_dense_weights(self.folder, pooling.dense, sentence.dense_weights if sentence else (), faults)
            self._files = [*self._files, *opened]
            for number, file in enumerate(opened):
                self._sources |= {f"{dense_name(number)}.{name}": (file, name) for name in file.entries}
        if not faults:
            faults = self._check_against_spec()
        if faults:
            for file in opened:
                file.close()
            raise InputError(self.folder, faults)

    def _check_against_spec(self) -> list[str]:
        faults: list[str] = []
        parameters = {parameter.name: parameter for parameter in self.spec.parameters()}
        labels = self._find_label_mismatch()
        faults += set(labels.values())
        for name, parameter in parameters.items():
            if name in labels:
                continue
            if name not in self._sources:
                faults.append(f"{name}: missing; expected {list(parameter.shape)}")
                continue
            file, stored_name = self._sources[name]
            entry, told = file.entries[stored_name], self._told(name)
            if entry.shape != parameter.shape:
                faults.append(f"{told}: expected {list(parameter.shape)}; found {list(entry.shape)}")
            if entry.dtype not in FLOAT_TYPES:
                faults.append(f"{told}: expected dtype {', '.join(FLOAT_TYPES)}; found {entry.dtype}")
        for name in self._sources.keys() - parameters.keys():
            faults.append(f"{self._told(name)}: not a tensor of this {self.config.model_type} configuration")
        return sorted(faults)

    def _told(self, name: str) -> str:
        """A tensor's name in its file, with the file's where that is a Dense module's: those are all named alike."""
        file, stored_name = self._sources[name]
        place = f"{file.path.parent.name}/{file.path.name}: " if name.startswith(DENSE) else ""
        return f"{place}{stored_name}"

    def _find_label_mismatch(self) -> dict[str, str]:
        """The fault, by each parameter it explains, of a head with another number of labels than the configuration."""
        head = self.spec.head
        if not isinstance(head, LinearHead) or not head.labels or head.projection.weight not in self._sources:
            return {}
        file, stored_name = self._sources[head.projection.weight]
        shape = file.entries[stored_name].shape
        if len(shape) != 2 or shape[0] == head.projection.outputs:
            return {}
        fault = (
            f"{stored_name}: has {shape[0]} labels; config.json has {head.projection.outputs} (id2label, num_labels)"
        )
        return dict.fromkeys((parameter.name for parameter in head.projection.parameters()), fault)

    def _find_bad_values(self, parameter: Parameter) -> str | None:
        bad = sum(map(_count_bad_values, self.blocks(parameter.name)))
        self.release(parameter.name)
        return f"{parameter.name}: {bad} of {math.prod(parameter.shape)} values are NaN or Inf" if bad else None


def _count_bad_values(array: NDArray[np.float32]) -> int:
    # A sum is finite only if all its terms are; the slow count runs for the guilty alone.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(np.add.reduce(array, axis=None))
    return 0 if finite else int(array.size - np.isfinite(array).sum())


def _as_stored(config: EncoderConfig, names: Collection[str]) -> EncoderConfig:
    """The configuration, of a bare decoder where the names have no prefix.

    A tied head has no tensor of its own. Qwen3-Embedding is saved from the bare model, and says ForCausalLM.
    """
    family = FAMILIES[config.model_type]
    is_bare = not any(
        name.startswith((f"{family.prefix}.", f"{family.masked_lm_names.untied_decoder}.")) for name in names
    )
    if not (family.causal and is_bare and (config.architecture or "").endswith(CLASS_SUFFIXES[family.lm_task])):
        return config
    bare = family.class_name + CLASS_SUFFIXES["features"]
    return replace(config, architecture=bare, raw=MappingProxyType({**config.raw, "architectures": [bare]}))


def _with_padding(config: EncoderConfig, text: TextTokenizer) -> EncoderConfig:
    """With the tokenizer's padding, where `config.json` names none and no position is counted from it.

    It is named in `raw`, too, so that an artifact's `config.json` does not fall back to the family's.
    """
    is_named = config.raw.get("pad_token_id") is not None
    if is_named or config.padding_idx is not None or config.pad_token_id == text.pad_id:
        return config
    raw = MappingProxyType({**config.raw, "pad_token_id": text.pad_id})
    return replace(config, pad_token_id=text.pad_id, raw=raw)


def _find_other_family(config: EncoderConfig, files: Sequence[TensorFile]) -> list[str]:
    """One fault where names and configuration are two families', instead of one for every tensor."""
    families = find_families([name for file in files for name in file.entries])
    if not families or config.model_type in families:
        return []
    named = explain_names(config.model_type, families)
    return [f"config.json says model_type {config.model_type!r}, but {named}"]


def check_task(checkpoint: Checkpoint, config_path: Path) -> None:
    """Raises InputError for a discriminator whose configuration promises to fill masks."""
    said = checkpoint.config.architecture or ""
    if said.endswith("ForMaskedLM") and checkpoint.spec.task == "replaced-token-detection":
        raise InputError(
            config_path,
            f"says {said}, but the tensors are a discriminator's, which finds replaced tokens and cannot fill masks",
        )


def find_families(names: Collection[str]) -> tuple[str, ...]:
    """The `model_type`s that know most of these names: several if families use the same names."""
    counts = {model_type: _count_known(family, names) for model_type, family in FAMILIES.items()}
    most = max(counts.values())
    return tuple(model_type for model_type, count in counts.items() if count == most > 0)


def explain_names(model_type: str, families: Sequence[str]) -> str:
    """A clause that names the families of the tensors, for a configuration with another `model_type`."""
    hint = ""
    if model_type in ("roberta", "xlm-roberta") and "bert" in families:
        hint = ". RoBERTa-wwm-ext and its relatives are BERT models: set model_type to 'bert'"
    return f"the tensors are named as {' or '.join(map(repr, families))}'s{hint}"


def _count_known(family: Family, names: Collection[str]) -> int:
    """How many tensors belong to a module that this family has."""
    layers = [family.layer, *([family.image.layer] if family.image else [])]
    layer = "|".join(re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(one)) for one in layers)  # each {number} as digits
    parts = "|".join(re.escape(part) for part in asdict(family.layer_names).values() if part)
    others = [value for value in asdict(family).values() if isinstance(value, str)]
    for heads in (family.masked_lm_names, family.discriminator, family.image):
        others += [value for value in asdict(heads).values() if value] if heads else []
    module = re.compile("|".join([f"({layer})\\.({parts})", *map(re.escape, others)]))
    if family.image and f"{family.image.features}.weight" not in {canonical_name(name, family) for name in names}:
        return 0  # its text has the names of another family
    return sum(module.fullmatch(canonical_name(name, family).rpartition(".")[0]) is not None for name in names)


def canonical_name(stored_name: str, family: Family) -> str:
    """The Hugging Face PyTorch name of a tensor that a file may call by an older or shorter one."""
    module, _, leaf = stored_name.rpartition(".")
    is_norm = module.rpartition(".")[2] in family.norm_parts
    name = f"{module}.{_NORM_ALIASES[leaf]}" if is_norm and leaf in _NORM_ALIASES else stored_name
    return f"{family.prefix}.{name}" if name.partition(".")[0] in family.bare_parts else name


def read_text(
    folder: Path, config: EncoderConfig | None, faults: list[str], ignored_files: Collection[str] = ()
) -> TextTokenizer | None:
    """The folder's tokenizer; None, with lines added to `faults`, if it cannot be used or does not fit `config`.

    ignored_files: other vocabularies to ignore; the rest must agree with it.
    """
    text = collect_own_faults(faults, lambda: read_tokenizer(folder))
    faults += check_beside(folder, text, ignored_files) if text else []
    faults += text.find_misfit(config.vocab_size, config.padding_idx) if config and text else []
    return text


def _hold_equal_values(one: tuple[TensorFile, str], other: tuple[TensorFile, str]) -> bool:
    """Whether two stored tensors are the same numbers, NaN included: NaN is `check_values`'s to report."""
    entries = [file.entries[name] for file, name in (one, other)]
    if entries[0].shape != entries[1].shape or any(entry.dtype not in FLOAT_TYPES for entry in entries):
        return False
    parts = (map(widen, cut(file.stored(name))) for file, name in (one, other))
    equal = all(np.array_equal(first, second, equal_nan=True) for first, second in zip(*parts, strict=True))
    for file, name in (one, other):
        file.release(name)
    return equal
