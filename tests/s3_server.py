"""An S3-compatible server (moto's) in a process of its own, behind a line that can be cut."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_HOP = {"connection", "transfer-encoding", "content-length", "expect"}


class Server:
    """The server itself; what it holds is lost when it is killed."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._log, self.uri = log, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **KEYS})
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert self.process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def buckets(self) -> "boto3.client":
        return boto3.client(
            "s3",
            endpoint_url=self.uri,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def refuse(self, uri_of_nobody: str = "/moto-api/reset-auth") -> None:
        """From now on requests need keys that the server knows, and it knows none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", uri_of_nobody, body="0")
        assert connection.getresponse().status == 200


class Line:
    """What stands between a reader and the server.

    Attributes:
        asked: method and path of every request.
        fault: what becomes of a request, by method and path: None (it is passed on), "drop" (the connection
            ends without an answer), "cut" (half of the body comes) or "hang" (nothing comes).
        refuses_nobody: requests without a signature are answered by 403, as S3 does (moto fails at them).
    """

    def __init__(self, server: Server) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], str | None] = lambda method, path: None
        self.refuses_nobody = False
        self._server, self._over = server, threading.Event()
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, http.client.HTTPException):  # either side is gone
                    self.close_connection = True

            def _passed_on(self) -> None:
                line._pass_on(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _passed_on

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown()
        self._listener.server_close()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append((request.command, path))
        fault = self.fault(request.command, path)
        if fault == "hang":
            self._over.wait(120)
        if fault in ("hang", "drop"):
            request.close_connection = True
            return
        body = _body(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        if self.refuses_nobody and "Authorization" not in request.headers:
            request.send_response(403)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        far = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        far.request(request.command, request.path, body, headers)
        answer = far.getresponse()
        content = answer.read()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                request.send_header(name, value)
        length = len(content) if request.command != "HEAD" else int(answer.getheader("Content-Length", 0))
        request.send_header("Content-Length", str(length))
        request.end_headers()
        if fault == "cut":
            content, request.close_connection = content[: len(content) // 2], True
        request.wfile.write(content)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    body = b""
    while size := int(request.rfile.readline().partition(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    while request.rfile.readline().strip():  # trailers
        pass
    return body
