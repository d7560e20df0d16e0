"""Clients are pickled and copied as what they were made with."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import shutil
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from client.tls import Authority
from vitriton import TLS, AsyncClient, Client, ClientClosed, ContractMismatch, Options
from vitriton.testing import FakeTransport

KINDS = (Client, AsyncClient)
COPIES = (lambda client: pickle.loads(pickle.dumps(client)), copy.copy, copy.deepcopy)


def token() -> str:
    return "secret"


class NamedClient(Client):
    """A subclass, as applications have."""


@pytest.fixture(scope="module")
def ca_file(subprocesses, tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority")).ca_file


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("kind", [*KINDS, NamedClient])
def test_all_arguments_travel(kind, again, ca_file):
    """The copy has the same class and settings, and nothing else of the first one."""
    arguments = {
        "timeout_s": 3.0,
        "options": Options(max_in_flight=2, refuse_paths=True, grpc_options={"grpc.keepalive_time_ms": 5000}),
        "tls": TLS(ca_file=ca_file) if kind is AsyncClient else None,
        "token": token,
        "headers": MappingProxyType({"x-team": "search"}),
        "preprocess": "client",
        "expect_fingerprint": "space-1",
    }
    address = "grpcs://a:1" if kind is AsyncClient else ["a:1", "b:2"]
    client = kind(address, model="photos", **arguments)
    other = again(client)
    assert type(other) is kind
    assert repr(other) == repr(client)
    assert other._core is not client._core
    assert vars(other._core.settings) == vars(client._core.settings)
    assert vars(again(other)._core.settings) == vars(client._core.settings)


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_travel_is_named(kind, again):
    """A transport, and a function that another process could not find."""
    with pytest.raises(TypeError, match=rf"this {kind.__name__} cannot be pickled or copied: it has a transport"):
        again(kind("h", model="m", transport=FakeTransport()))
    with pytest.raises(TypeError, match=r"its token cannot be \(.*lambda.*at the top of a module"):
        again(kind("h:1", model="m", token=lambda: "secret"))
    with pytest.raises(TypeError, match="its options cannot be"):
        again(kind("h:1", model="m", options=Options(grpc_options=MappingProxyType({}))))


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_client_does_not_travel(kind, again):
    """A pickle does not bring it to life again."""
    client = kind("h:1", model="m")
    closed = client.close()
    if kind is AsyncClient:
        asyncio.run(closed)
    with pytest.raises(ClientClosed, match="is closed; make a new one"):
        again(client)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_copy_connects_when_it_is_used(scheme):
    """Not when it is made."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        client = Client(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", model="m")
        with client, pickle.loads(pickle.dumps(client)), pytest.raises(TimeoutError):
            listener.accept()


def test_certificates_are_read_where_the_copy_is_made(ca_file, tmp_path):
    """The error names the file that is missing there."""
    here = Path(shutil.copy(ca_file, tmp_path / "ca.pem"))
    pickled = pickle.dumps(Client("grpcs://h:1", model="m", tls=TLS(ca_file=here)))
    here.unlink()
    with pytest.raises(ValueError, match=r"TLS: ca_file .*ca.pem cannot be read: No such file"):
        pickle.loads(pickled)


def _pickle_in_fork(client, answers):
    try:
        pickle.dumps(client)
    except ClientClosed as exc:
        answers.send(str(exc))


@pytest.mark.usefixtures("subprocesses")
def test_a_fork_stays_refused():
    """The way out of it is not a copy."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    client = Client("http://127.0.0.1:1", model="m")
    process = context.Process(target=_pickle_in_fork, args=(client, send))
    process.start()
    assert receive.poll(60)
    assert "connections do not survive a fork" in receive.recv()
    process.join(60)
    send.close()
    receive.close()


def _embed_in_worker(client, files, answers):
    try:
        if isinstance(client, AsyncClient):
            answers.send(asyncio.run(_embed_and_close(client, files)))
        else:
            answers.send(client.embed(files))
    except Exception as exc:
        answers.send(exc)


async def _embed_and_close(client, files):
    async with client:
        return await client.embed(files)


@pytest.mark.parametrize("kind", KINDS)
def test_spawned_process(kind, address, http_address, files, embeddings):
    """It embeds with the client that it is given, over both protocols, and gets its errors."""
    context = multiprocessing.get_context("spawn")
    for where, expect, outcome in (
        (f"grpc://{address}", "space-1", np.ndarray),
        (f"http://{http_address}", "space-1", np.ndarray),
        (f"grpc://{address}", "space-2", ContractMismatch),
    ):
        receive, send = context.Pipe(duplex=False)
        client = kind(where, model="tiny", expect_fingerprint=expect)
        process = context.Process(target=_embed_in_worker, args=(client, files, send))
        process.start()
        send.close()
        answer = receive.recv()
        process.join()
        receive.close()
        assert isinstance(answer, outcome), answer
        if outcome is np.ndarray:
            np.testing.assert_allclose(answer, embeddings, atol=1e-4)


def _embed_one(client, data):
    return os.getpid(), client.embed(data)[0]


_CLIENT = None


def _take(client):
    global _CLIENT
    _CLIENT = client


def _embed_with_mine(data):
    return _embed_one(_CLIENT, data)


def test_process_pool(address, files, embeddings):
    """As an argument of each task, and once for each worker."""
    context = multiprocessing.get_context("spawn")
    with (
        Client(address, model="tiny") as client,
        ProcessPoolExecutor(2, mp_context=context, initializer=_take, initargs=(client,)) as workers,
    ):
        for pids, rows in (
            zip(*workers.map(_embed_with_mine, files), strict=True),
            zip(*workers.map(_embed_one, [client] * len(files), files), strict=True),
        ):
            np.testing.assert_allclose(np.stack(rows), embeddings, atol=1e-4)
            assert os.getpid() not in pids
        assert client.embed(files).shape == embeddings.shape


def test_dropped_copies_leave_nothing(address, files):
    """Tasks that each get a client of their own do not add up."""
    with Client(f"grpc://{address}", model="tiny") as client:
        pickled = pickle.dumps(client)
        for _ in range(3):
            pickle.loads(pickled).embed(files[:1])
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            pickle.loads(pickled).embed(files[:1])
        for _ in range(6000):  # gRPC closes sockets from a thread of its own, a moment later
            if len(list(Path("/proc/self/fd").iterdir())) <= before + 5:
                break
            time.sleep(0.01)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
