"""WebSocket clients that connect again when they are closed; their server is node/websocket.mjs.

    websocket.py clients URL COUNT

They print how many sockets are open. After a line of input, the name of a server that will be drained and the
milliseconds until its deadline, they print "waiting", wait until its sockets are closed, and open them again.
"""

import asyncio
import sys
import time

from websockets.asyncio.client import connect


async def open_socket(url, jar):
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())} if jar else {}
    socket = await connect(url, additional_headers=headers, ping_interval=None, open_timeout=30)
    for field in socket.response.headers.get_all("Set-Cookie"):
        name, value = field.split(";")[0].split("=", 1)
        jar[name] = value
    return socket


async def ask(socket, text):
    """The server of a socket."""
    await socket.send(text)
    name, echo = (await socket.recv()).split(": ")
    assert echo == text, (echo, text)
    return name


async def clients(url, count):
    jars = [{} for _ in range(count)]
    sockets = await asyncio.gather(*(open_socket(url, jar) for jar in jars))
    servers = await asyncio.gather(*(ask(socket, "which") for socket in sockets))
    print(f"{count} on {len(set(servers))} servers", flush=True)
    drained, deadline = (await asyncio.to_thread(sys.stdin.readline)).split()
    too_early = time.monotonic() + int(deadline) / 1000
    print("waiting", flush=True)
    early = 0

    async def move(socket, jar):
        nonlocal early
        assert await ask(socket, "again") == drained, "until its time it works"
        await socket.wait_closed()
        early += time.monotonic() < too_early
        return await ask(await open_socket(url, jar), "again") != drained

    users = list(zip(sockets, jars, servers))
    moved = await asyncio.gather(*(move(socket, jar) for socket, jar, server in users if server == drained))
    # They work, so they were not closed.
    kept = [await ask(socket, "again") == server for socket, _, server in users if server != drained]
    print(f"{sum(moved) + sum(kept)} of {count}, {early} early", flush=True)


asyncio.run(clients(sys.argv[2], int(sys.argv[3])))
