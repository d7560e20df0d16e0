"""Misspelled keyword arguments: the error names the parameter that was probably meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any, TypeVar

_T = TypeVar("_T")


def suggests_keywords(thing: _T) -> _T:
    """Makes a function, or all methods of a class that have keyword-only parameters, name the parameter that was meant.

    Python itself names only very similar ones, from 3.13 on: for `model_name` it does not name `model`.

    Args:
        thing: the function, which is wrapped, or the class, whose methods are.
    """
    if isinstance(thing, type):
        for name, member in list(vars(thing).items()):
            if isinstance(member, FunctionType) and member.__code__.co_kwonlyargcount:
                setattr(thing, name, _wrapped(member))
        return thing
    wrapped: _T = _wrapped(thing)
    return wrapped


def _wrapped(function: Any) -> Any:
    if inspect.iscoroutinefunction(function):  # remains one, for those who ask

        @functools.wraps(function)
        async def call_async(*args: Any, **keywords: Any) -> Any:
            return await _called(function, args, keywords)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        return _called(function, args, keywords)

    return call


def _called(function: FunctionType, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    try:
        return function(*args, **keywords)
    except TypeError as exc:
        in_the_call = exc.__traceback__ is not None and exc.__traceback__.tb_next is None  # not in the function's body
        unknown = next((name for name in keywords if name not in _parameters(function)), None)
        if in_the_call and unknown is not None:
            exc.args = (_text(function, unknown),)
        raise


def _parameters(function: FunctionType) -> tuple[str, ...]:
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _text(function: FunctionType, unknown: str) -> str:
    import difflib  # slow to import, and rarely needed

    known = [name for name in _parameters(function) if name != "self"]
    similar = difflib.get_close_matches(unknown, known, n=1)
    advice = f"did you mean {similar[0]!r}?" if similar else f"it takes {', '.join(known)}"
    return f"{function.__qualname__}() got an unexpected keyword argument {unknown!r}; {advice}"
