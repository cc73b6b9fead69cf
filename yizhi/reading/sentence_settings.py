"""A folder's settings of sentence-transformers: how a text's vector is made, and from how many tokens."""

import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yizhi.errors import InputError, show
from yizhi.model.spec import SPLADE, VECTOR_POOLINGS, Dense, Pooling
from yizhi.reading.folder_files import is_ignored
from yizhi.reading.sentence_dense import PICKLE, keeps_first_numbers, read_dense
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.weight_files import WEIGHTS
from yizhi.storage.json_files import read_json_object

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# The first that is there counts, as in sentence-transformers' Transformer.load.
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Our names of ways of pooling by the keys that releases before 6 write.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
# The library's own names by these keys, and ours of those that are computed here.
_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_OURS = {_OLD_KEYS[key]: mode for key, mode in MODES.items()}
_MASKED_LM, _SPLADE_POOLING = ("Transformer", "MLMTransformer"), "SpladePooling"
# Of a module's folder, in characters: in UTF-8, one name of a file system.
_LONGEST_PATH = 80
_KNOWN = (*_MASKED_LM, "Pooling", "Dense", "Normalize", _SPLADE_POOLING)

# Of the Transformer's settings, those that are read, or that change no answer. `model_args` says which file is loaded.
_SETTINGS_THAT_MAY_DIFFER = (
    *("max_seq_length", "do_lower_case", "model_args", "model_kwargs", "transformer_task", "modality_config"),
    *("module_output_name", "unpad_inputs", "track_media_counts"),
)


@dataclass(frozen=True)
class SentenceSettings:
    """pooling: of a text's vector. max_length: the most tokens of a text; None if the folder does not say.

    prompts: name -> text that a caller may put before each text. dense_weights: the file of each Dense module, in
    order. dense_pickles: the folders of Dense modules whose weights are a pickle alone. files: the paths that were
    read, below the folder. notes: lines for the user.
    """

    pooling: Pooling
    max_length: int | None
    prompts: Mapping[str, str]
    dense_weights: tuple[str, ...]
    dense_pickles: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def copy(self, source: Path, target: Path) -> None:
        """Copy all of it, with the weights of Dense modules, from one folder to another."""
        for name in (*self.files, *self.dense_weights):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def read_sentence_settings(
    folder: Path, text: TextTokenizer | None, ignored: Collection[str] = ()
) -> SentenceSettings | None:
    """The settings of `modules.json` and of the files that it names; None if there is none, or if it is ignored.

    Raises InputError for modules and settings that are not computed here, and names each: other modules than
    Transformer, Pooling, Dense and Normalize, in this order, or Transformer and SpladePooling; other ways of pooling,
    or several joined; a default prompt.
    """
    if not (folder / MODULES).exists() or is_ignored(MODULES, ignored):
        return None
    modules = _read_modules(folder / MODULES)
    _check_order(folder, [kind for kind, _ in modules])
    faults: list[str] = []
    if modules[0][1] not in ("", "."):
        faults.append(f"{MODULES}: the Transformer lies in {show(modules[0][1])}: export that folder, with `pooling`")
    pooling_file = (Path(modules[1][1]) / "config.json").as_posix()
    settings_file = next((name for name in SETTINGS if (folder / name).exists()), None)
    settings = read_json_object(folder / settings_file) if settings_file else {}
    faults += _check_settings(settings, settings_file, text)
    prompts = read_json_object(folder / PROMPTS) if (folder / PROMPTS).exists() else {}
    prompts = {} if is_ignored(PROMPTS, ignored) else prompts
    named, notes = _check_prompts(prompts, faults)
    dense_files: list[str] = []
    kept: list[str] = []
    if modules[1][0] == _SPLADE_POOLING:
        pooling = _read_splade(folder, pooling_file, faults)
    else:
        pooling, dense_files, kept = _read_pooling(folder, modules, pooling_file, prompts.get("truncate_dim"), faults)
    if faults:
        raise InputError(folder, faults)
    read = [MODULES, pooling_file, *dense_files, *([settings_file] if settings_file else [])]
    files = (*read, *([PROMPTS] if prompts else []))
    places = [Path(place) for kind, place in modules if kind == "Dense"]
    pickles = [
        place.as_posix()
        for place in places
        if (folder / place / PICKLE).exists() and not (folder / place / WEIGHTS).exists()
    ]
    length = settings.get("max_seq_length")
    return SentenceSettings(pooling, length, named, tuple(kept), tuple(pickles), files, tuple(notes))


def read_prompts(folder: Path) -> dict[str, str]:
    """Prompt name -> text to put before each text; empty if the folder has no prompts. Raises InputError."""
    if not (folder / PROMPTS).exists():
        return {}
    faults: list[str] = []
    prompts, _ = _check_prompts(read_json_object(folder / PROMPTS), faults)
    if faults:
        raise InputError(folder, faults)
    return prompts


def compare_pooling(own: Pooling, asked: Pooling) -> Iterator[str]:
    """A note if artifacts give another vector than the folder's, apart from its dimensions; else none."""
    dropped = [f"{len(own.dense)} Dense"] if own.dense and not asked.dense else []
    dropped += [f"dimensions {own.dimensions}"] if own.dimensions and not asked.dimensions else []
    dropped += ["normalization"] if own.normalize and not asked.normalize else []
    if dropped or replace(asked, dimensions=own.dimensions) != own:
        drops = f". This drops {' and '.join(dropped)}, which {MODULES} has" if dropped else ""
        yield f"{MODULES}: sentence-transformers gives {own}; artifacts give {asked}, as asked{drops}"


def lower_cases(text: TextTokenizer) -> bool:
    """Whether a tokenizer gives upper-case letters the ids of lower-case letters."""
    normalizer = text.tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("ÀBC") in ("àbc", "abc")


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """The class and the folder of each module, in order. Raises InputError."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path.parent, f"{MODULES}: cannot be read: {error}") from None
    found = []
    for module in modules if isinstance(modules, list) else [modules]:
        kind, where = (module.get(key) for key in ("type", "path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(where, str) or not _is_below(where):
            raise InputError(path.parent, f"{MODULES}: expected a list of modules; found {show(module)}")
        library, _, name = kind.rpartition(".")
        # The library's own modules, by whatever path its releases write; another's keep their whole name.
        found.append((name if library.partition(".")[0] == "sentence_transformers" else kind, where))
    return found


def _is_below(where: str) -> bool:
    """Whether a path can only be one inside the folder, and one that a file system has."""
    return ".." not in Path(where).parts and where[:1] != "/" and "\0" not in where and len(where) <= _LONGEST_PATH


def _check_order(folder: Path, kinds: Sequence[str]) -> None:
    if len(kinds) == 2 and kinds[0] in _MASKED_LM and kinds[1] == _SPLADE_POOLING:
        return
    if re.fullmatch("Transformer Pooling( Dense)*( Normalize)?", " ".join(kinds)):
        return
    others = [kind for kind in kinds if kind not in _KNOWN]
    found = f"{', '.join(others)} is not computed here" if others else f"found {', '.join(kinds) or 'none'}"
    expected = "Transformer, Pooling and perhaps Dense and Normalize, or Transformer and SpladePooling"
    raise InputError(folder, f"{MODULES}: expected {expected}; {found}")


def _check_settings(settings: dict[str, Any], name: str | None, text: TextTokenizer | None) -> Iterator[str]:
    length = settings.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        yield f"{name}: max_seq_length: expected a number of tokens; found {show(length)}"
    if settings.get("do_lower_case") and text and not lower_cases(text):
        yield (
            f"{name}: do_lower_case: sentence-transformers lower-cases the text; the tokenizer does not. Set "
            "do_lower_case in tokenizer_config.json instead"
        )
    for key, value in settings.items():
        if key not in _SETTINGS_THAT_MAY_DIFFER and value not in (None, {}, False):
            yield f"{name}: {key}: not computed here; found {show(value)}"


def _read_pooling(
    folder: Path, modules: Sequence[tuple[str, str]], name: str, truncate_dim: object, faults: list[str]
) -> tuple[Pooling, list[str], list[str]]:
    """What Pooling and the modules after it do, the files that their Dense modules were read from, and the weights."""
    mode = _read_mode(folder, name, faults)
    layers: list[Dense] = []
    files: list[str] = []
    kept: list[str] = []
    dimensions: int | None = None
    for place in (place for kind, place in modules if kind == "Dense"):
        dense = read_dense(folder, place, len(layers), faults)
        weights = Path(place) / WEIGHTS
        files += [(Path(place) / "config.json").as_posix()]
        files += [weights.as_posix()] if (folder / weights).exists() else []
        if dimensions is not None:
            faults.append(f"{MODULES}: a Dense module after one that keeps the first numbers is not computed here")
        elif dense and keeps_first_numbers(folder / weights, dense):
            dimensions = dense.linear.outputs
        elif dense:
            layers.append(dense)
            kept += [weights.as_posix()] if (folder / weights).exists() else []
    normalizes = modules[-1][0] == "Normalize"
    if truncate_dim is not None:
        dimensions = _read_truncation(truncate_dim, normalizes or dimensions is not None, faults)
    return Pooling(mode, normalizes, dimensions, tuple(layers)), files, kept


def _read_truncation(found: object, refused: bool, faults: list[str]) -> int | None:
    """sentence-transformers cuts a vector last of all."""
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        faults.append(f"{PROMPTS}: truncate_dim: expected a number of dimensions; found {show(found)}")
    elif refused:
        faults.append(
            f"{PROMPTS}: truncate_dim: sentence-transformers cuts the vector after Normalize, so its norm is not 1. "
            "That is not computed here. Remove the key, and export with `dimensions`, which cuts before Normalize"
        )
    else:
        return found
    return None


def _read_splade(folder: Path, name: str, faults: list[str]) -> Pooling:
    expected = {"pooling_strategy": "max", "activation_function": "relu"}  # the library's defaults
    try:
        config = read_json_object(folder / name)
    except InputError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
        config = {}
    faults += [
        f"{name}: {key}: expected {show(value)}; found {show(config[key])}"
        for key, value in expected.items()
        if config.get(key, value) != value
    ]
    return Pooling(SPLADE)


def _read_mode(folder: Path, name: str, faults: list[str]) -> str:
    try:
        config: dict[str, Any] = read_json_object(folder / name)
    except InputError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
        return VECTOR_POOLINGS[0]
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_KEYS.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in list(_OURS):
        names = ", ".join(
            theirs if theirs == ours else f"{theirs} (`pooling` {ours})" for theirs, ours in _OURS.items()
        )
        faults.append(f"{name}: pooling: expected one of {names}; found {show(modes)}")
        return VECTOR_POOLINGS[0]
    if config.get("include_prompt") is False:
        faults.append(f"{name}: include_prompt: false is not computed here")
    return _OURS[modes[0]]


def _check_prompts(config: dict[str, Any], faults: list[str]) -> tuple[dict[str, str], list[str]]:
    """The prompts, and what to know of them; refuse one that is put before every text."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        faults.append(f"{PROMPTS}: prompts: expected an object of texts; found {show(prompts)}")
        return {}, []
    if not isinstance(default, str | None):
        faults.append(f"{PROMPTS}: default_prompt_name: expected the name of a prompt; found {show(default)}")
    elif default is not None and prompts.get(default):
        faults.append(
            f"{PROMPTS}: default_prompt_name: sentence-transformers puts {show(prompts[default])} before every text; "
            "artifacts do not. Ignore the file with `ignored_files`, and put the prompt before each text yourself"
        )
    named = {name: prompt for name, prompt in prompts.items() if prompt}
    notes = [f"{PROMPTS}: the caller puts a prompt before each text: {', '.join(named)}"] if named else []
    return named, notes
