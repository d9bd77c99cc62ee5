#!/usr/bin/env bash
# uvicorn's --limit-concurrency N serves N - 1 clients, and counts those that ask for nothing. Its help calls N the "maximum number
# of concurrent connections or tasks to allow". The check comes after the new connection was counted and asks for fewer than N,
# so that a limit of 1, one image at a time for a network that needs all the memory, answers every request with 503. And what
# is compared first is open connections: a client that got its answer and keeps its connection for the next one, as browsers,
# proxies and Python's client sessions do, holds a place for as long as timeout_keep_alive. A server that computes nothing
# turns clients away.
#
# Seen 2026-11-30 with uvicorn 0.54.0, h11 0.16.0, Python 3.11.7; the answers to clients that ask once each, one after the other,
# and close their connection after the answer, or keep it:
#   limit 1, connections closed: [503, 503, 503, 503]
#   limit 2, connections closed: [200, 200, 200, 200]
#   limit 4, connections closed: [200, 200, 200, 200]
#   limit 4, connections kept: [200, 200, 200, 503]
#   limit 5, connections kept: [200, 200, 200, 200]
# A guess that fails: "with a limit of 4, four requests are served at a time, and idle clients cost nothing".
# What works: a semaphore around the work itself, and uvicorn's limit far above the number of clients.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0
cat > "$folder/limit.py" <<'PY'
import asyncio
import socket
import sys

import uvicorn


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def ask(port: int, keep: bool) -> tuple[int, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + (b"keep-alive" if keep else b"close") + b"\r\n\r\n")
    status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
    if not keep:
        writer.close()
        await asyncio.sleep(0.05)
    return status, writer


async def statuses(limit: int, clients: int, keep: bool) -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        config = uvicorn.Config(
            app, limit_concurrency=limit, http="h11", loop="asyncio", lifespan="off", log_level="critical", timeout_keep_alive=60
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[door]))
        while not server.started:
            await asyncio.sleep(0.01)
        answers = [await ask(door.getsockname()[1], keep) for _ in range(clients)]
        for _, writer in answers:
            writer.close()
        server.should_exit = True
        await serving
    return [status for status, _ in answers]


found = {}
for limit, keep in ((1, False), (2, False), (4, False), (4, True), (5, True)):
    found[limit, keep] = asyncio.run(statuses(limit, 4, keep))
    print(f"limit {limit}, connections {'kept' if keep else 'closed'}: {found[limit, keep]}")
served, refused = [200] * 4, [503] * 4
right = found[1, False] == refused and found[2, False] == found[4, False] == found[5, True] == served
sys.exit(not (right and found[4, True] == [200, 200, 200, 503]))
PY
"$folder/venv/bin/python" "$folder/limit.py"
