"""A connection to either imitation: how a request's body is read, an answer sent, and the line cut."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler
from typing import Any


class Dropped(Exception):
    """The connection was closed on purpose."""


class Connection(BaseHTTPRequestHandler):
    """What both servers do alike."""

    protocol_version = "HTTP/1.1"
    # One packet for head and body: otherwise every answer waits 40 ms for the client's delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def body(self) -> bytes:
        """Read the request's body, in chunks or of known length."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.connection.shutdown(socket.SHUT_RDWR)
        raise Dropped
