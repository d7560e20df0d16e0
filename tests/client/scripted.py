"""A TCP server that says what a test wants, byte for byte."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable


class Peer:
    """One connection of a client."""

    def __init__(self, sock: socket.socket, number: int, stopping: threading.Event) -> None:
        self.socket = sock
        self.number = number
        self.stopping = stopping
        self._buffer = b""

    def request(self) -> bytes:
        """The next request, body included; nothing when the client has closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return b""
        head = self._buffer.partition(b"\r\n\r\n")[0]
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        end = len(head) + 4 + length
        while len(self._buffer) < end:
            if not self._more():
                return b""
        request, self._buffer = self._buffer[:end], self._buffer[end:]
        return request

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drip(self, data: bytes, pause_s: float = 0.02) -> None:
        """Sends `data` over and over, a byte at a time, until the client has gone or the test is over."""
        while not self.stopping.is_set():
            for index in range(len(data)):
                self.send(data[index : index + 1])
                if self.stopping.wait(pause_s):
                    return

    def wait(self) -> None:
        """Says nothing until the client has gone or the test is over."""
        while self._more():
            pass

    def reset(self) -> None:
        """Closes the connection so that the client gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def _more(self) -> bool:
        data = self.socket.recv(2**16)
        self._buffer += data
        return bool(data)


class ScriptedServer:
    """Runs `script` in a thread for each connection, and closes the connection when it returns."""

    def __init__(
        self, script: Callable[[Peer], object], context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._script = script
        self._context = context
        self._stopping = threading.Event()
        self._listener = socket.create_server((host, 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "ScriptedServer":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):  # the client has gone
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock, self.connections, self._stopping)
            self.connections += 1
            self._peers.append(peer)
            self._threads.append(threading.Thread(target=self._serve, args=[peer]))
            self._threads[-1].start()

    def _serve(self, peer: Peer) -> None:
        try:
            if self._context is not None:
                peer.socket = self._context.wrap_socket(peer.socket, server_side=True)
            self._script(peer)
        except OSError:  # the client has gone, as it may
            pass
        finally:
            peer.socket.close()


def http(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """A response with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
