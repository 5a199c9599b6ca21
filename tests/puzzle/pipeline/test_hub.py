"""Claims about uploading a child, to a Hub that listens on this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """Makes a repository and takes commits, as the Hub's HTTP interface does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            answer = {"url": f"{here}/me/child"}
        elif self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            answer = {"errors": [], "warnings": []}
        elif self.path == "/api/models/me/child/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif self.path == "/api/models/me/child/commit/main":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[entry["value"]["path"]] = content
                else:
                    self.server.messages.append(entry["value"]["summary"])
            answer = {"commitUrl": f"{here}/me/child/commit/1", "commitOid": "1", "success": True}
        else:
            self.send_error(404)
            return
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.created, server.cards, server.files, server.messages = [], [], {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_pushed_is_what_is_saved(found, hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    options = {"token": "hf_nothing", "endpoint": endpoint, "commit_message": "A child"}
    url = found.push_to_hub("me/child", private=True, **options)
    assert url == f"{endpoint}/me/child/commit/1"
    assert hub.created == [{"name": "child", "organization": "me", "visibility": "private"}]
    assert "Child of parent" in hub.cards[0]
    assert hub.messages == ["A child"]
    saved = found.save(tmp_path / "child")
    expected = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert hub.files == expected
