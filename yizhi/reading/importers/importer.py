"""`import_checkpoint`: from any published format to a canonical checkpoint, whole or not at all."""

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from yizhi.choices import PRECISIONS
from yizhi.errors import InputError
from yizhi.model.config import ZHINAO, EncoderConfig
from yizhi.reading.auto_tokenizer import check_beside, read_tokenizer
from yizhi.reading.checkpoint import WEIGHTS, Checkpoint, check_task
from yizhi.reading.folder_files import ADAPTER, REFUSED, find_rule, is_ignored
from yizhi.reading.importers.adapter import REPLACED, join_adapter
from yizhi.reading.importers.archive import unpack
from yizhi.reading.importers.configs import GELU_NOTE, canonical_config
from yizhi.reading.importers.foreign import REPEATED, ForeignWeights
from yizhi.reading.importers.lora import MERGED, is_lora, merge_lora
from yizhi.reading.importers.opened import GOOGLE, Opened
from yizhi.reading.importers.report import ImportedTensor, ImportReport
from yizhi.reading.importers.sentence_parts import open_token_heads, say_width, write_dense
from yizhi.reading.importers.sources import TIKTOKEN, Source, choose, list_folder
from yizhi.reading.importers.tiktoken_vocab import read_tiktoken
from yizhi.reading.importers.zhinao import read_as_qwen2
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.sentence_settings import MODULES, read_sentence_settings
from yizhi.reading.source_card import carry_source_card
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.tokenizer_json import WORDPIECE, kind_of
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES
from yizhi.reading.weight_files import TensorFile
from yizhi.release.artifact import ArtifactWriter
from yizhi.storage.folders import new_folder
from yizhi.storage.json_files import read_json_object

_UNPACKED = "unpacked"


def import_checkpoint(
    source: str | Path,
    out: str | Path,
    config: Path | None = None,
    vocab: Path | None = None,
    adapter: Path | None = None,
    base: Path | None = None,
    ignored_files: Collection[str] = (),
    precision: str = "fp32",
) -> ImportReport:
    """Write `config.json`, `model.safetensors` and the tokenizer's files to a new folder.

    source: a folder, a zip, a file of weights, or the prefix of a TensorFlow checkpoint.
    config, vocab: files to use instead of those beside the weights.
    adapter: a folder of the adapters library's `save_adapter`, or of peft's LoRA, to be put into the checkpoint.
    base: the checkpoint of an adapter; `source` is then the adapter's folder.
    ignored_files: names, or patterns, of files to ignore, though they could change an answer.
    precision: bf16 leaves in bfloat16 what the source has in bfloat16; some of it must be.
    Every other parameter is written as float32, and all under their canonical names. Raises InputError, and writes
    nothing, if the source is unsafe to read, not understood, or not what its configuration says.
    """
    source, out = Path(source), Path(out)
    if precision not in PRECISIONS:
        raise InputError("`precision`", f"expected {' or '.join(PRECISIONS)}; found {precision!r}")
    if base is not None and adapter is not None:
        raise InputError(source, "`adapter` and `base` both name an adapter: give one of them")
    asked = source
    if base is not None:
        source, adapter = Path(base), source
    if adapter is not None and not (adapter / ADAPTER).is_file():
        raise InputError(adapter, f"expected an adapter's folder, with {ADAPTER}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(out, "exists already: choose a new folder")
    given = {
        key: path for key, path in {"config": config, "vocab": vocab, "adapter": adapter}.items() if path is not None
    }
    if not source.exists() and not _index_of(source).exists():
        raise InputError(source, "no such file or folder")
    with new_folder(out) as temporary, _naming({temporary / _UNPACKED: source, temporary: out}):
        folder, found = _find_files(source, temporary / _UNPACKED, given)
        _check_others(source, found, ignored_files)
        config_path = config or folder / found.config
        raw = read_json_object(config_path)
        with closing(found.format.open(folder / found.weights)) as opened:
            heads = open_token_heads(folder) if not asked.is_file() else []
            opened.weights.extend(heads)
            raw = say_width(raw, heads)
            # A file of weights that is named alone may lie among anything.
            beside = ignored_files if source.is_dir() else TOKENIZER_FILES
            vocab_path = vocab or (folder / found.vocab if found.vocab else None)
            report = _convert(
                opened, raw, config_path, vocab_path, folder, found, temporary, adapter, beside, precision == "bf16"
            )
        if source.is_dir():
            _carry_sentence_settings(source, temporary, ignored_files)
            carry_source_card(source, temporary)
        shutil.rmtree(temporary / _UNPACKED, ignore_errors=True)
        with Checkpoint.open(temporary) as result:
            result.check_values()
            digest = result.digest()
    return ImportReport(source=str(asked), out=str(out), unread=found.unread, sha256=digest, **report)


def _find_files(source: Path, unpacked: Path, given: dict[str, Path]) -> tuple[Path, Source]:
    """The folder that holds the files, unpacked if need be, and which files they are."""
    if source.is_dir():
        return source, choose(source, list_folder(source), given=given)
    if source.suffix.lower() == ".zip":
        unpacked.mkdir()
        return unpacked, unpack(source, unpacked, given=tuple(given))
    weights = source if source.exists() else _index_of(source)
    return weights.parent, choose(source, list_folder(weights.parent), weights.name, given)


def _check_others(source: Path, found: Source, ignored: Collection[str]) -> None:
    """Refuse what lies beside a checkpoint, could change an answer, and is not understood: as an export does."""
    if found.format.name.startswith(("SavedModel", "TensorFlow")):
        return
    faults = []
    for name in found.others:
        rule = find_rule(name)
        if is_ignored(name, ignored):
            continue
        if rule is None:
            faults.append(f"{name}: could change an answer, and is not understood: see docs/importing.md")
        elif rule.use == REFUSED and not name.startswith("adapter_"):
            faults.append(f"{name}: {rule.why}")
        elif name == MODULES and not source.is_dir():
            faults.append(f"{name}: unpack the archive: pooling is read from a folder")
    if faults:
        raise InputError(source, [*faults, "`ignored_files` passes over a file by its name"])


def _carry_sentence_settings(source: Path, out: Path, ignored: Collection[str]) -> None:
    """Copy how sentence-transformers pools, for an export to find. Raises InputError where that is not computed."""
    settings = read_sentence_settings(source, read_tokenizer(out), ignored)
    for name in settings.files if settings else ():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    for place in settings.dense_pickles if settings else ():
        write_dense(source, place, ArtifactWriter(out))


def _index_of(prefix: Path) -> Path:
    """`bert_model.ckpt` is what TensorFlow calls the files `bert_model.ckpt.index` and `.data-…`."""
    return prefix.with_name(f"{prefix.name}.index")


def _convert(
    opened: Opened,
    raw: dict[str, Any],
    config_path: Path,
    vocab_path: Path | None,
    folder: Path,
    found: Source,
    out: Path,
    adapter: Path | None,
    ignored_files: Collection[str],
    keep_bf16: bool,
) -> dict[str, Any]:
    """Write the files; return what the report says of them."""
    is_zhinao = raw.get("model_type") == ZHINAO
    if is_zhinao:
        raw, opened = read_as_qwen2(raw, config_path, opened)
    config = EncoderConfig.from_dict(canonical_config(raw, config_path, opened), config_path)
    text = _read_text(folder, vocab_path, is_zhinao)
    misfit = text.find_misfit(config.vocab_size, config.padding_idx)
    misfit += check_beside(folder, text, ignored_files) if found.vocab or not vocab_path else []
    if misfit:
        raise InputError(config_path.parent, misfit)
    with _naming_tensors(opened):
        checkpoint = Checkpoint(folder, opened.weights, config, text)
    check_task(checkpoint, config_path)
    ignored, notes = _find_ignored(checkpoint, opened.weights), opened.notes
    if adapter and is_lora(adapter):
        if any((adapter / name).exists() for name in TOKENIZER_FILES):
            text = read_tokenizer(adapter)
        checkpoint, of_adapter, more = merge_lora(checkpoint, opened.weights, adapter, text)
        ignored = {**_find_ignored(checkpoint, [*opened.weights, of_adapter], MERGED), **ignored}
        notes = (*notes, *more)
    elif adapter:
        checkpoint, of_adapter, more = join_adapter(checkpoint, opened.weights, adapter)
        ignored = {**_find_ignored(checkpoint, [*opened.weights, of_adapter], REPLACED), **ignored}
        notes = (*notes, *more)
    if keep_bf16 and (faults := checkpoint.find_bf16_faults()):
        raise InputError("`precision`", faults)
    _write(checkpoint, out, keep_bf16)
    return {
        "format": opened.format,
        "model_type": config.model_type,
        "task": checkpoint.spec.task,
        "tensors": tuple(_describe(checkpoint, parameter.name, keep_bf16) for parameter in checkpoint.parameters()),
        "ignored": dict(sorted(ignored.items())),
        "notes": (*notes, *_notes(opened, config, text, found)),
    }


def _read_text(folder: Path, vocab: Path | None, is_zhinao: bool) -> TextTokenizer:
    if vocab is None or vocab.suffix != TIKTOKEN:
        return read_tokenizer(folder, vocab)
    if not is_zhinao:
        raise InputError(
            vocab, f"a tiktoken vocabulary is read for model_type {ZHINAO} alone: its rules are in no file"
        )
    return read_tiktoken(vocab, folder)


def _write(checkpoint: Checkpoint, out: Path, keep_bf16: bool) -> None:
    writer = ArtifactWriter(out)
    dtypes = {parameter: checkpoint.dtype_of(parameter.name, keep_bf16) for parameter in checkpoint.parameters()}
    with writer.open(WEIGHTS) as file:
        header = {parameter.name: (dtype, parameter.shape) for parameter, dtype in dtypes.items()}
        chunks = (checkpoint.chunks(parameter, dtype=dtype) for parameter, dtype in dtypes.items())
        write_safetensors(file, header, chain.from_iterable(chunks))
    writer.write_json("config.json", {**checkpoint.published_config(), "pad_token_id": checkpoint.config.pad_token_id})
    for name, data in checkpoint.tokenizer_files().items():
        writer.write(name, data)


def _describe(checkpoint: Checkpoint, name: str, keep_bf16: bool) -> ImportedTensor:
    file, stored = checkpoint.source(name)
    dtype = file.entries[stored].dtype
    changes: tuple[str, ...] = ("renamed",) if stored != name else ()
    if isinstance(file, ForeignWeights):
        tensor, place = file.origin(stored)
        stored, dtype, changes = tensor.name, tensor.dtype, place.changes(tensor)
        changes = changes if stored == name or "renamed" in changes else ("renamed", *changes)
    widened = checkpoint.dtype_of(name, keep_bf16) != dtype
    return ImportedTensor(name, stored, dtype, (*changes, *(("widened to float32",) if widened else ())))


def _find_ignored(checkpoint: Checkpoint, files: Iterable[TensorFile], otherwise: str = REPEATED) -> dict[str, str]:
    """Every tensor of these files that is not in the result, by its name there, with the reason or else `otherwise`."""
    sources = [checkpoint.source(parameter.name) for parameter in checkpoint.parameters()]
    used = {(file.path, stored) for file, stored in sources}
    ignored: dict[str, str] = {}
    for file in files:
        foreign = file if isinstance(file, ForeignWeights) else None
        ignored |= foreign.ignored if foreign else {}
        for stored in file.entries:
            if (file.path, stored) not in used:
                name = foreign.origin(stored)[0].name if foreign else stored
                ignored[name] = checkpoint.ignored.get(stored, otherwise)
    return ignored


def _notes(opened: Opened, config: EncoderConfig, text: TextTokenizer, found: Source) -> Iterator[str]:
    if opened.convention == GOOGLE and config.hidden_act == "gelu":
        yield GELU_NOTE
    if not config.tie_word_embeddings:
        yield "tie_word_embeddings: false; the decoder is not the embedding table, and is kept"
    yield from text.notes
    if not found.says_how_to_tokenize and kind_of(text.tokenizer) == WORDPIECE:
        yield "tokenizer_config.json: none found; BertTokenizer's defaults apply, which lower-case the text"


@contextmanager
def _naming(places: dict[Path, Path]) -> Iterator[None]:
    """Errors name the user's paths, and not the temporary folder."""
    try:
        yield
    except InputError as error:
        subject = error.subject
        for there, here in places.items():
            subject = subject.replace(str(there), str(here))
        raise InputError(subject, error.faults) from None


@contextmanager
def _naming_tensors(opened: Opened) -> Iterator[None]:
    """Faults of a renamed tensor give its name in the file."""
    try:
        yield
    except InputError as error:
        names = {
            name: file.origin(name)[0].name
            for file in opened.weights
            if isinstance(file, ForeignWeights)
            for name in file.entries
        }
        faults = []
        for fault in error.faults:
            name, colon, rest = fault.partition(":")
            original = names.get(name, name)
            faults.append(fault if original == name else f"{original} (here {name}){colon}{rest}")
        raise InputError(opened.weights[0].path, faults) from None
