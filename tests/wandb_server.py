"""As much of wandb's server as a run talks to: it keeps history lines by run id, and says what it has of a run."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """history: run id -> rows as they came. runs: run id -> the newest variables of its creation. ended: exit codes."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, name: str, v: dict[str, Any]) -> dict[str, Any]:
        if name == "RunResumeStatus":
            project = {"id": "UA==", "name": v["project"], "entity": {"id": "RQ==", "name": "somebody"}}
            return {"model": {**project, "bucket": self._resumable(v["name"])}}
        if name == "UpsertBucket":
            known = v["name"] in self.runs
            self.runs[v["name"]] = {**self.runs.get(v["name"], {}), **{k: x for k, x in v.items() if x}}
            project = {"id": "UA==", "name": v["project"], "entity": {"name": "somebody"}}
            bucket = {
                "id": "QnVja2V0",
                "name": v["name"],
                "displayName": v["displayName"] or "",
                "config": "{}",
            }
            bucket |= {"historyLineCount": len(self.history.get(v["name"], [])), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/storage/{i}"} for i, f in enumerate(v["files"])]
            return {"createRunFiles": {"runID": "QnVja2V0", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run_id: str, said: dict[str, Any]) -> None:
        lines = said.get("files", {}).get("wandb-history.jsonl")
        if lines:
            kept = self.history.setdefault(run_id, [])
            kept[lines["offset"] :] = [json.loads(line) for line in lines["content"]]
        if said.get("complete"):
            self.ended[run_id] = said["exitcode"]

    def _resumable(self, run_id: str) -> dict[str, Any] | None:
        if run_id not in self.runs:
            return None
        rows = self.history.get(run_id, [])
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        bucket = {"id": "QnVja2V0", "name": run_id, "displayName": "", "summaryMetrics": "{}", "config": "{}"}
        bucket |= {
            "historyLineCount": len(rows),
            "historyTail": tail,
            "eventsLineCount": 0,
            "eventsTail": "[]",
        }
        return bucket | {"logLineCount": 0, "tags": [], "notes": None, "wandbConfig": '{"t": 1}'}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            out: dict[str, Any] = {}
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                out = {"data": server.answer(named[1] if named else "", asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            self._say(out)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._say({})

        def do_GET(self) -> None:
            self._say({})

        def _say(self, value: dict[str, Any]) -> None:
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler
