"""A stand-in for the hub on 127.0.0.1: what its client asks for when it uploads and downloads."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_standin"


class Hub(ThreadingHTTPServer):
    """Repositories as ``{id: {branch: {path: bytes}}}``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.forbidden: set[str] = set()
        self.commits = 0
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def sha_of(files: dict[str, bytes]) -> str:
    told = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())
    return hashlib.sha1(json.dumps(told).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, code: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, code: int, kind: str, said: str = "") -> None:
        self._send(code, {"error": said or kind}, X_Error_Code=kind, X_Error_Message=said or kind)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        branches = self.server.repos.get(repo)
        if branches is None or (self.server.private[repo] and not self._known()):
            self._refuse(401 if not self._known() else 404, "RepoNotFound")
            return None
        by_sha = {sha_of(files): files for files in branches.values()}
        found = branches.get(revision, by_sha.get(revision))
        if found is None:
            self._refuse(404, "RevisionNotFound")
        return found

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if (files := self._files(m[1], m[2] or "main")) is not None:
                told = [{"rfilename": p} for p in files]
                self._send(200, {"id": m[1], "modelId": m[1], "sha": sha_of(files),
                                 "private": self.server.private[m[1]], "siblings": told,
                                 "tags": [], "downloads": 0})  # fmt: skip
        elif m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if (files := self._files(m[1], m[2])) is not None:
                self._send(200, [{"type": "file", "path": p, "size": len(d),
                                  "oid": hashlib.sha1(d).hexdigest()}
                                 for p, d in files.items()])  # fmt: skip
        elif m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (files := self._files(m[1], m[2])) is None:
                return
            if m[3] not in files:
                self._refuse(404, "EntryNotFound")
                return
            self._send(200, files[m[3]], X_Repo_Commit=sha_of(files),
                       ETag=f'"{hashlib.sha1(files[m[3]]).hexdigest()}"')  # fmt: skip
        else:
            self._refuse(404, "Unknown", path)

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._send(200, {})
        if not self._known():
            return self._refuse(401, "Unauthorized", "Invalid username or password.")
        if path == "/api/repos/create":
            told = json.loads(data)
            repo = f"{told['organization']}/{told['name']}"
            if told["organization"] in self.server.forbidden:
                return self._refuse(403, "Forbidden", "You don't have the rights")
            code = 409 if repo in self.server.repos else 200
            if code == 200:
                self.server.repos[repo] = {"main": {}}
                self.server.private[repo] = told.get("visibility") == "private"
            return self._send(code, {"url": f"{self.server.url}/{repo}", "name": repo})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path)
        if found is None:
            return self._refuse(404, "Unknown", path)
        repo, what, revision = found.groups()
        branches = self.server.repos[repo]
        if what == "branch":
            branches.setdefault(revision, dict(branches["main"]))
            return self._send(200, {})
        if what == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(data)["files"]]  # fmt: skip
            return self._send(200, {"files": files})
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                branches[revision][line["value"]["path"]] = content
        self.server.commits += 1
        oid = sha_of(branches[revision])
        return self._send(200, {"success": True, "commitOid": oid,
                                "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})  # fmt: skip
