"""The routes on a fake transport: statuses, forms of errors, limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from api.endpoint import FakeUpstream, png, uri
from client.scripted import ScriptedServer, http
from vitriton import Options, Unavailable
from vitriton._console.listening import listen
from vitriton.preprocessing import Refusal
from vitriton.testing import CallError, Code, FakeTransport, busy, invalid_images, invalid_texts, unavailable
from vitriton_api import _app as app
from vitriton_api._app import Endpoint
from vitriton_api._config import ApiOptions
from vitriton_api._keys import Keys
from vitriton_api._models import Look

URI = uri(png())
KEY = "k" * 30


@asynccontextmanager
async def client(transport=None, *, keys=None, names=("fake",), timeout_s=60.0, **options):
    """An HTTP client of an endpoint in this process."""
    config = ApiOptions(timeout_s=timeout_s, **options)
    upstream = FakeUpstream(
        transport=transport or FakeTransport(dim=3, prompts={"query": "q: "}),
        names=names,
        options=replace(config.client_options, initial_backoff_s=0.001),
        timeout_s=timeout_s,
    )
    endpoint = Endpoint(config, upstream, keys)
    await endpoint.models.look()
    asgi = httpx.ASGITransport(endpoint.app)
    try:
        async with httpx.AsyncClient(transport=asgi, base_url="http://endpoint") as http:
            http.endpoint = endpoint
            yield http
    finally:
        await endpoint.models.close()


def run(test):
    """Runs a coroutine in an event loop of its own."""
    return asyncio.run(test)


def ask(document, transport=None, *, path="/v1/embeddings", headers=None, **options) -> httpx.Response:
    """One request; with `model`, unless the document has one."""

    async def asked():
        async with client(transport, **options) as http:
            return await http.post(path, json={"model": "fake", **document}, headers=headers)

    return run(asked())


def error(response: httpx.Response):
    assert response.headers["content-type"] == "application/json"
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (busy(), 429, "server_busy"),
        (unavailable(), 503, "server_unavailable"),
        (CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"), 504, "timeout"),
        (CallError(Code.UNAUTHENTICATED, "no token"), 502, "access_denied"),
        (CallError(Code.INTERNAL, "broken"), 502, "inference_failed"),
        (invalid_images({0: Refusal("no image", "format")}, 1), 415, "format"),
        (invalid_images({0: Refusal("a bomb", "too_large")}, 1), 413, "too_large"),
        (invalid_images({0: Refusal("cut short", "truncated")}, 1), 422, "truncated"),
        (invalid_images({0: "not an image"}, 1), 422, "other"),
    ],
)
def test_each_failure_has_its_status(fault, status, code):
    """The table of the guide; where a later attempt helps, Retry-After says when."""
    timeout_s = 2.0 if status in (429, 503, 504) else 60.0  # such a fault is tried again until then
    answer = ask({"input": URI}, FakeTransport(faults=[fault] * 1000), timeout_s=timeout_s)
    assert (answer.status_code, error(answer)["code"]) == (status, code), answer.text
    assert answer.headers.get("retry-after") == ("1" if status in (429, 503) else None)
    message = error(answer)["message"]
    assert not any(secret in message for secret in ("fake:8001", "timeout_s", "None", "token"))


def test_all_bad_inputs_are_named():
    """Those that the endpoint cannot read and those that the server refuses, in one answer."""
    faults = [invalid_images({1: Refusal("cut short", "truncated")}, 2)]
    documents = {"input": [URI, "data:image/png;base64,!", URI, "text"]}
    answer = ask(documents, FakeTransport(faults=faults))
    assert (answer.status_code, error(answer)["param"]) == (422, "input[1], input[2]")
    assert error(answer)["code"] == "invalid_input"


def test_null_rows():
    """The others have their vectors, and each null its reason."""
    faults = [invalid_images({1: Refusal("cut short", "truncated")}, 2)]
    documents = {"input": [URI, "data:image/png;base64,!", URI, "text"], "on_error": "null"}
    answer = ask(documents, FakeTransport(faults=faults, dim=3))
    assert answer.status_code == 200
    rows = answer.json()["data"]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False]
    assert [row.get("error", {}).get("code") for row in rows] == [None, "bad_url", "truncated", None]
    assert answer.json()["usage"] == {"prompt_tokens": 1, "total_tokens": 1, "images": 1}


def test_urls_are_fetched_where_that_is_allowed(monkeypatch):
    """The picture of a public server gets its vector; nothing is asked of a private network."""

    def script(peer):
        peer.request()
        peer.send(http("200 OK", png()))

    # The check takes one address of this host for a public one.
    monkeypatch.setattr("vitriton._net.network.is_public", lambda address: address == "127.0.0.1")
    with ScriptedServer(script) as public, ScriptedServer(script, host="127.0.0.2") as private:
        urls = [f"http://127.0.0.1:{public.port}/a.png", f"http://127.0.0.2:{private.port}/b.png"]
        document = {"input": urls, "modality": "image", "on_error": "null"}
        answer = ask(document, timeout_s=60, fetch_urls=True)
        assert private.connections == 0
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert [row.get("error", {}).get("code") for row in rows] == [None, "address_refused"]
    assert rows[0]["embedding"] == ask({"input": [URI]}).json()["data"][0]["embedding"]


def test_the_order_of_a_mixed_request():
    """Images and texts go out at the same time, and come back in the caller's order."""
    transport = FakeTransport(embed=lambda data: [len(data), 0, 0], dim=3)
    texts = [f"{'x' * index}" for index in range(1, 20)]
    images = [png(index, width=9 + index) for index in range(19)]
    inputs = [each for text, image in zip(texts, images, strict=True) for each in (text, uri(image))]
    rows = ask({"input": inputs}, transport).json()["data"]
    expected = [size for text, image in zip(texts, images, strict=True) for size in (len(text), len(image))]
    assert [row["embedding"][0] for row in rows] == expected
    assert [row["index"] for row in rows] == list(range(38))


def test_a_call_that_fails_ends_the_other():
    """Of a mixed request, the texts' failure cancels the images."""
    transport = FakeTransport(answers_at_once=False)

    async def asked():
        async with client(transport, timeout_s=2.0) as http:
            waiting = asyncio.ensure_future(http.post("/v1/embeddings", json={"model": "fake", "input": ["a", URI]}))
            while len(transport.sent) < 2 and not waiting.done():
                await asyncio.sleep(0.01)
            return await waiting

    answer = run(asked())  # nobody answers, so that the time is over
    assert (answer.status_code, error(answer)["code"]) == (504, "timeout")
    assert all(pending.cancelled for pending in transport.sent)


def test_long_texts():
    """They are cut, and the answer says which; with NONE they are refused."""
    transport = FakeTransport(dim=3, max_length=2)
    rows = ask({"input": ["a b", "a b c"]}, transport).json()
    assert [row.get("truncated", False) for row in rows["data"]] == [False, True]
    assert rows["usage"]["prompt_tokens"] == 4
    answer = ask({"input": ["a b", "a b c"], "truncate": "NONE"}, transport)
    assert (answer.status_code, error(answer)["param"]) == (413, "input[1]")
    assert "it has 3 tokens, and the model takes 2; shorten it" in error(answer)["message"]
    answer = ask({"texts": ["a b", "a b c"]}, transport, path="/v2/embed")
    assert answer.json()["truncated"] == [1]


def test_prompts():
    """`input_type` chooses the model's prompt of that meaning, `prompt_name` one by its name."""
    sent = []

    def embed(text):
        sent.append(text.decode())
        return [0, 0, 0]

    transport = FakeTransport(embed=embed, dim=3, prompts={"query": "q: "})
    for more in ({}, {"input_type": "query"}, {"input_type": "passage"}, {"prompt_name": "query"}):
        assert ask({"input": "a", **more}, transport).status_code == 200
    assert ask({"texts": ["a"], "input_type": "search_query"}, transport, path="/v2/embed").status_code == 200
    assert sent == ["a", "q: a", "a", "q: a", "q: a"]
    answer = ask({"input": "a", "prompt_name": "nope"}, transport)
    assert (answer.status_code, error(answer)["param"]) == (400, "prompt_name")


def test_dimensions():
    """Those of the model are taken; others are refused, as no export says that it was trained for them."""
    assert ask({"input": "a", "dimensions": 3}).status_code == 200
    for wanted in (2, 4, 10**9):
        answer = ask({"input": "a", "dimensions": wanted})
        assert (answer.status_code, error(answer)["param"]) == (400, "dimensions")
        assert "have 3" in error(answer)["message"]


def test_a_tower_that_the_model_has_not():
    """Each input of the wrong kind is named."""
    images = FakeTransport(towers=("image",))
    answer = ask({"input": ["a", URI, "b"]}, images)
    assert (answer.status_code, error(answer)["param"]) == (400, "input[0], input[2]")
    answer = ask({"input": ["a", URI]}, FakeTransport(towers=("text",)))
    assert (answer.status_code, error(answer)["param"], error(answer)["code"]) == (400, "input[1]", "modality")


def test_null_rows_for_what_the_model_does_not_take():
    """Each input has its own error. A text that looks like base64 leads to the field that makes it an image."""
    images = FakeTransport(towers=("image",), dim=3)
    rows = ask({"input": [URI, "iVBORw0KGgo="], "on_error": "null"}, images).json()["data"]
    assert [row.get("error", {}).get("code") for row in rows] == [None, "modality"]
    assert '"modality": "image"' in rows[1]["error"]["message"]


def test_an_empty_fingerprint():
    """It is not the fingerprint of a model that has none."""
    answer = ask({"input": "a"}, headers={"x-vitriton-expect-fingerprint": ""})
    assert (answer.status_code, error(answer)["param"]) == (400, "x-vitriton-expect-fingerprint")


def test_fingerprints():
    """It goes with every answer; another one is refused, and one that has changed on the server is taken over."""
    transport = FakeTransport(dim=3, parameters={"fingerprint": "old"})

    async def asked():
        async with client(transport) as http:

            async def post(**headers):
                return await http.post("/v1/embeddings", json={"model": "fake", "input": "a"}, headers=headers)

            assert (await post()).headers["x-vitriton-fingerprint"] == "old"
            answer = await post(**{"x-vitriton-expect-fingerprint": "new"})
            assert (answer.status_code, error(answer)["code"]) == (409, "fingerprint")
            transport.parameters["fingerprint"] = "new"
            answer = await post(**{"x-vitriton-expect-fingerprint": "new"})
            assert (answer.status_code, answer.headers["x-vitriton-fingerprint"]) == (200, "new")
            answer = await post(**{"x-vitriton-expect-fingerprint": "old"})
            assert answer.status_code == 409
            shown = (await http.get("/v1/models/fake")).json()
            assert (shown["fingerprint"], shown["dimensions"], shown["modalities"]) == ("new", 3, ["image", "text"])

    run(asked())


def test_models():
    """Several behind one endpoint; another name says which there are."""

    async def asked():
        async with client(names=("a", "b")) as http:
            listed = (await http.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["a", "b"]
            answer = await http.post("/v1/embeddings", json={"model": "c", "input": "a"})
            assert (answer.status_code, error(answer)["param"]) == (404, "model")
            assert "there is: a, b" in error(answer)["message"]
            assert (await http.get("/v1/models/c")).status_code == 404

    run(asked())


def test_before_the_server_has_answered():
    """Readiness and requests are 503 with Retry-After; the process is live."""

    async def asked():
        upstream = FakeUpstream(transport=FakeTransport(), names=("fake",))
        endpoint = Endpoint(ApiOptions(), upstream)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://e") as http:
            assert (await http.get("/health/live")).status_code == 200
            for answer in (
                await http.get("/health/ready"),
                await http.post("/v1/embeddings", json={"model": "fake", "input": "a"}),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            await endpoint.models.look()
            assert (await http.get("/health/ready")).status_code == 200
            endpoint.draining = True
            assert error(await http.get("/health/ready"))["message"] == "the endpoint is stopping"
            await endpoint.models.close()

    run(asked())


class SomeLooks(FakeUpstream):
    """Its looks end as the list says, one after another."""

    ends: list = []  # noqa: RUF012 - a field of this test

    def look(self) -> Look:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end if isinstance(end, Look) else super().look()


def test_what_the_log_says_of_the_server(caplog):
    """The first reason and each new one, once; good news is no warning. Callers read no address."""
    caplog.set_level(logging.INFO, "vitriton.api")
    refused = Unavailable("no server answers at there:8001", address="there:8001")

    async def asked():
        upstream = SomeLooks(transport=FakeTransport(dim=3))
        upstream.ends[:] = [refused, refused, Look({}, "no model fake; there is: photos"), None, None, refused]
        endpoint = Endpoint(ApiOptions(), upstream)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://e") as http:
            await endpoint.models.look()
            why = error(await http.get("/health/ready"))["message"]
            assert "there" not in why
            answer = await http.get("/v1/models")
            assert (answer.status_code, error(answer)["message"]) == (503, why)
            answer = await http.post("/v1/embeddings", json={"model": "fake", "input": "a"})
            assert answer.status_code == 503
            assert why in error(answer)["message"]
            for _ in range(4):
                await endpoint.models.look()
            assert (await http.get("/v1/models/fake")).json()["ready"]
            await endpoint.models.look()
            assert not (await http.get("/v1/models/fake")).json()["ready"]
            await endpoint.models.close()

    run(asked())
    assert [(each.levelname, each.getMessage()) for each in caplog.records if each.module == "_models"] == [
        ("WARNING", "not ready: no server answers at there:8001"),
        ("WARNING", "not ready: no model fake; there is: photos"),
        ("INFO", "ready: fake"),
        ("WARNING", "not ready: no server answers at there:8001"),
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/embeddings", 405),
        ("POST", "/v1/embeddings/", 404),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_other_paths_and_methods(method, path, status):
    """An error in the usual form; 405 says what is taken."""

    async def asked():
        async with client() as http:
            return await http.request(method, path)

    answer = run(asked())
    assert answer.status_code == status
    assert ("leave out the slash" in error(answer)["message"]) == path.endswith("/")
    assert bool(answer.headers.get("allow")) == (status == 405)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "text/plain"}, "content_type"),
        ({"content-type": ""}, "content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "content_encoding"),
    ],
)
def test_other_types_of_bodies(headers, code):
    """415, before the body is read."""

    async def asked():
        async with client() as http:
            return await http.post("/v1/embeddings", content=b"{}", headers=headers)

    answer = run(asked())
    assert (answer.status_code, error(answer)["code"]) == (415, code)


def test_keys(tmp_path):
    """What shows or makes vectors needs one; health and metrics do not."""
    (tmp_path / "keys").write_text(f"test {KEY}\n")

    async def asked():
        async with client(keys=Keys(tmp_path / "keys")) as http:
            document = {"model": "fake", "input": "a"}
            for path in ("/v1/embeddings", "/v2/embed"):
                assert (await http.post(path, content=b"not even read")).status_code == 401
            assert (await http.get("/v1/models")).status_code == 401
            for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
                answer = await http.get(path)
                assert answer.status_code == 200
                assert '"fake"' not in answer.text
            authorized = {"authorization": f"Bearer {KEY}"}
            answer = await http.post("/v1/embeddings", json=document, headers=authorized)
            assert answer.status_code == 200

    run(asked())


def test_a_full_endpoint():
    """429 at once; when a place is free again, requests are answered."""
    transport = FakeTransport(answers_at_once=False, dim=3)

    async def asked():
        async with client(transport, max_in_flight=2) as http:

            def post():
                return http.post("/v1/embeddings", json={"model": "fake", "input": "a"})

            waiting = [asyncio.ensure_future(post()) for _ in range(2)]
            while len(transport.sent) < 2:
                await asyncio.sleep(0.01)
            answer = await post()
            assert (answer.status_code, error(answer)["code"]) == (429, "endpoint_full")
            assert answer.headers["retry-after"] == "1"
            for pending in transport.sent:
                pending.finish()
            assert [(await each).status_code for each in waiting] == [200, 200]
            transport._answers_at_once = True
            assert (await post()).status_code == 200
            text = (await http.get("/metrics")).text
            assert 'vitriton_api_requests_total{route="/v1/embeddings",status="429"} 1.0' in text
            assert 'vitriton_api_inputs_total{modality="text",model="fake"} 3.0' in text
            assert "vitriton_api_in_flight_requests 0.0" in text
            assert "vitriton_api_held_bytes 0.0" in text

    run(asked())


def test_the_bound_on_a_body():
    """By its declared length before it is read, and else while it arrives."""

    async def parts():
        for _ in range(100):
            yield b"x" * 100
            await asyncio.sleep(0)

    async def asked():
        async with client(max_body_bytes=1000, max_held_bytes=1500) as http:
            headers = {"content-type": "application/json"}
            for content in (b"x" * 1001, parts()):
                answer = await http.post("/v1/embeddings", content=content, headers=headers)
                assert (answer.status_code, error(answer)["code"]) == (413, "body_too_large")
            huge = {**headers, "content-length": "9" * 30}
            assert (await http.post("/v1/embeddings", content=b"x", headers=huge)).status_code == 413
            return (await http.get("/metrics")).text

    assert "vitriton_api_held_bytes 0.0" in run(asked())


def test_the_bound_on_all_bodies():
    """What does not fit beside those that are there is refused at once with 429."""
    transport = FakeTransport(answers_at_once=False)

    async def asked():
        async with client(transport, max_body_bytes=1000, max_held_bytes=1500) as http:
            document = {"model": "fake", "input": "a" * 900}
            first = asyncio.ensure_future(http.post("/v1/embeddings", json=document))
            while not transport.sent:
                await asyncio.sleep(0.01)
            answer = await http.post("/v1/embeddings", json=document)
            assert (answer.status_code, error(answer)["code"]) == (429, "endpoint_full")
            transport.sent[0].finish()
            return (await first).status_code

    assert run(asked()) == 200


def test_a_slow_body():
    """408, and its place is free again."""

    async def slow():
        yield b"{"
        await asyncio.sleep(60)

    async def asked():
        async with client(body_timeout_s=0.1) as http:
            headers = {"content-type": "application/json"}
            answer = await http.post("/v1/embeddings", content=slow(), headers=headers)
            assert (answer.status_code, error(answer)["code"]) == (408, "body_timeout")
            return (await http.get("/metrics")).text

    assert "vitriton_api_in_flight_requests 0.0" in run(asked())


def test_slow_bodies_take_no_places():
    """Others are answered beside them; too many of them are refused with a text that says so."""

    async def asked():
        async with client(max_in_flight=1) as http:
            end = asyncio.Event()

            async def slow():
                yield b"{"
                await end.wait()

            headers = {"content-type": "application/json"}

            def post():
                return asyncio.ensure_future(http.post("/v1/embeddings", content=slow(), headers=headers))

            async def arriving(count):
                while http.endpoint._admission.arriving < count:
                    await asyncio.sleep(0.01)

            waiting = [post() for _ in range(3)]
            await arriving(3)
            answer = await http.post("/v1/embeddings", json={"model": "fake", "input": "a"})
            assert answer.status_code == 200
            waiting.append(post())
            await arriving(4)
            answer = await post()
            assert answer.status_code == 429
            assert "the bodies of 4 requests are arriving" in error(answer)["message"]
            end.set()
            assert {(await each).status_code for each in waiting} == {400}
            answer = await http.post("/v1/embeddings", json={"model": "fake", "input": "a"})
            assert answer.status_code == 200

    run(asked())


def test_requests_have_ids(tmp_path, caplog):
    """The caller's own, if it is sane; each answer has it, and the log names the request by it."""
    caplog.set_level(logging.INFO, "vitriton.api")
    (tmp_path / "keys").write_text(f"shop {KEY}\n")
    transport = FakeTransport(parameters={"fingerprint": "space"}, faults=[CallError(Code.INTERNAL, "broken")] * 9)

    async def asked():
        async with client(transport, keys=Keys(tmp_path / "keys"), access_log=True) as http:
            headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine-1"}
            answer = await http.post("/v1/embeddings", json={"model": "fake", "input": "a"}, headers=headers)
            assert (answer.status_code, answer.headers["x-request-id"]) == (502, "mine-1")
            assert answer.headers["x-vitriton-fingerprint"] == "space"
            for path, given in (("/v1/models", "a b"), ("/nothing", "x" * 1000), ("/health/live", "")):
                made = (await http.get(path, headers={"x-request-id": given})).headers["x-request-id"]
                assert len(made) == 32
            await http.post("/v1/embeddings", json={"model": "a\nb", "input": "a"}, headers=headers)

    run(asked())
    lines = [each.getMessage() for each in caplog.records]
    failed = next(line for line in lines if line.startswith("502 inference_failed: "))
    assert "broken" in failed
    assert failed.endswith("; request mine-1, key 'shop', model 'fake'")
    access = next(line for line in lines if line.startswith("POST /v1/embeddings: 502 inference_failed in "))
    assert access.endswith(" s; request mine-1, key 'shop', model 'fake'")
    assert any(line.endswith("model 'a\\nb'") for line in lines)


def test_nan_is_no_null():
    """The answer is an error where JSON has no number for it."""
    transport = FakeTransport(embed=lambda data: [1, np.nan, 2], dim=3)
    answer = ask({"input": "a"}, transport)
    assert (answer.status_code, error(answer)["code"]) == (502, "not_finite")
    assert ask({"input": "a", "encoding_format": "base64"}, transport).status_code == 200


def test_an_error_of_the_endpoint_itself(caplog):
    """500 in the usual form, and the log has it."""
    transport = FakeTransport()
    transport.respond = lambda request: 1 / 0
    answer = ask({"input": "a"}, transport)
    assert (answer.status_code, error(answer)["code"]) == (500, "internal")
    assert "ZeroDivisionError" in caplog.text


def test_a_text_with_half_a_pair():
    """JSON can write what Unicode has not; the body is refused."""

    async def asked():
        async with client() as http:
            content = b'{"model": "fake", "input": "\\ud800"}'
            return await http.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})

    assert error(run(asked()))["code"] == "invalid_json"


def test_texts_that_the_server_refuses():
    """As images."""
    faults = [invalid_texts({0: Refusal("has no tokens", "empty")}, 1)]
    answer = ask({"input": ""}, FakeTransport(faults=faults))
    assert answer.status_code == 422


def test_a_limit_without_options_of_python():
    """The caller reads the limit, and not the name of what sets it."""
    transport = FakeTransport(dim=3)
    client_options = Options(refuse_paths=True, max_image_bytes=10)

    async def asked():
        upstream = FakeUpstream(transport=transport, options=client_options)
        endpoint = Endpoint(ApiOptions(), upstream)
        await endpoint.models.look()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://e") as http:
            answer = await http.post("/v1/embeddings", json={"model": "fake", "input": URI})
        await endpoint.models.close()
        return answer

    answer = run(asked())
    assert answer.status_code == 413
    assert error(answer)["message"].endswith("bytes are over the limit of 10")


def test_nothing_waits_for_the_event_loop(monkeypatch):
    """A body of a megabyte and more is parsed on a thread."""
    here = []
    parsed = app._parsed

    def watched(*arguments):
        here.append(threading.current_thread() is threading.main_thread())
        return parsed(*arguments)

    monkeypatch.setattr(app, "_parsed", watched)
    assert ask({"input": "a"}).status_code == 200
    assert ask({"input": ["a" * 1_000_000, "b" * 100_000]}).status_code == 200
    assert here == [True, False]


def test_an_answer_waits_for_no_acknowledgment():
    """Its parts are sent at once, also on a socket that asyncio has not made."""
    with (
        contextlib.closing(listen("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        contextlib.closing(listener.accept()[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_the_description_names_the_models():
    """As they are at the moment, and the key only if there is one."""

    async def asked():
        async with client(names=("a", "b")) as http:
            return (await http.get("/openapi.json")).json()

    document = run(asked())
    text = json.dumps(document)
    assert '"enum": ["a", "b"]' in text
    assert "401" not in text
