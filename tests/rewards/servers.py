"""Services on loopback that do what a test says, one reply after another."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What a service was asked, and where it is."""

    def __init__(self, url):
        self.url = url
        self.asked = []
        self.headers = []
        self.times = []
        self.at_once = 0
        self.most_at_once = 0


@contextmanager
def serving(reply):
    """A service. ``reply(payload, nth)`` gives what it says: JSON, or ``(status, headers, bytes)``; None: nothing."""
    lock, over = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                nth = len(served.asked)
                served.asked.append(payload)
                served.headers.append({name.lower(): value for name, value in self.headers.items()})
                served.times.append(time.monotonic())
                served.at_once += 1
                served.most_at_once = max(served.most_at_once, served.at_once)
            try:
                said = reply(payload, nth)
            finally:
                with lock:
                    served.at_once -= 1
            if said is None:
                over.wait(20)
                return
            status, headers, body = said if isinstance(said, tuple) else (200, {}, json.dumps(said).encode())
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):  # who has hung up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield served
    finally:
        over.set()
        server.shutdown()
        server.server_close()
