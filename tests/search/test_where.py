"""The language of conditions: what is understood, what is refused in which words, and SQL's three values."""

import sqlite3
from datetime import datetime, timezone

import pyarrow as pa
import pytest
from search.store_contract import OWN, zoo
from vitriton_search.stores.store import COLUMNS
from vitriton_search.stores.where import (
    Both,
    Compare,
    Either,
    Like,
    Missing,
    Not,
    OneOf,
    WhereError,
    columns_of,
    meets,
    parse,
    to_sql,
)

ALL = {**COLUMNS, **OWN}
UTC = timezone.utc


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("width = 5", Compare("width", "=", 5)),
        ("width == 5", Compare("width", "=", 5)),
        ("width <> -5", Compare("width", "!=", -5)),
        ("WIDTH_IS_NOT_ASKED", None),
        ("5 < width", Compare("width", ">", 5)),
        ("5 >= width", Compare("width", "<=", 5)),
        ("((width)) > (5)", Compare("width", ">", 5)),
        ("width > 1e3", Compare("width", ">", 1000)),
        ("time_s > 5", Compare("time_s", ">", 5.0)),
        ("time_s > -.5", Compare("time_s", ">", -0.5)),
        ("id = 'it''s'", Compare("id", "=", "it's")),
        ("id = '\\'", Compare("id", "=", "\\")),
        ("source = ''", Compare("source", "=", "")),
        ('"is kept" = TRUE', Compare("is kept", "=", True)),
        ("taken < '2025-12-31'", Compare("taken", "<", datetime(2025, 12, 31))),
        ("taken < '2025-12-31 10:20'", Compare("taken", "<", datetime(2025, 12, 31, 10, 20))),
        ("modified < '2025-12-31'", Compare("modified", "<", datetime(2025, 12, 31, tzinfo=UTC))),
        ("modified < '2025-12-31T01:00:00+02:00'", Compare("modified", "<", datetime(2025, 12, 30, 23, tzinfo=UTC))),
        ("width in (1)", OneOf("width", (1,))),
        ("label in ('a', 'b')", OneOf("label", ("a", "b"))),
        ("label not in ('a')", Not(OneOf("label", ("a",)))),
        ("label like '%a'", Like("label", "%a")),
        ("label not like '%a'", Not(Like("label", "%a"))),
        ("not label like '%a'", Not(Like("label", "%a"))),
        ("not label not like '%a'", Not(Not(Like("label", "%a")))),
        ("label like 'a\\%b\\c\\\\d\\'", Like("label", "a\\%b\\\\c\\\\d\\\\")),
        ("error is null", Missing("error")),
        ("error is not null", Not(Missing("error"))),
        ("not error is null", Not(Missing("error"))),
        ("width between 1 and 2", Both(Compare("width", ">=", 1), Compare("width", "<=", 2))),
        ("width not between 1 and 2", Not(Both(Compare("width", ">=", 1), Compare("width", "<=", 2)))),
        (
            "width = 1 or height = 2 and bytes = 3",
            Either(Compare("width", "=", 1), Both(Compare("height", "=", 2), Compare("bytes", "=", 3))),
        ),
        (
            "(width = 1 or height = 2) and not bytes = 3",
            Both(Either(Compare("width", "=", 1), Compare("height", "=", 2)), Not(Compare("bytes", "=", 3))),
        ),
        ("width = 1 -- and height = 2", Compare("width", "=", 1)),
    ],
)
def test_understood(text, condition):
    """A text is the condition that SQL would read."""
    if condition is None:
        with pytest.raises(WhereError):
            parse(text, ALL)
    else:
        assert parse(text, ALL) == condition


@pytest.mark.parametrize("column", ALL)
def test_every_column_can_be_named(column):
    """Each column can be named in double quotes, and most can without."""
    assert parse(f'"{column}" is null', ALL) == Missing(column)
    if column not in ("order", "is kept", "größe-2"):
        assert parse(f"{column} is null", ALL) == Missing(column)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no condition"),
        ("   ", "is no condition"),
        ("width >", "is no condition"),
        ("width > 'a", "is no condition"),
        ("width > 1; drop table rows", "is not understood"),
        ("select 1", "is not understood"),
        ("drop table rows", "is not understood"),
        ("width", "is not understood"),
        ("true", "is not understood"),
        ("width + 1 > 2", "is no column"),
        ("width > 1 + 2", "is no value"),
        ("width > height", "is no value"),
        ("width > (select 1)", "is no value"),
        ("width in (select 1)", "is not understood"),
        ("width in ()", "is"),
        ("1 = 1", "is no column"),
        ("lower(label) = 'a'", "is no column"),
        ("color = 'red'", "color is no column; there are id, source, .*, label"),
        ("rows.width = 1", "is no column"),
        ("embedding is null", "embedding is no column"),
        ("WIDTH = 1", "WIDTH is no column"),
        ('label = "cat"', "texts are in '…'"),
        ("label = 5", "label holds text, and 5 is none"),
        ("label in ('a', 5)", "label holds text, and 5 is none"),
        ("label = null", "is no value"),
        ("label in ('a', null)", "is no value"),
        ("label ilike 'a'", "is not understood"),
        ("label like 'a' escape '!'", "is not understood"),
        ("label like source", "is no value"),
        ("width like '5'", "like is for text"),
        ("width = '5'", "width holds whole numbers from -2147483648 to 2147483647, and '5' is none"),
        ("width = 1.5", "whole numbers"),
        ("width = true", "whole numbers"),
        ("width < 2147483648", "whole numbers"),
        ("bytes < 9223372036854775808", "whole numbers"),
        ("time_s = 'a'", "time_s holds numbers"),
        ("time_s < 1e999", "time_s holds numbers"),
        ('"is kept" = 1', "is kept holds true or false"),
        ('"is kept" > false', "compared by = and !="),
        ("taken > 'yesterday'", "'yesterday' is no date; write taken as '2025-12-31'"),
        ("taken > 5", "5 is no date"),
        ("taken > '2025-12-31T00:00:00Z'", "taken has no time zone"),
        ("modified > '0001-01-01T00:00:00+14:00'", "is no date"),
        ("width between symmetric 2 and 1", "is"),
        ("not " * 2000 + "width = 1", "nested too deep"),
        ("(" * 2000 + "width = 1" + ")" * 2000, "nested too deep"),
    ],
)
def test_refused(text, reason):
    """What is not understood is refused in words, whatever it is."""
    with pytest.raises(WhereError, match=reason) as caught:
        parse(text, ALL)
    assert len(str(caught.value)) < 1000


TRUTHS = [
    ("width > 1", {"width": 2}, True),
    ("width > 1", {"width": 1}, False),
    ("width > 1", {"width": None}, None),
    ("not width > 1", {"width": None}, None),
    ("width != 1", {"width": None}, None),
    ("width in (1, 2)", {"width": None}, None),
    ("width not in (1, 2)", {"width": None}, None),
    ("width is null", {"width": None}, True),
    ("width is not null", {"width": None}, False),
    ("label not like 'a%'", {"label": None}, None),
    ("label like '%'", {"label": None}, None),
    ("width = 1 and height = 1", {"width": None, "height": 1}, None),
    ("width = 1 and height = 1", {"width": None, "height": 2}, False),
    ("not (width = 1 and height = 1)", {"width": None, "height": 2}, True),
    ("width = 1 or height = 1", {"width": None, "height": 1}, True),
    ("width = 1 or height = 1", {"width": None, "height": 2}, None),
    ("width between 1 and 3", {"width": None}, None),
    ("not width between 1 and 3", {"width": 4}, True),
    ("label like 'a_c'", {"label": "abc"}, True),
    ("label like 'a_c'", {"label": "ac"}, False),
    ("label like 'a_c'", {"label": "a\nc"}, True),
    ("label like 'a_c'", {"label": "a🦜c"}, True),
    ("label like 'a%'", {"label": "a\nb"}, True),
    ("label like 'A%'", {"label": "abc"}, False),
    ("label like 'a\\%'", {"label": "a%"}, True),
    ("label like 'a\\%'", {"label": "ab"}, False),
    ("label like '\\_'", {"label": "_"}, True),
    ("label like 'a\\b'", {"label": "a\\b"}, True),
    ("label like 'a\\\\b'", {"label": "a\\b"}, True),
    ("label like '[ab].*'", {"label": "a"}, False),
    ("label like ''", {"label": ""}, True),
    ("label like ''", {"label": "a"}, False),
    ("label < 'b'", {"label": "B"}, True),
    ('"is kept" != true', {"is kept": False}, True),
]


@pytest.mark.parametrize(("text", "row", "truth"), TRUTHS)
def test_three_values(text, row, truth):
    """A comparison with a missing value is neither true nor false, and so is its contrary."""
    assert meets(parse(text, ALL), row) is truth
    contrary = None if truth is None else not truth
    assert meets(parse(f"not ({text})", ALL), row) is contrary


def test_sql_means_the_same():
    """The SQL that is written is answered by a database as `meets` answers the condition."""
    database = sqlite3.connect(":memory:")
    database.execute("pragma case_sensitive_like = on")
    names = {
        "id": "text",
        "width": "integer",
        "height": "integer",
        "time_s": "real",
        "label": "text",
        "order": "integer",
    }
    database.execute(f"create table t ({', '.join(f'`{name}` {kind}' for name, kind in names.items())})")
    table = zoo().to_pylist()
    database.executemany(
        f"insert into t values ({', '.join('?' * len(names))})", [[row[n] for n in names] for row in table]
    )
    for text in (
        "width != 300 or height is null and not time_s > 3",
        "not (width = 100 or height > 3) and label not in ('ant', 'it''s')",
        "not (width between 100 and 300) or (label like 'a%' and height < 5)",
        "label not like 'a%' and not (width in (100, 200) or \"order\" < 3)",
        "label like '100%' or label = 'x'' OR 1=1 --'",
    ):
        where = parse(text, ALL)
        values: list[object] = []

        def placeholder(value, values=values):
            values.append(value)
            return "?"

        sql = to_sql(where, lambda name: f"`{name}`", placeholder)
        found = [row[0] for row in database.execute(f"select id from t where {sql} order by rowid", values)]
        assert found == [row["id"] for row in table if meets(where, row)], sql


def test_a_long_chain_has_few_parentheses():
    """Hundreds of conditions in a row are one level: databases limit how deep they are nested."""
    text = " or ".join(f"width = {number}" for number in range(300))
    sql = to_sql(parse(text, ALL), str, str)
    assert sql == "(" + " OR ".join(f"(width = {number})" for number in range(300)) + ")"
    mixed = to_sql(parse("width = 1 and (height = 2 or height = 3) and bytes = 4", ALL), str, str)
    assert mixed == "((width = 1) AND ((height = 2) OR (height = 3)) AND (bytes = 4))"


def test_columns_of():
    """The columns that a condition names, each as often as it is named."""
    where = parse("not (width = 1 or label like 'a') and (error is null or width in (1, 2))", ALL)
    assert sorted(columns_of(where)) == ["error", "label", "width", "width"]


def test_a_column_of_any_name():
    """Names are the user's, quoted as SQL's are."""
    assert parse('"is kept" = true and "größe-2" is null', ALL) == Both(
        Compare("is kept", "=", True), Missing("größe-2")
    )
    assert parse("größe > 5", {"größe": pa.int64()}) == Compare("größe", ">", 5)
