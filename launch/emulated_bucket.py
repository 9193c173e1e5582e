"""A bucket on this machine, to try `--workdir gs://bucket/RUN` without an account.

    python launch/emulated_bucket.py PORT &
    export STORAGE_EMULATOR_HOST=http://localhost:PORT TENSORSTORE_GCS_HTTP_URL=http://localhost:PORT

It is gcp-storage-emulator (extra `test`) in memory, with what TensorStore relies on and it lacks: a
download tells its object's generation, and a write may ask for the generation that it replaces.
"""

import functools
import sys
import threading
import time
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

NAME = "bucket"


class Bucket:
    """The server of the bucket `gs://bucket`, as a context manager."""

    def __init__(self, port: int = 0):
        """Takes a port; 0: a free one."""
        self.refuses = 0
        """How many of the next requests are answered by 503, service unavailable."""
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket(NAME, self.storage)
        make = functools.partial(_Handler, self)
        self._http = _Server(("localhost", port), make)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> "Bucket":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which gcsfs, Google's client and TensorStore find it."""
        url = f"http://localhost:{self._http.server_address[1]}"
        return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}

    def names(self) -> list[str]:
        """Returns the names of the objects."""
        return sorted(self.storage.objects.get(NAME, {}))

    def content(self, name: str) -> bytes:
        """Returns an object's content."""
        return bytes(self.storage.get_file(NAME, name))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


class _Handler(server.RequestHandler):
    generation = ""
    lock = threading.Lock()  # the emulator's storage is for one request at a time

    def __init__(self, bucket: Bucket, *args: Any):
        self.bucket = bucket
        super().__init__(bucket.storage, *args)

    def handle_one(self, method: str) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        with self.lock:
            refused = self.bucket.refuses > 0
            self.bucket.refuses -= refused
        if refused:
            self.rfile.read(size)
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        name = query.get("name", [unquote(url.path.partition("/o/")[2])])[0]
        with self.lock:
            now = self._generation(name)
            wanted = query.get("ifGenerationMatch", [now])[0]
            if wanted != now:
                self.rfile.read(size)
                self._refuse(HTTPStatus.PRECONDITION_FAILED)
                return
            self.generation = now if method == "GET" and now != "0" else ""
            server.Router(self).handle(method)

    def _generation(self, name: str) -> str:
        """Returns an object's generation; 0: there is none."""
        try:
            return str(self.storage.get_file_obj(NAME, name)["generation"])
        except NotFound:
            return "0"

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status.value, status.phrase)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def end_headers(self) -> None:
        if self.generation:
            self.send_header("x-goog-generation", self.generation)
        super().end_headers()

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def do_PUT(self) -> None:
        self.handle_one("PUT")

    def do_PATCH(self) -> None:
        self.handle_one("PATCH")

    def do_DELETE(self) -> None:
        self.handle_one("DELETE")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("usage: launch/emulated_bucket.py PORT")
    with Bucket(int(sys.argv[1])) as bucket:
        print(f"gs://{NAME} is there", flush=True)
        while True:
            time.sleep(3600)
