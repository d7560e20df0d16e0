"""The texts to send: a file of the user's, or a built-in mix of lengths."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from vitriton._console.paths import file_fault

from vitriton_bench._errors import UnusableOption
from vitriton_bench._payload import read_texts

LEAST, MOST = 3, 512  # tokens of a built-in text, with the two that BERT's tokenizers add
_COUNT = 256
_MEDIAN, _SIGMA = 24, 1.1  # of the log-normal distribution of tokens: a sentence; one text in twenty has over 140
_ADDED = 2
_SENTENCE = (4, 20)  # words between two full stops
# Frequent words, each a single token of BERT's vocabulary, and of most others.
_WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should because long each just state those
people too world little very house men life own day under water still night work part place city small home school war
old great year young group room family early high history music river church north south road light open large money
"""


def built_in() -> list[str]:
    """The built-in texts, always the same: English words in a random order, with a long tail of lengths.

    The number of tokens is log-normal with the median 24, cut to 3 to 512: 256 texts have the quantiles of this
    distribution, so that no draw decides on the longest. Each has exactly that number under a tokenizer that, as
    BERT's, makes one token of each of these words and of a full stop, and adds two.
    """
    return list(_made())


@functools.cache
def _made() -> tuple[str, ...]:
    random, words = Random(0), _WORDS.split()
    normal = statistics.NormalDist()
    spread = (normal.inv_cdf((number + 0.5) / _COUNT) for number in range(_COUNT))
    lengths = [min(max(round(_MEDIAN * math.exp(_SIGMA * z)), LEAST), MOST) for z in spread]
    random.shuffle(lengths)
    return tuple(_text(length - _ADDED, words, random) for length in lengths)


def _text(tokens: int, words: Sequence[str], random: Random) -> str:
    """A text of so many words and full stops; one that is long enough ends with a full stop."""
    made = ""
    while tokens:
        drawn = random.choices(words, k=min(random.randint(*_SENTENCE), max(tokens - 1, 1)))
        made += (" " if made else "") + " ".join(drawn).capitalize()
        tokens -= len(drawn)
        if tokens:
            made += "."
            tokens -= 1
    return made


def check(file: Path | None) -> list[str]:
    """Reads the texts of a file, one on each line; None: the built-in texts.

    Raises:
        UnusableOption: the file cannot be read, or has no texts.
    """
    if file is None:
        return built_in()
    if (fault := file_fault(file)) is not None:
        raise UnusableOption("texts", fault)
    try:
        texts = read_texts(file)
    except UnicodeDecodeError as exc:
        raise UnusableOption("texts", f"{file} is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    if not texts:
        raise UnusableOption("texts", f"{file} has no texts; give one on each line")
    return texts


def describe(texts: Sequence[str]) -> dict[str, Any]:
    """The number and sizes of the texts."""
    sizes = [len(text.encode()) for text in texts]
    return {
        "count": len(texts),
        "mean_bytes": round(statistics.mean(sizes)),
        "least_bytes": min(sizes),
        "most_bytes": max(sizes),
    }
