"""Tokens, certificate and Triton's address: the gateway follows each, whatever becomes of the others."""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from compose.conftest import gateway_user, make_files
from compose.project import Project
from server.processes import wait_until

FOLLOWS_S = 120.0  # it looks every 2 s
INPUTS = {"tokens", "certificate", "address"}
CERTIFICATE = ("server.pem", "server.key")
ASIDE = ".aside"
SCRAPE = "import urllib.request as u; print(u.urlopen('http://gateway:8082/metrics', timeout=10).read().decode())"


@pytest.fixture
def files(gateway_files: Path, front: Project) -> Iterator[Path]:
    """What the gateway has mounted; as before in the end, and used."""
    names = (*CERTIFICATE, "tokens")
    before = {name: ((gateway_files / name).read_bytes(), (gateway_files / name).stat().st_mode) for name in names}
    yield gateway_files
    for name, (content, mode) in before.items():
        path = gateway_files / name
        if not path.exists():
            path.with_name(name + ASIDE).rename(path)
        path.write_bytes(content)
        path.chmod(mode & 0o777)
    wait_until(lambda: refused(front) == set(), FOLLOWS_S, "all is well again")


def refused(front: Project) -> set[str]:
    """What the gateway cannot use, as it says to Prometheus."""
    page = front.execute("triton", "python3", "-c", SCRAPE).stdout
    values = dict(re.findall(r'^vitriton_gateway_input_good\{input="(\w+)"\} (\d)$', page, re.MULTILINE))
    assert values.keys() == INPUTS, page
    return {name for name, value in values.items() if value == "0"}


def status(front: Project, ca: Path, token: str) -> int:
    """What a question with this token is answered with; 0 where the certificate is not of this authority."""
    with httpx.Client(verify=ssl.create_default_context(cafile=str(ca))) as client:
        try:
            headers = {"authorization": f"Bearer {token}"}
            return client.get(f"https://{front.address('gateway')}/v2", headers=headers).status_code
        except httpx.ConnectError:
            return 0


@contextmanager
def elsewhere(front: Project) -> Iterator[None]:
    """Triton is taken out of the network; afterwards it is there again, under another address."""
    network, triton = f"{front.name}_default", front.container("triton")
    decoy = f"{front.name}-decoy"

    def address() -> str:
        return str(front.inspect("triton")["NetworkSettings"]["Networks"][network]["IPAddress"])

    before, image = address(), front.inspect("triton")["Config"]["Image"]
    front.engine("network", "disconnect", network, triton)
    front.engine("run", "--detach", "--name", decoy, "--network", network, "--entrypoint", "sleep", image, "600")
    try:
        yield
    finally:
        front.engine("network", "connect", "--alias", "triton", network, triton)
        front.engine("rm", "--force", decoy)
    assert address() != before


def half(path: Path) -> None:
    """A file of which the second half is not written yet."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def another_key(folder: Path) -> None:
    """The key of another certificate."""
    make_files(folder / "other")
    (folder / "server.key").write_bytes((folder / "other" / "server.key").read_bytes())


def aside(path: Path) -> None:
    """A file that is not there."""
    path.rename(path.with_name(path.name + ASIDE))


BROKEN_CERTIFICATES = {
    "a half-written certificate": lambda folder: half(folder / "server.pem"),
    "a half-written key": lambda folder: half(folder / "server.key"),
    "an empty certificate": lambda folder: (folder / "server.pem").write_bytes(b""),
    "a key of another certificate": another_key,
    "a key that may not be read": lambda folder: (folder / "server.key").chmod(0),
    "no certificate": lambda folder: aside(folder / "server.pem"),
}
BROKEN_TOKENS = {
    "a bad line": lambda path: path.write_text(path.read_text() + "broken\n"),
    "a token that is too long": lambda path: path.write_text(path.read_text() + f"long {'x' * 4001}\n"),
    "nothing in it": lambda path: path.write_text(""),
    "a list that may not be read": lambda path: path.chmod(0),
    "no list": aside,
}


@pytest.mark.parametrize("change", BROKEN_CERTIFICATES.values(), ids=BROKEN_CERTIFICATES)
def test_a_bad_certificate_holds_no_token_back(front: Project, files: Path, change: Callable[[Path], object]) -> None:
    """The certificate of before is shown, a new token gets in, and both are said: to Prometheus, in log and health."""
    token, added = (files / "token").read_text(), secrets.token_hex(24)
    change(files)
    wait_until(lambda: refused(front) == {"certificate"}, FOLLOWS_S, "it is said to Prometheus")
    with (files / "tokens").open("a") as tokens:
        tokens.write(f"\nadded {added}\n")
    wait_until(lambda: status(front, files / "ca.pem", added) == 200, FOLLOWS_S, "the new token gets in")
    assert status(front, files / "ca.pem", token) == 200
    assert "gateway: certificate: the new version cannot be used" in front.logs("gateway")
    check = front.execute("gateway", "sh", "/etc/vitriton/gateway.sh", "check")
    assert check.stdout.startswith("certificate: the gateway uses the last good version: ")
    assert token not in check.stdout + front.logs("gateway")


@pytest.mark.parametrize("change", BROKEN_TOKENS.values(), ids=BROKEN_TOKENS)
def test_a_bad_list_holds_no_certificate_back(
    front: Project, files: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    """The tokens of before get in, by the new certificate."""
    token = (files / "token").read_text()
    make_files(tmp_path / "next")
    change(files / "tokens")
    wait_until(lambda: refused(front) == {"tokens"}, FOLLOWS_S, "it is said to Prometheus")
    for name in CERTIFICATE:
        (files / name).write_bytes((tmp_path / "next" / name).read_bytes())
    wait_until(lambda: status(front, tmp_path / "next" / "ca.pem", token) == 200, FOLLOWS_S, "it is shown")
    assert refused(front) == {"tokens"}


def test_a_triton_elsewhere_is_found(front: Project, files: Path) -> None:
    """With a bad list and a bad certificate too; and while its name is unknown, the list is followed."""
    token, added = (files / "token").read_text(), secrets.token_hex(24)
    ca = files / "ca.pem"
    with elsewhere(front):
        (files / "tokens").write_text(f"test {token}\nadded {added}\n")
        wait_until(lambda: status(front, ca, added) in (503, 504), FOLLOWS_S, "the new token gets in")
        (files / "tokens").write_text("broken\n")
        half(files / "server.key")
    wait_until(lambda: status(front, ca, added) == 200, FOLLOWS_S, "Triton is found")
    wait_until(lambda: refused(front) == {"tokens", "certificate"}, FOLLOWS_S, "the two are not forgotten")
    assert "gateway: address: the new version cannot be used" in front.logs("gateway")


def test_the_longest_token(front: Project, files: Path) -> None:
    """A token of 4000 characters is one that nginx can read."""
    token = "".join(secrets.token_hex(20) for _ in range(100))
    with (files / "tokens").open("a") as tokens:
        tokens.write(f"\nlong {token}\n")
    wait_until(lambda: status(front, files / "ca.pem", token) == 200, FOLLOWS_S, "it gets in")


def test_nobody_who_follows(front: Project) -> None:
    """Where nothing has been looked at for long, the gateway is not healthy: a new certificate would not be shown."""
    script = "touch -d '2020-01-01 00:00:00' /tmp/metrics && sh /etc/vitriton/gateway.sh check"
    check = front.execute("gateway", "sh", "-c", script, check=False)
    assert (check.returncode, "the gateway has not checked" in check.stdout) == (1, True)


def test_its_metrics_are_not_published(front: Project) -> None:
    """They are for the network of the containers; nothing else is there."""
    ports = front.inspect("gateway")["NetworkSettings"]["Ports"]
    assert [port for port, bound in ports.items() if bound] == ["8443/tcp"]
    refuses = "import urllib.request as u; u.urlopen('http://gateway:8082/v2')"
    assert "404" in front.execute("triton", "python3", "-c", refuses, check=False).stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: half(folder / "server.pem"), 'cannot load certificate "'),
        (lambda folder: half(folder / "server.key"), 'cannot load certificate key "'),
        (another_key, "key values mismatch"),
        (
            lambda folder: (folder / "server.key").unlink(),
            "/run/gateway/server.key is missing, or the user with the id",
        ),
        (lambda folder: (folder / "tokens").chmod(0), "/run/gateway/tokens is missing, or the user with the id"),
        (lambda folder: (folder / "tokens").write_text("# none\n"), "/run/gateway/tokens holds no token"),
        (lambda folder: (folder / "tokens").write_text("search short\n"), "line 1: a token has 24 to 4000 characters"),
    ],
)
def test_what_it_does_not_start_with(
    front: Project, tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    """A file that is missing, closed or of no use is named, without a token, and the gateway ends."""
    folder = tmp_path / "files"
    make_files(folder)
    change(folder)
    env = {**front.env, "GATEWAY_FILES": str(folder), "GATEWAY_USER": gateway_user()}
    project = Project(front.name, tmp_path, env, profiles=("gateway",))
    done = project.compose("run", "--rm", "--no-deps", "gateway", check=False)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    assert (folder / "token").read_text() not in done.stdout + done.stderr


def test_it_does_not_start_without_triton(front: Project) -> None:
    """A name that does not resolve is named."""
    name = "nobody-is-called-this.invalid"
    done = front.compose("run", "--rm", "--no-deps", "--env", f"TRITON_HOST={name}", "gateway", check=False)
    assert (done.returncode, f"the name {name} does not resolve" in done.stderr) == (1, True), done.stderr
