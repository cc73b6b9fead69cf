"""Dataclasses to the plain values of JSON and back, each value checked against its field's annotation."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from yizhi.errors import InputError, show

T = TypeVar("T")

# A field's metadata: where its value is None or (), its key is left out.
LEFT_OUT = {"left_out": True}
_SCALARS = (str, int, float, bool, type(None))


def to_plain(value: object) -> Any:
    """Values for JSON: dictionaries, lists, strings, numbers. A float that is not finite becomes None."""
    if is_dataclass(value):
        return {
            field.name: to_plain(item)
            for field in fields(value)
            if (item := getattr(value, field.name)) not in (None, ()) or "left_out" not in field.metadata
        }
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def from_plain(form: type[T], value: object) -> T:
    """The inverse of `to_plain`. A float that is None becomes infinite.

    Raises InputError, listing every fault: a wrong type, or a missing or unknown key.
    """
    faults: list[str] = []
    read: T = _read(form, value, "", faults)
    if faults:
        raise InputError(getattr(form, "__name__", form), faults)
    return read


def _read(form: Any, value: object, where: str, faults: list[str]) -> Any:
    kind, inside = get_origin(form) or form, get_args(form)
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value, where, faults)
    if kind in (Union, types.UnionType):
        return _read_one_of(inside, value, where, faults)
    if kind in (list, tuple, Sequence) and isinstance(value, list):
        items = [_read(inside[0], item, f"{where}[{index}]", faults) for index, item in enumerate(value)]
        return tuple(items) if kind is tuple else items
    if kind in (dict, Mapping) and isinstance(value, dict):
        return {key: _read(inside[1], item, f"{where}.{key}", faults) for key, item in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, type(None)):
        return math.inf if value is None else float(value)  # type: ignore[arg-type]
    if isinstance(kind, TypeVar) or kind is Any or (kind in _SCALARS and type(value) is kind):
        return value
    faults.append(f"{where.lstrip('.')}: expected {getattr(form, '__name__', form)}; found {show(value)}")
    return None


def _read_fields(form: Any, value: dict[str, Any], where: str, faults: list[str]) -> Any:
    hints, known = get_type_hints(form), {field.name: field for field in fields(form)}
    mine = [f"{where}.{key}: unknown".lstrip(".") for key in value.keys() - known.keys()]
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            mine.append(f"{where}.{name}: missing".lstrip("."))
    read = {name: _read(hints[name], value[name], f"{where}.{name}", mine) for name in known if name in value}
    faults += mine
    return None if mine else form(**read)


def _read_one_of(forms: Sequence[Any], value: object, where: str, faults: list[str]) -> Any:
    if value is None and type(None) in forms:
        return None
    for form in (form for form in forms if form is not type(None)):
        mine: list[str] = []
        read = _read(form, value, where, mine)
        if not mine:
            return read
    # Of several forms, the last one's faults: most are one form or none.
    faults += mine
    return None
