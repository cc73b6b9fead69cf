"""The catalogue of known checkpoints.

The facts are in `catalogue.toml`. Parameters and sizes follow from its shapes. A team adds its own checkpoints in a
file of the same form, named by the environment variable YIZHI_CATALOGUE.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from yizhi.catalogue.own import find_own_catalogue
from yizhi.errors import InputError, collect_faults, printable
from yizhi.model.architectures import full_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import POOLINGS, EncoderSpec, Pooling

CATALOGUE = Path(__file__).with_name("catalogue.toml")
HEADS = ("trained", "random", "corrector", "absent", "unknown")
_LICENCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
# What a file's name must look like for its hash to say whose weights these are. A config.json is often shared.
_WEIGHT_FILES = (".safetensors", ".bin", ".h5", ".msgpack", ".index")


@dataclass(frozen=True)
class Claim:
    """A statement, and its source. `source` is None if nothing is claimed."""

    text: str
    source: str | None


@dataclass(frozen=True)
class KnownFile:
    """A published file. size: in bytes, or None if only the hash is known."""

    name: str
    sha256: str
    size: int | None
    source: str | None


@dataclass(frozen=True)
class KnownEmbedding:
    """How a checkpoint's authors make a text's vector. prompt: their text before a query; None without one."""

    pooling: Pooling
    prompt: str | None
    source: str | None

    def describe(self) -> str:
        """On one line."""
        scaled = ", L2 norm 1" if self.pooling.normalize else ""
        return f"{self.pooling.mode}{scaled}" + (f"; before a query: {self.prompt}" if self.prompt else "")


@dataclass(frozen=True)
class KnownCheckpoint:
    """One entry of the catalogue.

    hub: its ids on the hub. spec: the contents of a full file of its shape; None if the shape is not recorded.
    head: the state of its masked-language-model head: trained, random, corrector, absent or unknown.
    embedding: how its authors pool; None if it was not made for vectors, or if that is not recorded.
    tensors: a file of CRC32C and Google name per line (see `identify.py`), or None.
    """

    name: str
    hub: tuple[str, ...]
    spec: EncoderSpec | None
    shape: Claim
    licence: Claim
    head: Claim
    choose: Claim
    embedding: KnownEmbedding | None
    files: tuple[KnownFile, ...]
    tensors: Path | None
    tensors_source: str | None

    @property
    def licence_id(self) -> str | None:
        """The hub's identifier of the licence, such as apache-2.0. None if the catalogue has a sentence instead."""
        return self.licence.text.lower() if _LICENCE_ID.fullmatch(self.licence.text) else None

    @property
    def parameters(self) -> int | None:
        """How many numbers the encoder and its head have. Shared ones count once."""
        return sum(math.prod(parameter.shape) for parameter in self.spec.parameters()) if self.spec else None

    @property
    def size(self) -> int | None:
        """Bytes as float32."""
        return 4 * self.parameters if self.parameters else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: every claim beside its source."""
        config = self.spec.config if self.spec else None
        return {
            "name": self.name,
            "hub": list(self.hub),
            "family": config and config.model_type,
            "task": self.spec and self.spec.task,
            "parameters": self.parameters,
            "size_float32": self.size,
            "layers": config and config.depth,
            "hidden_size": config and config.hidden_size,
            "embedding_size": config and config.embedding_size,
            "vocab_size": config and config.vocab_size,
            "hidden_act": config and config.hidden_act,
            "shape_source": self.shape.source,
            **{key: vars(getattr(self, key)) for key in ("licence", "head", "choose")},
            "embedding": self.embedding and asdict(self.embedding),
            "files": [vars(file) for file in self.files],
            "tensors_source": self.tensors_source,
        }


def read_catalogue() -> Mapping[str, KnownCheckpoint]:
    """Every known checkpoint by name. A team's own come last, and may replace others. Raises InputError."""
    own = find_own_catalogue()
    return {**_read(CATALOGUE), **(_read(own) if own else {})}


def find_known(name: str) -> KnownCheckpoint:
    """The entry of this name or hub id. Raises InputError with the nearest names if there is none."""
    known = read_catalogue()
    for entry in known.values():
        if name in (entry.name, *entry.hub):
            return entry
    names = {each.lower(): each for entry in known.values() for each in (entry.name, *entry.hub)}
    close = [names[each] for each in difflib.get_close_matches(name.lower(), names, n=3)]
    proposed = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(name, f"not in the catalogue: {proposed}`yizhi models` lists what is known")


def find_containing(word: str) -> list[KnownCheckpoint]:
    """Every entry with this word in its name or in a hub id, in any case."""
    return [
        entry
        for entry in read_catalogue().values()
        if any(word.lower() in name.lower() for name in (entry.name, *entry.hub))
    ]


def find_by_files(digest: Mapping[str, str]) -> tuple[KnownCheckpoint, str] | None:
    """The checkpoint that was published with one of these files (name -> sha256), and that file's name."""
    for entry in read_catalogue().values():
        published = {file.sha256: file.name for file in entry.files if _holds_weights(file.name)}
        for name, sha256 in digest.items():
            if sha256 in published:
                return entry, name
    return None


def find_name_by_files(digest: object) -> str | None:
    """Only the name, from an artifact's source files."""
    found = find_by_files(digest) if isinstance(digest, Mapping) else None
    return found[0].name if found else None


def advise_pooling(name: str | None, pooling: Pooling | None) -> str | None:
    """Advice to a user who exports this known checkpoint with this pooling. None if there is no advice."""
    embedding = read_catalogue()[name].embedding if name else None
    if embedding is None or embedding.pooling == pooling:
        return None
    mode, normalize = embedding.pooling.mode, embedding.pooling.normalize
    told = f"known as {name}: its authors pool {mode}{' and normalize' if normalize else ''}"
    told += f": `pooling` {mode}{' `normalize`' if normalize else ''}"
    told += f"; before a query they write: {printable(embedding.prompt)}" if embedding.prompt else ""
    return told + ("; you ask for another pooling" if pooling else "")


def find_by_hub(origin: Mapping[str, str] | None) -> KnownCheckpoint | None:
    """The checkpoint that a download (`origin` of a manifest) names."""
    hub = (origin or {}).get("hub")
    return next((entry for entry in read_catalogue().values() if hub in entry.hub), None) if hub else None


def _holds_weights(name: str) -> bool:
    return name.endswith(_WEIGHT_FILES) or ".data-" in name


@cache
def _read(path: Path) -> Mapping[str, KnownCheckpoint]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, f"is not TOML: {error}") from None
    faults: list[str] = []
    try:
        entries = [collect_faults(faults, partial(_entry, item, raw, path.parent)) for item in raw["checkpoints"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"is not a catalogue: {type(error).__name__}: {error}") from None
    if faults:
        raise InputError(path, faults)
    return {entry.name: entry for entry in entries if entry}


def _entry(item: dict[str, Any], raw: dict[str, Any], folder: Path) -> KnownCheckpoint:
    sources = raw.get("sources", {})

    def source(table: dict[str, Any]) -> str | None:
        """A source is written out, or by its short name."""
        return sources.get(table["source"], table["source"]) if "source" in table else None

    if item["head"]["is"] not in HEADS:
        raise InputError(item["name"], f"head: expected one of {', '.join(HEADS)}; found {item['head']['is']!r}")
    shape, tensors = item.get("shape"), item.get("tensors")
    return KnownCheckpoint(
        name=item["name"],
        hub=tuple(item.get("hub", ())),
        spec=_spec(raw["shapes"], shape, item["name"]) if shape else None,
        shape=Claim(shape["of"], source(shape)) if shape else Claim("not recorded", None),
        licence=Claim(item["licence"]["is"], source(item["licence"])),
        head=Claim(item["head"]["is"], source(item["head"])),
        choose=Claim(item["choose"]["when"], source(item["choose"])),
        embedding=_embedding(item, source),
        files=tuple(
            KnownFile(file["name"], file["sha256"], file.get("size"), source(file)) for file in item.get("files", ())
        ),
        tensors=folder / tensors["list"] if tensors else None,
        tensors_source=source(tensors) if tensors else None,
    )


def _embedding(item: dict[str, Any], source: Callable[[dict[str, Any]], str | None]) -> KnownEmbedding | None:
    table = item.get("embedding")
    if table is None:
        return None
    if table["pooling"] not in POOLINGS:
        raise InputError(
            item["name"], f"embedding: pooling: expected one of {', '.join(POOLINGS)}; found {table['pooling']!r}"
        )
    return KnownEmbedding(Pooling(table["pooling"], table["normalize"]), table.get("prompt"), source(table))


def _spec(shapes: dict[str, Any], shape: dict[str, Any], name: str) -> EncoderSpec:
    said = {**shapes["common"], **shapes[shape["of"]], **shape.get("change", {})}
    return full_spec(EncoderConfig.from_dict(said, f"{name}: shape"))
