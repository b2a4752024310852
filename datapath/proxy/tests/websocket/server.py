"""A server for the proxy's WebSocket cluster, by the `websockets` package. Prints its port, then how each connection ended.

It sends back what it gets, and does what a text that begins with `!` says. Ends with its standard input.
"""

import asyncio
import json
import sys

import websockets

LIMIT = 64 * 1024


def about(ws):
    request = getattr(ws, "request", None)
    path = request.path if request else ws.path
    headers = request.headers if request else ws.request_headers
    offered = headers.get("Sec-WebSocket-Protocol")
    return {"path": path, "host": headers["Host"], "offered": offered, "subprotocol": ws.subprotocol,
            "token": headers.get("X-Token"), "extensions": headers.get("Sec-WebSocket-Extensions")}


async def obey(ws, command, *arguments):
    if command == "!about":
        await ws.send(json.dumps(about(ws)))
    elif command == "!fragments":
        await ws.send(["frag", "", "ments"])
        await ws.send([b"a" * 20_000, b"b" * 20_000])
    elif command == "!ping":
        await asyncio.wait_for(await ws.ping(b"are you there"), 20)
        await ws.send("pong")
    elif command == "!close":
        await ws.close(int(arguments[0]), "bye")
    elif command == "!long":
        await ws.send(b"x" * int(arguments[0]))


async def serve(ws):
    try:
        async for message in ws:
            if isinstance(message, str) and message.startswith("!"):
                await obey(ws, *message.split())
            else:
                await ws.send(message)
    except websockets.ConnectionClosed:
        pass
    await ws.wait_closed()
    print("closed", ws.close_code, flush=True)


def choose(*of):
    """Takes none where none is offered; old versions of the package call with (offered, ours), new ones with (ws, offered)."""
    offered = of[0] if isinstance(of[0], (list, tuple)) else of[1]
    return "beta" if "beta" in offered else None


async def main():
    options = {"subprotocols": ["beta"], "select_subprotocol": choose, "max_size": None}
    server = await websockets.serve(serve, "127.0.0.1", 0, **options)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
