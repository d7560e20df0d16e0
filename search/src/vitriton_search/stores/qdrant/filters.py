"""Conditions as filters of Qdrant, in the form of its REST interface.

In Qdrant a condition is met or not; here it can also be that nothing can be said, as a value is missing. So `not` is
carried to the comparisons, and every comparison asks for a value. And some comparisons Qdrant does not have: there, the
filter lets more rows through, and each of them has to be looked at.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import NamedTuple

from vitriton_search.stores.qdrant.collection import Filter
from vitriton_search.stores.where import Both, Compare, Either, Like, Missing, Not, OneOf, Value, Where, chain

_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


class Translation(NamedTuple):
    """A condition as a filter.

    Attributes:
        condition: the filter, which every row passes that meets the condition.
        whole: whether no other row passes it.
    """

    condition: Filter
    whole: bool


def translate(where: Where, *, contrary: bool = False) -> Translation:
    """Returns the filter of a condition, or of its contrary."""
    if isinstance(where, Not):
        return translate(where.condition, contrary=not contrary)
    if isinstance(where, (Both, Either)):
        sides = [translate(side, contrary=contrary) for side in chain(where)]
        joined = "must" if isinstance(where, Both) is not contrary else "should"
        return Translation({joined: [side.condition for side in sides]}, all(side.whole for side in sides))
    missing = {"is_empty": {"key": path(where.column)}}
    if isinstance(where, Missing):
        return Translation({"must_not" if contrary else "must": [missing]}, True)
    if isinstance(where, Compare) and where.operator == "!=":
        return translate(Compare(where.column, "=", where.value), contrary=not contrary)
    met = _comparison(where)
    if met is None or (contrary and not met.whole):
        return Translation({"must_not": [missing]}, False)
    if contrary:
        return Translation({"must_not": [missing, met.condition]}, True)
    return met


def path(column: str) -> str:
    """The path of a column in the payload."""
    return column if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", column) else f'"{column}"'


def _comparison(where: Compare | OneOf | Like) -> Translation | None:
    """The filter of a comparison; None where Qdrant has none."""
    if isinstance(where, Like):
        return _like(where)
    if isinstance(where, OneOf):
        found = [_compare(where.column, "=", value) for value in where.values]
        return Translation({"should": found}, True)
    if isinstance(where.value, str) and where.operator != "=":
        return None
    return Translation(_compare(where.column, where.operator, where.value), True)


def _compare(column: str, operator: str, value: Value) -> Filter:
    if isinstance(value, (str, bool)):
        return {"key": path(column), "match": {"value": value}}
    bound: str | float = value if not isinstance(value, datetime) else _time(value)
    bounds = {"gte": bound, "lte": bound} if operator == "=" else {_RANGES[operator]: bound}
    return {"key": path(column), "range": bounds}


def _time(value: datetime) -> str:
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).isoformat()


def _like(where: Like) -> Translation:
    """A pattern by its beginning and the texts between its wildcards, which say all of a pattern with one text."""
    parts = re.findall(r"\\[%_\\]|.", where.pattern, re.DOTALL)
    texts = [""]
    for part in parts:
        if part in ("%", "_"):
            texts.append("")
        else:
            texts[-1] += part[-1]
    key = path(where.column)
    first, *others = texts
    if not others:
        return Translation({"key": key, "match": {"value": first}}, True)
    found: list[Filter] = [{"must_not": [{"is_empty": {"key": key}}]}]
    found += [{"key": key, "match": {"prefix": first}}] if first else []
    found += [{"key": key, "match": {"substring": text}} for text in others if text]
    return Translation({"must": found}, "_" not in parts and not others[-1] and len(found) <= 2)
