#!/usr/bin/env bash
# Importing torch makes each full garbage collection of a Python process stop it for about a tenth of a second, for good. torch
# leaves some 170,000 objects that the collector walks through, a dozen times as many as a process has without it, and a full
# collection visits all that is alive, whether garbage is near or not. An asyncio server, or a loader, in which requests leave
# objects behind has one now and then, at moments of the collector's choosing: its slowest answers are 0.1 s slower than its
# network. gc.freeze() once everything is imported takes those objects out of the count, and the stops are gone. Servers of
# language models (vLLM, SGLang) freeze for what they build; here it is the import alone.
#
# Seen 2026-11-30 with torch 2.15.0 (CPU), NumPy 2.4.6, Python 3.11.7, on an AMD EPYC; 20,000 small requests to asyncio, whose last
# 2,000 results are kept, and processor time of the event loop's thread:
#   no torch: 14641 objects, 1 full collections, up to 12 ms, one that is asked for 11 ms
#   torch: 185644 objects, 1 full collections, up to 106 ms, one that is asked for 112 ms
#   torch, frozen: 185644 objects, 0 full collections, up to 0 ms, one that is asked for 7 ms
# A guess that fails: "a library that is only imported costs a request nothing".
# What works: gc.freeze() after the imports and the first request.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$folder/server.py" <<'PY'
import asyncio
import gc
import json
import sys
import time

if sys.argv[1] != "no torch":
    import torch  # noqa: F401
objects = len(gc.get_objects())
if sys.argv[1] == "torch, frozen":
    gc.freeze()
taken, begun = [], 0.0


def watch(phase: str, collection: dict) -> None:
    global begun
    if phase == "start":
        begun = time.thread_time()
    elif collection["generation"] == 2:
        taken.append(time.thread_time() - begun)


async def request(kept: list, number: int) -> None:
    kept.append([{"id": number, "box": [i]} for i in range(20)])
    if len(kept) > 2000:
        del kept[0]
    await asyncio.sleep(0)


async def serve() -> None:
    kept = []
    for number in range(20_000):
        await request(kept, number)
    gc.collect()


gc.callbacks.append(watch)
asyncio.run(serve())
print(json.dumps([objects, len(taken) - 1, 1000 * max(taken[:-1], default=0), 1000 * taken[-1]]))
PY
cat > "$folder/compare.py" <<'PY'
import json
import subprocess
import sys

found = {}
for name in ("no torch", "torch", "torch, frozen"):
    said = subprocess.run([sys.executable, sys.argv[1], name], check=True, capture_output=True, text=True).stdout
    found[name] = objects, full, longest, asked = json.loads(said)
    print(f"{name}: {objects} objects, {full} full collections, up to {longest:.0f} ms, one that is asked for {asked:.0f} ms")
plain, heavy, frozen = found.values()
sys.exit(not (heavy[0] > 8 * plain[0] and heavy[1] >= 1 and heavy[2] > 3 * max(plain[2:]) and frozen[3] < heavy[2] / 3))
PY
"$folder/venv/bin/python" "$folder/compare.py" "$folder/server.py"
