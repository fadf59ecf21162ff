"""A stand-in for kube-proxy, run by the system's Python under that name: writes its rules and holds its ports.

`kube-proxy program.py COMMAND FILE [ports|no-ports]`: COMMAND is what loads FILE (`nft -f`, `iptables-nft-restore
--noflush`); SIGUSR1 has it loaded again, as at a full sync. A port that is taken is tried again. Runs until it is
killed, and knows nothing of rulegen.
"""

from __future__ import annotations

import http.server
import json
import shlex
import signal
import socketserver
import subprocess
import sys
import threading
import time
from types import FrameType

PORTS = {10249: "/proxyMode", 10256: "/healthz"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mode = "nftables" if "nft -f" in sys.argv[1] else "iptables"
        now = {"lastUpdated": "2026-01-01T00:00:00Z", "currentTime": "2026-01-01T00:00:00Z"}
        body = (mode if self.path == "/proxyMode" else json.dumps(now)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve(port: int) -> None:
    while True:
        try:
            server = Server(("127.0.0.1", port), Handler)
        except OSError:
            time.sleep(0.2)
            continue
        server.serve_forever()


def load(number: int = 0, frame: FrameType | None = None) -> None:
    subprocess.run([*shlex.split(sys.argv[1]), sys.argv[2]], check=True)


def main() -> None:
    load()
    signal.signal(signal.SIGUSR1, load)
    if sys.argv[3] == "ports":
        for port in PORTS:
            threading.Thread(target=serve, args=(port,), daemon=True).start()
    sys.stdout.write("synced\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
