"""The faults made in an artifact's own tokenizer files and labels: no tensor shows them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yizhi.model.spec import Layer
from yizhi.reading.tokenizer_sources import SETTINGS, TOKENIZER, VOCAB


def swap_tokens(folder: Path, layer: Layer) -> None:
    """Two common characters change places, in both files that hold the vocabulary."""
    first, one, second, other = _swap_lines(folder / VOCAB)

    def swap(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["vocab"] |= {first: other, second: one}

    _edit(folder / TOKENIZER, swap)


def swap_tokens_of_old_loaders(folder: Path, layer: Layer) -> None:
    """The same in `vocab.txt` alone, which only slow tokenizers read."""
    _swap_lines(folder / VOCAB)


def flip_lower_casing(folder: Path, layer: Layer) -> None:
    """Upper case is kept where it was lowered, or the reverse."""

    def flip(settings: dict[str, Any]) -> None:
        settings["do_lower_case"] = not settings["do_lower_case"]

    def flip_normalizer(tokenizer: dict[str, Any]) -> None:
        tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]

    _edit(folder / SETTINGS, flip)
    _edit(folder / TOKENIZER, flip_normalizer)


def rotate_labels(folder: Path, layer: Layer) -> None:
    """Each label under the next one's number, in `config.json`."""

    def rotate(config: dict[str, Any]) -> None:
        names = [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
        config["id2label"] = {str(number): names[number - 1] for number in range(len(names))}

    _edit(folder / "config.json", rotate)


def _swap_lines(path: Path) -> tuple[str, int, str, int]:
    """Swap the first two Chinese characters of a vocabulary: each, and where it stood."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first, second = [line for line in lines if "\u4e00" <= line <= "\u9fff"][:2]
    one, other = lines.index(first), lines.index(second)
    lines[one], lines[other] = second, first
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return first, one, second, other


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
