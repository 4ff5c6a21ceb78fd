"""A CRDS server in a thread: the remote calls and downloads that the crds package makes when it fills a cache."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CrdsServer:
    """Serves a cache that a test has written; what it does wrong can be set."""

    def __init__(self, cache, observatory=None):
        self.cache, self.observatory = cache, observatory or cache.observatory
        self.broken = {}
        self.asked = []
        self.bad_files = []
        self.context = cache.context

    def files(self):
        return {path.name: path for folder in (self.cache.mappings, self.cache.references) for path in folder.iterdir()}

    def info(self):
        sizes = {
            name: {"size": str(path.stat().st_size), "sha1sum": hashlib.sha1(path.read_bytes()).hexdigest()}
            for name, path in self.files().items()
        }
        urls = {self.observatory: f"{self.url}/files/"}
        return {
            "observatory": self.observatory, "operational_context": self.context, "latest_context": self.context,
            "bad_files_list": self.bad_files, "mapping_url": urls, "reference_url": urls, "download_metadata": sizes,
            "crds_version": {"str": "14.0.0"}, "force_remote_mode": False, "last_synced": "never",
        }  # fmt: skip

    def answer(self, method, parameters):
        if method == "get_server_info":
            return self.info()
        if parameters[0] not in self.files():
            raise KeyError(f"No such context {parameters[0]}")
        suffixes = (".pmap", ".imap", ".rmap") if method == "get_mapping_names" else (".fits",)
        return [name for name in self.files() if name.endswith(suffixes)]


@contextmanager
def serve(cache, observatory=None):
    served = CrdsServer(cache, observatory)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append(call["method"])
            try:
                answer = {"error": None, "result": served.answer(call["method"], call["params"])}
            except KeyError as error:
                answer = {"error": {"message": str(error)}, "result": None}
            self.reply(json.dumps(answer).encode())

        def do_GET(self):
            name = re.sub(".*/", "", self.path)
            served.asked.append(name)
            self.reply(served.broken.get(name, served.files()[name].read_bytes()))

        def reply(self, data):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
