"""Fetching from a hub that fails in every way: all is there at the end, byte for byte, or one line says what isn't.

The hub is a local server that speaks as much of the Hugging Face protocol as a download needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nightschool.config import UserError
from nightschool.text import hub

REPO, SHA = "town/talk", "5" * 40
FAULTS = ("none", "drop", "stall", "truncate", "429", "500")
FILES = {f"data/{name}.txt": f"{name} ".encode() * 300_000 for name in FAULTS} | {"README.md": b"talk"}


class Hub(ThreadingHTTPServer):
    """faults: path -> what goes wrong on the first requests of that file."""

    daemon_threads = True

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.faults, self.asked, self.sent = faults, Counter[str](), Counter[str]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def say(self, body: bytes, status: int = 200, **headers: Any) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/datasets/{REPO}/tree"):
            tree = [{"type": "file", "path": name, "size": len(d), "oid": oid(d)} for name, d in FILES.items()]
            self.say(json.dumps(tree).encode())
        elif path.startswith(f"/api/datasets/{REPO}"):
            self.say(json.dumps({"id": REPO, "sha": SHA}).encode())
        elif path.startswith("/api/"):
            self.say(b"{}", 404, X_Error_Code="RepoNotFound")
        else:
            self.file(path.partition(f"/resolve/{SHA}/")[2])

    do_HEAD = do_GET

    def file(self, name: str) -> None:
        data, about = FILES[name], {"ETag": f'"{oid(FILES[name])}"', "X_Repo_Commit": SHA}
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-") or 0)
        key = f"{self.command} {name}"
        self.server.asked[key] += 1
        fault = self.server.faults.get(name, "none") if self.server.asked[key] == 1 else "none"
        if self.command == "HEAD" or fault == "none":
            self.server.sent[name] += len(data) - start if self.command == "GET" else 0
            self.say(data[start:], 206 if start else 200, **about)
        elif fault == "drop":
            self.connection.close()
        elif fault == "429":
            self.say(b"", 429, Retry_After=0)
        elif fault == "500":
            self.say(b"", 500)
        else:
            self.send_response(200)
            for key, value in {"Content-Length": len(data), **about}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(data[:1_000_000])
            self.wfile.flush()
            self.server.sent[name] += 1_000_000
            if fault == "stall":
                time.sleep(4)
            self.connection.close()


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


SCRIPT = """
import sys
from huggingface_hub import constants
from nightschool.config import UserError
from nightschool.text import hub

def fetch(source, **how):
    try:
        print(*hub.fetch(source, **how))
    except UserError as error:
        print(error)

fetch("hub:town/talk/data/*.txt", waits=())
fetch("hub:town/talk/data/*.txt", waits=(0.1, 0.1))
fetch("hub:town/talk/data/*.html")
fetch("hub:town/walk/data/*.txt")
constants.HF_HUB_OFFLINE = True
fetch("hub:town/talk/data/*.txt")
"""


def test_all_is_there_at_the_end(tmp_path: Path) -> None:
    server = Hub({f"data/{fault}.txt": fault for fault in FAULTS})
    env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}
    env |= {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    with server:
        done = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, **env}, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    gave_up, whole, none, refused, offline = done.stdout.splitlines()
    assert gave_up.startswith(f"cannot fetch hub:town/talk/data/*.txt from {server.url} (Server error '500")
    assert "the same command goes on" in gave_up
    found = [Path(name) for name in whole.split()]
    assert [f"data/{file.name}" for file in found] == sorted(name for name in FILES if name.startswith("data"))
    assert all(file.read_bytes() == FILES[f"data/{file.name}"] for file in found)
    assert "6 of 6 files are missing, 0.0099 GB to fetch" in done.stderr
    assert server.asked["GET data/none.txt"] == 1  # what came is kept
    assert not none
    assert refused.startswith("hub:town/walk/data/*.txt: ")
    assert "404" in refused
    assert offline == whole


@pytest.mark.parametrize("name", ["climbmx", "town", "town/talk", "/talk/data"])
def test_refuses_what_names_no_files(name: str) -> None:
    with pytest.raises(UserError, match="owner/name/pattern") as error:
        hub.fetch(f"hub:{name}")
    assert ("did you mean climbmix?" in str(error.value)) == (name == "climbmx")


def test_datasets_name_files() -> None:
    assert all(len(name.split("/", 2)) == 3 for name in hub.DATASETS.values())
