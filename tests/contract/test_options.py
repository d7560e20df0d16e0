"""What holds of the options of all commands."""

from dataclasses import fields

import pytest
from vitriton._console.options import descriptions
from vitriton._console.server import Access
from vitriton.commands.embed.options import EmbedOptions
from vitriton_api._config import ApiOptions
from vitriton_bench._sweep.options import Sweep
from vitriton_export import ExportOptions, VerifyOptions
from vitriton_ray._options import RayOptions
from vitriton_ray.commands.bench import BulkBench
from vitriton_search.commands.duplicates import DuplicatesOptions
from vitriton_search.commands.export import SearchExportOptions
from vitriton_search.commands.neighbors import NeighborsOptions
from vitriton_search.commands.query import QueryOptions
from vitriton_search.commands.serve import PageOptions
from vitriton_search.index.options import IndexOptions
from vitriton_server import WatchPolicy
from vitriton_server._config import ServerConfig


@pytest.mark.parametrize(
    "cls",
    [
        ExportOptions,
        VerifyOptions,
        EmbedOptions,
        Access,
        ServerConfig,
        WatchPolicy,
        Sweep,
        ApiOptions,
        IndexOptions,
        QueryOptions,
        DuplicatesOptions,
        NeighborsOptions,
        SearchExportOptions,
        PageOptions,
        RayOptions,
        BulkBench,
    ],
    ids=lambda cls: cls.__name__,
)
def test_every_option_is_described(cls):
    """By a noun or a verb with what it is about, never "of it"; `url` of the commands has one text of its own."""
    texts = descriptions(cls)
    assert {field.name for field in fields(cls)} | {"url"} == texts.keys() | {"url"}
    assert not [name for name, text in texts.items() if text.startswith(("of ", "see ", "for ", "that ", "in "))]
    assert all(text.endswith(".") for text in texts.values())
