"""Misspelled keyword arguments: the error names the parameter that was probably meant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, TypeVar

_T = TypeVar("_T")
Elsewhere = Callable[[str], "str | None"]

# Names of one thing, of which each function has one.
_SYNONYMS = ({"address", "addresses", "host", "server", "url", "urls"},)


def suggests_keywords(thing: _T, elsewhere: Elsewhere = lambda name: None) -> _T:
    """Makes a function, or the constructor of a class, name the parameter that was meant.

    Python itself names only very similar ones, from 3.13 on: for `model_name` it does not name `model`. The methods of
    a client stay as they are: a caller makes a client once, and calls `embed` all day.

    Args:
        thing: the function, which is wrapped, or the class, whose constructor is.
        elsewhere: a function that returns what to write in place of a keyword that is given in another argument; None
            for any other keyword.
    """
    if isinstance(thing, type):
        thing.__init__ = _wrapped(thing.__init__, elsewhere)  # type: ignore[misc]
        return thing
    wrapped: _T = _wrapped(thing, elsewhere)
    return wrapped


def _wrapped(function: Any, elsewhere: Elsewhere) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        return _called(function, args, keywords, elsewhere)

    return call


def _called(function: FunctionType, args: Sequence[Any], keywords: Mapping[str, Any], elsewhere: Elsewhere) -> Any:
    try:
        return function(*args, **keywords)
    except TypeError as exc:
        in_the_call = exc.__traceback__ is not None and exc.__traceback__.tb_next is None  # not in the function's body
        unknown = next((name for name in keywords if name not in _parameters(function)), None)
        if in_the_call and unknown is not None:
            exc.args = (_text(function, unknown, elsewhere),)
        raise


def _parameters(function: FunctionType) -> tuple[str, ...]:
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _text(function: FunctionType, unknown: str, elsewhere: Elsewhere) -> str:
    known = [name for name in _parameters(function) if name != "self"]
    meant = _synonym(unknown, known) or elsewhere(unknown) or _similar(unknown, known)
    advice = f"did you mean {meant}?" if meant else f"it takes {', '.join(known)}"
    return f"{function.__qualname__}() got an unexpected keyword argument {unknown!r}; {advice}"


def _synonym(unknown: str, known: Sequence[str]) -> str | None:
    same = {name for names in _SYNONYMS if unknown in names for name in names}
    return next((repr(name) for name in known if name in same), None)


def _similar(unknown: str, known: Sequence[str]) -> str | None:
    import difflib  # slow to import, and rarely needed

    return next(map(repr, difflib.get_close_matches(unknown, known, n=1)), None)
