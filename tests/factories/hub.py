"""A Hub that listens on this machine: repositories are made, committed to and read."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hub's HTTP interface does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.server.created.append(made := json.loads(body))
            answer = {"url": f"{here}/{made['organization']}/{made['name']}"}
        elif self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            answer = {"errors": [], "warnings": []}
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/commit/main", self.path):
            self._commit(body)
            answer = {"commitUrl": f"{here}/me/x/commit/1", "commitOid": COMMIT, "success": True}
        else:
            self.send_error(404)
            return
        self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _commit(self, body):
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.files[entry["value"]["path"]] = content
            else:
                self.server.messages.append(entry["value"]["summary"])

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        about = re.fullmatch(
            r"/api/models/([^/]+/[^/?]+)(/revision/[^/?]+|/tree/.+)?(\?.*)?", self.path
        )
        if about is not None:
            self._send(
                json.dumps(self._about(about)).encode(), {"Content-Type": "application/json"}
            )
            return
        asked = re.fullmatch(r"/[^/]+/[^/]+/resolve/([^/]+)/(.+)", self.path)
        if asked is None or asked[2] not in self.server.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files[asked[2]]
        if body:
            self.server.read.append(asked[2])
        etag = hashlib.sha256(content).hexdigest()
        self._send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)

    def _about(self, about):
        """The commit of a repository, or its files."""
        if not (about[2] or "").startswith("/tree/"):
            return {"id": about[1], "sha": COMMIT, "siblings": []}
        return [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in self.server.files.items()
        ]

    def _send(self, content, headers, body=True):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub():
    """Yields a server: `endpoint`, what was `created`, the `files`, and which were `read`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    server.created, server.cards, server.files, server.messages = [], [], {}, []
    server.read = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
