"""A file server on this machine that misbehaves in every way that has been seen."""

import http.server
import threading
import time

import numpy as np

CONTENT = b"PK\x03\x04" + np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /<how>/<file>; `how` is a word of Handler. `asked` has (path, Range) of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.content, self.etag = CONTENT, '"one"'
        self.files: dict[str, bytes] = {}  # name -> content, where it is another
        self.dying = True  # whether "dead" breaks off
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, how: str, file: str = "w.pyth") -> str:
        return f"http://127.0.0.1:{self.server_port}/{how}/{file}"

    def handle_error(self, *_: object) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        how, server = self.path.split("/")[1], self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        count = sum(path == self.path for path, _ in server.asked)
        if how == "missing":
            self.send_error(404)
            return
        if how == "busy" and count < 3:
            self.send_error(503)
            return
        if how in ("page", "disguised"):
            body = b"\n<!DOCTYPE html><html>sign in</html>"
            kind = "text/html; charset=utf-8" if how == "page" else "application/octet-stream"
            self._answer(200, body, {"Content-Type": kind})
            return
        whole = server.files.get(self.path.rpartition("/")[2], server.content)
        headers = {"Content-Type": "application/octet-stream"}
        if how != "plain":
            headers["ETag"] = server.etag
        same = self.headers.get("If-Range") in (None, server.etag)
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same and how != "plain" else 0
        )
        if start >= len(whole):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        stop = {"drop": 1_000_000, "plain": 1_000_000 if count == 1 else None, "dead": 1_000_000}.get(how)
        if how == "dead" and (count > 1 or not server.dying):
            stop = 0 if server.dying else None
        if how == "stall" and count == 1:
            stop = 1_000_000
        slow = 0.5 if how == "slow" else 0.0
        self._answer(206 if start else 200, whole[start:], headers, stop=stop, slow=slow)

    def _answer(
        self, code: int, body: bytes, headers: dict, *, stop: int | None = None, slow: float = 0
    ) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        time.sleep(slow)
        self.wfile.write(body[:stop])
        if "/stall/" in self.path and stop:
            time.sleep(10)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
