"""Prompts: texts that a model's authors put before a text, such as a query, that becomes a vector."""

import re

from yizhi.runtimes.base import Runtime
from yizhi.runtimes.tokenization import Text

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def find_prompt(runtime: Runtime, given: str | None, faults: list[str]) -> str:
    """The artifact's prompt of this name, or the given text itself; "" if None.

    One word of ASCII letters and digits can only be a name. If the artifact has no such name, a fault is noted.
    """
    if given is None:
        return ""
    known = runtime.prompts
    if given not in known and _NAME.fullmatch(given):
        names = ", ".join(sorted(known)) or "none"
        faults.append(f"`prompt`: expected a name that the artifact has ({names}) or a text; found {given}")
    return known.get(given, given)


def put_before(prompt: str, text: Text) -> Text:
    """The text, or the first text of a pair, with the prompt before it. Other values are unchanged."""
    if isinstance(text, str):
        return prompt + text
    if prompt and isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str):
        return prompt + text[0], text[1]
    return text
