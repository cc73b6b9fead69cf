"""Licence, languages and base model of a checkpoint, from its own documents. Nothing is guessed.

`README.md` is a model card where it begins with a YAML header (https://huggingface.co/docs/hub/model-cards). Of
that header the scalars and lists of a few keys are read here, and only in the form that the hub gives them.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

CARD = "README.md"
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
LONGEST = 1 << 20
# The forms of the hub's own identifiers; whatever has another form is not taken over.
_FORMS = {
    "license": re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}"),
    "language": re.compile(r"[a-z]{2,3}"),
    "base_model": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,95})?"),
}
# sha256 of a licence's words in lower case, a space between two: from its first words to its last.
_TEXTS = {
    "apache-2.0": (
        "apache license version 2.0",
        "end of terms and conditions",
        "95cef6332b35354c12f9d666ab9ff47002e6f7ef937924896882b2e0cdb7a0d6",
    ),
    "mit": (
        "permission is hereby granted",
        "dealings in the software.",
        "56959050891f7b737ac4e803051170c7197f02df73d80bd9a78d968e305bf558",
    ),
}
# What may stand around it: Apache's page on how to apply it, with a copyright line; MIT's name and a copyright line.
_AROUND = {
    "apache-2.0": (
        r"",
        r"( appendix: how to apply the apache license to your work\. .{1,1300} limitations under the license\.)?",
    ),
    "mit": (r"((the )?mit license( \(mit\))? )?(copyright .{1,120} )?", r""),
}


@dataclass(frozen=True)
class SourceCard:
    """The facts of the source's card; None or empty if it has none that can be used.

    licence: the hub's identifier, in lower case. base_model: a hub id. languages: ISO 639 codes.
    notes: why a fact was not used.
    """

    licence: str | None = None
    base_model: str | None = None
    languages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_source_card(folder: Path) -> SourceCard:
    """Read the header of `README.md` and the text of `LICENSE`. Two licences that differ are no licence."""
    header = _read_header(folder / CARD)
    licences = _values(header, "license")
    told = licences[0].lower() if len(licences) == 1 else None
    notes = []
    if told is not None and (told == "unknown" or not _FORMS["license"].fullmatch(told)):
        told = None
    texts = {found for name in LICENCE_FILES if (found := recognise_licence(_read_text(folder / name)))}
    if told and texts and texts != {told}:
        notes.append(
            f"{CARD} says license {told}, and the licence file is {', '.join(sorted(texts))}: it counts as unknown"
        )
        told, texts = None, set()
    base_models = [name for name in _values(header, "base_model") if _FORMS["base_model"].fullmatch(name)]
    return SourceCard(
        told or (texts.pop() if len(texts) == 1 else None),
        base_models[0] if len(base_models) == 1 else None,
        tuple(name for name in _values(header, "language") if _FORMS["language"].fullmatch(name)),
        tuple(notes),
    )


def recognise_licence(text: str) -> str | None:
    """`apache-2.0` or `mit` where the text is that licence, word for word; else None."""
    words = " ".join(text.lower().split())
    for name, (first, last, expected) in _TEXTS.items():
        start, end = words.find(first), words.find(last)
        if start < 0 or end < 0:
            continue
        whole = words[start : end + len(last)]
        around = zip(_AROUND[name], (words[:start], words[end + len(last) :]), strict=True)
        same = hashlib.sha256(whole.encode()).hexdigest() == expected
        if same and all(re.fullmatch(pattern, text) for pattern, text in around):
            return name
    return None


def carry_source_card(source: Path, out: Path) -> None:
    """Copy a folder's card and licence to an imported checkpoint, so that they are not lost on the way."""
    for name in (CARD, *LICENCE_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _read_text(path: Path) -> str:
    """A document's text; empty where there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LONGEST:
            return ""
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _read_header(path: Path) -> list[str]:
    lines = [line.rstrip() for line in _read_text(path).split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return []
    return lines[1 : lines.index("---", 1)]


def _values(header: list[str], key: str) -> list[str]:
    """A key's scalar, `[inline, list]` or list of `- items`; empty where it is missing, doubled or of another form."""
    found = [index for index, line in enumerate(header) if re.match(rf"{key}\s*:", line)]
    if len(found) != 1:
        return []
    rest = _plain(header[found[0]].partition(":")[2])
    if rest.startswith("[") and rest.endswith("]"):
        return [_plain(item) for item in rest[1:-1].split(",")]
    if rest:
        return [rest]
    items = []
    for line in header[found[0] + 1 :]:
        if not (item := re.fullmatch(r"\s*-\s+(.+)", line)):
            break
        items.append(_plain(item[1]))
    return items


def _plain(text: str) -> str:
    """A scalar without its comment and its quotes."""
    text = re.sub(r"(^|\s)#.*", "", text).strip()
    return text[1:-1] if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0] else text
