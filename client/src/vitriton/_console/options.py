"""The options of a command, written once: as the fields of a dataclass.

A field with a `typer.Option` or a `typer.Argument` is an option of the command, and a field whose type is such a
dataclass adds the options of that:

    width: Annotated[int | None, typer.Option(min=1)] = None

The option's help is the attribute's description in the docstring, unless the option has its own. A last sentence
"None: …" becomes the default in the help, and the `name` of another field becomes its flag:

    width: the width of the widest image that is taken, in pixels. None: any width.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from typer.models import OptionInfo, ParameterInfo

from vitriton._errors import InvalidOption

_Result = TypeVar("_Result")

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
_EMPTY = inspect.Parameter.empty
_FINITE = "it must be a finite number"


def flatten(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Makes a typer command from a function with parameters that are dataclasses.

    If such a parameter has a default, the values of that instance are the options' defaults. The command raises the
    dataclass's errors for invalid values.
    """
    hints = get_type_hints(function, include_extras=True)
    defaults = {name: given.default for name, given in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def command(**values: Any) -> _Result:
        for name, value in values.items():
            if not _is_finite(value):
                raise InvalidOption(name, f"is {value}; {_FINITE}")
        return function(
            **{
                name: _made(hints[name], default, values) if is_dataclass(hints[name]) else values[name]
                for name, default in defaults.items()
            }
        )

    parameters: list[inspect.Parameter] = []
    for name, default in defaults.items():
        is_flat = not is_dataclass(hints[name])
        parameters += [_parameter(name, hints[name], default)] if is_flat else _parameters(hints[name], default)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def faults(options: object) -> Iterator[tuple[str, str]]:
    """Finds values that are not among an option's choices, or not within its bounds.

    Yields:
        The field's name and the fault, such as "is 0; it must be from 1 to 64".
    """
    cls: Any = type(options)
    for name, (hint, info) in _options(cls).items():
        value = getattr(options, name)
        if value is None and type(None) in get_args(hint):
            continue
        choices = next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), None)
        if choices is not None and not set(value if isinstance(value, tuple) else [value]) <= set(choices):
            yield name, f"is {value!r}; choose one of {', '.join(choices)}"
        if not _is_finite(value):
            yield name, f"is {value}; {_FINITE}"
        if info is not None and info.min is not None and not info.min <= value <= _most(info):
            bounds = f"at least {info.min}" if info.max is None else f"from {info.min} to {info.max}"
            yield name, f"is {value}; it must be {bounds}"


def descriptions(cls: type) -> dict[str, str]:
    """Reads the descriptions of attributes in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        attributes = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")[2]
        texts |= {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(attributes)}
    return texts


class _Option(NamedTuple):
    hint: Any
    info: ParameterInfo | None  # None: the field is no option


@functools.cache
def _options(cls: Any) -> dict[str, _Option]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _option(hints[field.name]) for field in fields(cls)}


def _option(annotation: Any) -> _Option:
    hint, *extras = get_args(annotation) if get_origin(annotation) is Annotated else [annotation]
    return _Option(hint, next((extra for extra in extras if isinstance(extra, ParameterInfo)), None))


def _parameters(cls: Any, instance: Any) -> list[inspect.Parameter]:
    options, texts = _options(cls), descriptions(cls)
    flags = {name: _flag(name, option.info) for name, option in options.items()}
    found = []
    own = list(inspect.get_annotations(cls))  # in their order; those of bases last
    for field in sorted(fields(cls), key=lambda field: own.index(field.name) if field.name in own else len(own)):
        hint, info = options[field.name]
        default = _default(field, instance)
        if is_dataclass(hint):
            found += _parameters(hint, default)
        elif info is not None:
            described = _described(info, info.help or texts.get(field.name, ""), flags)
            found.append(_parameter(field.name, Annotated[_readable(hint, info), described], _written(default)))
    return found


def _made(cls: Any, instance: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass with the command line's values."""
    given = {}
    for field in fields(cls):
        hint, info = _options(cls)[field.name]
        default = _default(field, instance)
        if is_dataclass(hint):
            given[field.name] = _made(hint, default, values)
        elif info is not None and (value := values[field.name]) not in (None, _written(default)):
            given[field.name] = value if info.parser is None else info.parser(value)
    return cls(**given) if instance is _EMPTY else replace(instance, **given)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: Field[Any], instance: Any) -> Any:
    if instance is not _EMPTY:
        return getattr(instance, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _EMPTY if field.default is MISSING else field.default


def _readable(hint: Any, info: ParameterInfo) -> Any:
    """The type that typer reads from the command line; text if there is a parser, or for a union with str."""
    if info.parser is not None or (get_origin(hint) in (Union, types.UnionType) and str in get_args(hint)):
        return str | None
    # the type is made while the program runs, where mypy cannot follow
    return list[get_args(hint)[0]] | None if get_origin(hint) is Sequence else hint  # type: ignore[misc]


def _written(default: Any) -> Any:
    """A default, written as on the command line."""
    return ",".join(map(str, default)) or None if isinstance(default, tuple) else default


def _described(info: ParameterInfo, text: str, flags: Mapping[str, str]) -> ParameterInfo:
    info = copy.copy(info)
    info.parser = None  # typer would reword its errors
    text = re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[0]), text).rstrip(".")
    text, _, default = text.partition(". None: ")
    info.help = f"{text[0].upper()}{text[1:]}." if text else None  # python -OO has no docstrings
    if default and info.show_default is True:
        info.show_default = default
    return info


def _flag(name: str, info: ParameterInfo | None) -> str:
    names = [info.default, *(info.param_decls or ())] if isinstance(info, OptionInfo) else []
    return next(
        (flag.split("/")[0] for flag in names if isinstance(flag, str) and flag.startswith("--")),
        "--" + name.replace("_", "-"),
    )


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _most(info: ParameterInfo) -> float:
    return math.inf if info.max is None else info.max
