"""A server of the part of NDIF's protocol that a polling client uses; its jobs really run.

Started as a process of its own, where lensbench cannot be imported: what a job needs of it has to
come with the job. Takes the folder of a model and a dtype; prints its port. The key ``refused`` is
refused; ``/seen`` tells what was asked.
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar


class Handler(BaseHTTPRequestHandler):
    model: ClassVar[Any] = None
    seen: ClassVar[list[dict[str, Any]]] = []
    jobs: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[dict[str, int]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mark = b"--" + self.headers["Content-Type"].split("boundary=")[1].encode()
        parts = [p.split(b"\r\n\r\n", 1) for p in body.split(mark) if b"\r\n\r\n" in p]
        form = {h.split(b'name="')[1].split(b'"')[0].decode(): v[:-2] for h, v in parts}
        envelope = json.loads(form["data"])
        key = self.headers.get("ndif-api-key", "")
        self.seen.append({"path": self.path, "key": key, "envelope": envelope})
        if key == "refused":
            self.give(json.dumps({"detail": "this key may not use this model"}).encode(), 401)
            return
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = self.run(form["blob"], compress=envelope["compress"])
        self.tell(name, "RECEIVED")

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.path == "/seen":
            self.give(json.dumps(self.seen).encode())
        elif self.path.startswith("/result"):
            self.give(self.jobs[name])
        else:
            self.asked[name] = self.asked.get(name, 0) + 1
            here = f"http://127.0.0.1:{self.server.server_address[1]}/result/{name}"
            done = self.asked[name] > 1  # a job waits for one question in the queue
            self.tell(name, "COMPLETED" if done else "QUEUED", here if done else None)

    def run(self, blob: bytes, *, compress: bool) -> bytes:
        import torch
        import zstandard
        from nnsight.schema.request import RequestModel
        from nnsight.tracing import tracer as tracing

        objects = self.model._remoteable_persistent_objects()
        tracer = RequestModel.deserialize(blob, objects, compress)
        tracing.inc()
        try:
            tracer.execute(tracer.info.code)
            saved = tracing._saves()
            found = {k: v for k, v in tracer.info.frame.f_locals.items() if id(v) in saved}
        finally:
            tracing.dec()
        out = io.BytesIO()
        torch.save(found, out)
        return zstandard.ZstdCompressor().compress(out.getvalue()) if compress else out.getvalue()

    def tell(self, name: str, status: str, data: str | None = None) -> None:
        self.give(json.dumps({"id": name, "status": status, "data": data}).encode())

    def give(self, content: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        del args


if __name__ == "__main__":
    sys.modules["lensbench"] = None  # pyright: ignore[reportArgumentType]
    import nnsight
    import torch
    from transformers import AutoTokenizer

    Handler.model = nnsight.TransformersModel(
        sys.argv[1],
        task="text-generation",
        dispatch=True,
        dtype=getattr(torch, sys.argv[2]) if len(sys.argv) > 2 else None,
        tokenizer=AutoTokenizer.from_pretrained(sys.argv[1]),
    )
    http = HTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{http.server_address[1]}\n")
    sys.stdout.flush()
    http.serve_forever()
