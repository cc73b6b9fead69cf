"""What a model's makers put before a text, such as a query, that is to become a vector."""

import re
from collections.abc import Mapping

from yizhi.errors import InputError
from yizhi.runtimes.tokenization import Text

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def find_prompt(known: Mapping[str, str], given: str) -> str:
    """The known prompt of this name, or else the given text itself.

    Raises InputError where it can only be a name, being one word of ASCII letters and digits, and there is none such.
    """
    if given not in known and _NAME.fullmatch(given):
        names = ", ".join(sorted(known)) or "none"
        raise InputError("`prompt`", f"expected a name that the artifact has ({names}) or a text; found {given}")
    return known.get(given, given)


def put_before(prompt: str, text: Text) -> Text:
    """The text with the prompt before it; of a pair, before the first. What is no text is left for others to tell."""
    if isinstance(text, str):
        return prompt + text
    if prompt and isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str):
        return prompt + text[0], text[1]
    return text
