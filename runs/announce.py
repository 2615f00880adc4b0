"""pip's report of a dry run (stdin) -> one line that says what it will download, and how large that is."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen


def num_bytes(item: dict[str, Any]) -> int:
    """Of one package's file: on disk, or as the index says it is."""
    url = item["download_info"]["url"]
    if urlparse(url).scheme == "file":
        path = unquote(urlparse(url).path)
        return 0 if os.path.isdir(path) else os.path.getsize(path)  # a folder is this repository itself
    with urlopen(Request(url, method="HEAD"), timeout=5) as answer:
        return int(answer.headers["Content-Length"])


def main() -> None:
    items = json.load(sys.stdin)["install"]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(num_bytes, items))
    names = [f"{item['metadata']['name']} {item['metadata']['version']}" for item in items]
    largest = sorted(zip(sizes, names, strict=True), reverse=True)[:4]
    listed = ", ".join(f"{name} ({size / 1e6:,.0f} MB)" for size, name in largest)
    print(f"downloading {len(items)} packages, {sum(sizes) / 1e6:,.0f} MB: {listed}, ...")
    if any(name.startswith("nvidia") for name in names):
        print("this is torch with CUDA; without a GPU see runs/environment.sh for the smaller build")


if __name__ == "__main__":
    main()
