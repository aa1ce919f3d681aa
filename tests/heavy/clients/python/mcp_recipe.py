"""An MCP server that counts the calls of each session, and clients of it.

    mcp_recipe.py server NAME
    mcp_recipe.py clients COUNT MODE URL [MODE URL]...

MODE is "legacy", with sessions, or "auto", with the newest version that the server knows. There are COUNT clients of each
URL. They print how many sessions are open. After a line of input for each URL, its place and the name of a server that
is gone, its clients call once more; a client whose session is over begins a new one. Last they end their sessions.
"""

import asyncio
import collections
import logging
import socket
import sys

import httpx2
import uvicorn
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer

CALLS = 5
PROGRESS = 3


def serve(name):
    server = MCPServer(name)
    calls = collections.Counter()

    @server.tool()
    async def count(ctx: Context) -> str:
        session = ctx.request_context.request.headers.get("mcp-session-id")
        calls[session] += 1
        # A streamed response: notifications before the result.
        for step in range(PROGRESS):
            await ctx.report_progress(step + 1, PROGRESS)
        return f"{name} {calls[session]} {session}"

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


class Session:
    """One user: an HTTP client with its cookies, and the MCP session that it has at the moment."""

    def __init__(self, url, mode):
        self.url, self.mode = url, mode
        self.http = httpx2.AsyncClient(timeout=30, event_hooks={"response": [self.see]})
        self.sent_id, self.statuses = None, set()

    async def see(self, response):
        self.sent_id = response.headers.get("mcp-session-id", self.sent_id)
        self.statuses.add(response.status_code)

    async def open(self):
        transport = streamable_http_client(self.url, http_client=self.http)
        self.client = Client(transport, mode=self.mode)
        await self.client.__aenter__()

    async def count(self):
        """The server, its count of the session's calls, and the session's id as the server knows it."""
        seen = []

        async def progress(done, total, message):
            seen.append(done)

        result = await self.client.call_tool("count", progress_callback=progress)
        if result.is_error:
            raise RuntimeError(result.content[0].text)
        server, calls, session = result.content[0].text.split(" ")
        assert len(seen) == PROGRESS, seen
        return server, int(calls), session

    async def close(self):
        await self.client.__aexit__(None, None, None)


async def user(url, mode, report, gone):
    session = Session(url, mode)
    await session.open()
    told = [await session.count() for _ in range(CALLS)]
    servers = {server for server, _, _ in told}
    if mode == "legacy":
        assert len(servers) == 1, f"one session, one server: {told}"
        assert [calls for _, calls, _ in told] == list(range(1, CALLS + 1)), told
    report.put_nowait(told[0][0])
    dead = await gone
    if mode != "legacy":
        assert session.sent_id is None, "this version has no session ids"
        assert (await session.count())[0] != dead
        await session.close()
        return "anew"
    if told[0][0] == dead:
        session.statuses.clear()
        try:
            told = await session.count()
            raise AssertionError(f"the session is over, and was answered: {told}")
        except MCPError as error:
            assert 404 in session.statuses, (session.statuses, error)
        try:
            await session.close()
        except Exception:
            pass
        await session.open()
        server, calls, _ = await session.count()
        assert (server != dead, calls) == (True, 1), (server, calls)
        end = "anew"
    else:
        assert (await session.count())[:2] == (told[0][0], CALLS + 1)
        end = "undisturbed"
    # The client sends DELETE when it closes.
    ended = session.sent_id
    await session.close()
    again = await session.http.post(
        url,
        headers={
            "mcp-session-id": ended,
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2025-11-25",
        } if ended else {},
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    )
    assert again.status_code == 404, f"the ended session: {again.status_code} {again.text}"
    return end


async def clients(place, count, mode, url, gone):
    report = asyncio.Queue()
    users = [asyncio.create_task(user(url, mode, report, gone)) for _ in range(count)]

    async def all_open():
        servers = [await report.get() for _ in range(count)]
        print(f"{place}: {count} open on {len(set(servers))} servers", flush=True)

    opened = asyncio.create_task(all_open())
    done, _ = await asyncio.wait([opened, *users], return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    ends = collections.Counter(await asyncio.gather(*users))
    print(f"{place}: {ends['anew']} anew, {ends['undisturbed']} undisturbed, {count} ended", flush=True)


async def main(count, pairs):
    logging.disable(logging.CRITICAL)
    gone = [asyncio.get_running_loop().create_future() for _ in pairs]

    async def listen():
        for _ in pairs:
            place, name = (await asyncio.to_thread(sys.stdin.readline)).split()
            gone[int(place)].set_result(name)

    places = zip(range(len(pairs)), pairs, gone)
    await asyncio.gather(listen(), *(clients(place, count, *pair, end) for place, pair, end in places))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2])
    else:
        asyncio.run(main(int(sys.argv[2]), list(zip(sys.argv[3::2], sys.argv[4::2]))))
