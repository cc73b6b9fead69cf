"""What sentence-transformers does with a folder: which pooling, after how many tokens of a text."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import InputError, show
from yizhi.model.spec import POOLINGS, Pooling
from yizhi.reading.folder_files import is_ignored
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.storage.json_files import read_json_object

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# The first that is there counts, as in sentence-transformers' Transformer.load.
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Ways of pooling by the keys that releases before 6 write.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


# Of the Transformer's settings, those that are read, or that change no answer. `model_args` says which file is loaded.
_SETTINGS_THAT_MAY_DIFFER = (
    *("max_seq_length", "do_lower_case", "model_args", "model_kwargs", "transformer_task", "modality_config"),
    *("module_output_name", "unpad_inputs", "track_media_counts"),
)


@dataclass(frozen=True)
class SentenceSettings:
    """pooling: what a text's vector is. max_length: the most tokens of a text; None if the folder does not say.

    files: what was read, below the folder. notes: what the user should know.
    """

    pooling: Pooling
    max_length: int | None
    files: tuple[str, ...]
    notes: tuple[str, ...]


def read_sentence_settings(
    folder: Path, text: TextTokenizer | None, ignored: Collection[str] = ()
) -> SentenceSettings | None:
    """What `modules.json` and the files it names say; None where there is none, or it is to be ignored.

    Raises InputError, naming each, for modules and settings that are not computed here: another module than
    Transformer, Pooling and Normalize, in this order; other ways of pooling, or several joined; a default prompt.
    """
    if not (folder / MODULES).exists() or is_ignored(MODULES, ignored):
        return None
    modules = _read_modules(folder / MODULES)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        found = f"{', '.join(others)} is not computed here" if others else f"found {', '.join(kinds) or 'none'}"
        raise InputError(folder, f"{MODULES}: expected Transformer, Pooling and perhaps Normalize; {found}")
    faults: list[str] = []
    if modules[0][1] not in ("", "."):
        faults.append(f"{MODULES}: the Transformer lies in {show(modules[0][1])}: export that folder, with `pooling`")
    pooling_file = Path(modules[1][1]) / "config.json"
    mode = _read_mode(folder, pooling_file, faults)
    settings_file = next((name for name in SETTINGS if (folder / name).exists()), None)
    settings = read_json_object(folder / settings_file) if settings_file else {}
    length = settings.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        faults.append(f"{settings_file}: max_seq_length: expected a number of tokens; found {show(length)}")
    if settings.get("do_lower_case") and text and not lower_cases(text):
        faults.append(
            f"{settings_file}: do_lower_case: sentence-transformers lower-cases the text; the tokenizer does not. Set "
            "do_lower_case in tokenizer_config.json instead"
        )
    faults += [
        f"{settings_file}: {key}: not computed here; found {show(value)}"
        for key, value in settings.items()
        if key not in _SETTINGS_THAT_MAY_DIFFER and value not in (None, {}, False)
    ]
    prompts = read_json_object(folder / PROMPTS) if (folder / PROMPTS).exists() else {}
    notes = _check_prompts(prompts, faults) if not is_ignored(PROMPTS, ignored) else []
    if faults:
        raise InputError(folder, faults)
    read = [MODULES, pooling_file.as_posix(), *([settings_file] if settings_file else [])]
    return SentenceSettings(
        Pooling(mode, normalize="Normalize" in kinds),
        length,
        (*read, *([PROMPTS] if prompts else [])),
        tuple(notes),
    )


def lower_cases(text: TextTokenizer) -> bool:
    """Whether a tokenizer gives upper-case letters the ids of lower-case ones."""
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
        if not isinstance(kind, str) or not isinstance(where, str) or ".." in Path(where).parts or where[:1] == "/":
            raise InputError(path.parent, f"{MODULES}: expected a list of modules; found {show(module)}")
        library, _, name = kind.rpartition(".")
        # The library's own modules, by whatever path its releases write; another's keep their whole name.
        found.append((name if library.partition(".")[0] == "sentence_transformers" else kind, where))
    return found


def _read_mode(folder: Path, name: Path, faults: list[str]) -> str:
    try:
        config: dict[str, Any] = read_json_object(folder / name)
    except InputError as error:
        faults += [f"{name.as_posix()}: {fault}" for fault in error.faults]
        return POOLINGS[0]
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _MODES.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list | tuple) or len(modes) != 1 or modes[0] not in POOLINGS:
        faults.append(f"{name.as_posix()}: pooling: expected one of {', '.join(POOLINGS)}; found {show(modes)}")
        return POOLINGS[0]
    if config.get("include_prompt") is False:
        faults.append(f"{name.as_posix()}: include_prompt: false is not computed here")
    return str(modes[0])


def _check_prompts(config: dict[str, Any], faults: list[str]) -> list[str]:
    """Refuse a prompt that is put before every text; return what to know of the others."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict):
        faults.append(f"{PROMPTS}: prompts: expected an object; found {show(prompts)}")
        return []
    if default is not None and prompts.get(default):
        faults.append(
            f"{PROMPTS}: default_prompt_name: sentence-transformers puts {show(prompts[default])} before every text, "
            "which is not done here: pass over it with `ignored_files`, and put it there yourself"
        )
    if config.get("truncate_dim") is not None:
        faults.append(f"{PROMPTS}: truncate_dim: not computed here; found {show(config['truncate_dim'])}")
    named = [name for name, prompt in prompts.items() if prompt]
    return [f"{PROMPTS}: prompts are the caller's to put before a text: {', '.join(map(str, named))}"] if named else []
