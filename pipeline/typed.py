"""Plain values, as YAML has them, made into dataclasses; whatever does not fit is named by its key.

Owns the checks of keys and types. What a value may be beyond its type, its dataclass knows.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import ParamsError


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of `known`, or nothing if none is near."""
    names = {name.casefold(): name for name in reversed(list(known))}
    near = difflib.get_close_matches(word.casefold(), names, n=1)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def build(kind: Any, value: Any, key: str) -> Any:
    """Turn a plain value into `kind`.

    Parameters
    ----------
    kind : type
        A dataclass, or what one's fields are annotated with: text, numbers, truth values, ``Literal``,
        ``X | None``, ``dict[str, X]``, ``tuple[X, ...]`` (a list) and ``Any``.
    value : object
        What YAML read.
    key : str
        Where it stands, dotted; empty for the whole file.

    Raises
    ------
    ParamsError
        An unknown key, a missing one, or a wrong type; the message begins with the key.
    """
    if dataclasses.is_dataclass(kind):
        return _build_section(typing.cast("type[Any]", kind), value, key)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            expected = ", ".join(str(argument) for argument in arguments)
            raise ParamsError(
                f"{key}: expected one of {expected}, found {value!r}.{did_you_mean(str(value), arguments)}"
            )
        return value
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else build(arguments[0], value, key)
    if origin is tuple:  # only `tuple[X, ...]` is used
        if not isinstance(value, list):
            raise ParamsError(f"{key}: expected a list, found {_described(value)}.")
        return tuple(build(arguments[0], item, f"{key}[{place}]") for place, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ParamsError(f"{key}: expected a mapping, found {_described(value)}.")
        for name in value:
            if not isinstance(name, str):
                raise ParamsError(f"{key}: expected names as keys, found {name!r}.")
        return {name: build(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if kind is Any:
        return value
    words, fits = _SCALARS[kind]
    if not fits(value):
        raise ParamsError(f"{key}: expected {words}, found {_described(value)}.")
    return kind(value)


def _build_section(kind: type[Any], value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise ParamsError(f"{key or 'the file'}: expected a mapping, found {_described(value)}.")
    hints = get_type_hints(kind)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise ParamsError(
                f"{prefix}{name}: unknown key. Known here: {', '.join(hints)}."
                f"{did_you_mean(str(name), hints)}"
            )
    for item in dataclasses.fields(kind):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in value:
            raise ParamsError(f"{prefix}{item.name}: missing.")
    return kind(**{name: build(hints[name], item, prefix + name) for name, item in value.items()})


_SCALARS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: (
        "a number",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300,
    ),
    str: ("text", lambda value: isinstance(value, str) and value != ""),
}


def _described(value: Any) -> str:
    return "nothing" if value is None else repr(value)
