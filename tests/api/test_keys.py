"""API keys: read, compared, followed."""

import logging
import os

import pytest
from vitriton._errors import InvalidOption
from vitriton_api._errors import RequestRefused
from vitriton_api._keys import Keys

ONE, TWO = "one-" + "x" * 24, "two-" + "y" * 24


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 2
        return self.now_s


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# name key\n\nshop {ONE}\r\nshop\t{TWO}\n")
    return path


def knows(keys: Keys, *given: str) -> bool:
    try:
        for key in given:
            keys.check(f"Bearer {key}")
    except RequestRefused as exc:
        refused = exc
    else:
        return True
    assert (refused.status, refused.code, refused.headers) == (401, "invalid_api_key", {"www-authenticate": "Bearer"})
    assert not any(key in str(refused) for key in given)
    return False


def test_known_and_unknown(file):
    """One name may have several keys, and the scheme is written in any case."""
    keys = Keys(file)
    assert knows(keys, ONE, TWO)
    assert keys.check(f"bearer  {ONE} ") == "shop"
    for other in (ONE[:-1], f"{ONE}x", "shop", "ä" * 30):
        assert not knows(keys, other)
    for header in ("", ONE, f"Basic {ONE}", "Bearer", f"Bearer {ONE} {TWO}"):
        with pytest.raises(RequestRefused, match="there is no key"):
            keys.check(header)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "has no key"), ("# none\n", "has no key"), ("shop short\n", "line 1"), (f"\na b {ONE}\n", "line 2")],
)
def test_a_file_that_cannot_be_used(tmp_path, text, says):
    """It is named, and no key is shown."""
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InvalidOption, match=says) as refused:
        Keys(tmp_path / "keys")
    assert ONE not in str(refused.value)
    with pytest.raises(InvalidOption, match="cannot be read"):
        Keys(tmp_path / "none")


def test_the_file_is_followed(file, caplog):
    """A change counts; a file that is broken or gone changes nothing, and is reported once."""
    keys = Keys(file, Clock())
    replace(file, f"shop {TWO}\n")
    assert knows(keys, TWO)
    assert not knows(keys, ONE)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        replace(file, "broken\n")
        assert knows(keys, TWO, TWO)
        file.unlink()
        assert knows(keys, TWO, TWO)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the API keys cannot be used as they are now, and those before stay"
    ] * 2
    replace(file, f"shop {ONE}\n")
    assert knows(keys, ONE)
    assert not knows(keys, TWO)


def replace(file, text):
    """As an editor or a mounted secret does."""
    new = file.with_name("new")
    new.write_text(text)
    os.replace(new, file)  # noqa: PTH105 - the name of the system call
