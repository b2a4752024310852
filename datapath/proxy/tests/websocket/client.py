"""A client of the proxy's WebSocket listener, by the `websockets` package: every scenario prints its name when it held.

python3 client.py PORT; any path leads to an Echo cluster, subprotocols are [alpha, beta].
"""

import asyncio
import sys

import websockets

ADDRESS = f"ws://127.0.0.1:{sys.argv[1]}"
LIMIT = 64 * 1024


def connect(path="/", **options):
    return websockets.connect(ADDRESS + path, max_size=None, open_timeout=20, **options)


def expect(is_, expected):
    assert is_ == expected, f"{str(is_)[:200]} instead of {str(expected)[:200]}"


async def echoed(ws, message):
    await ws.send(message)
    return await asyncio.wait_for(ws.recv(), 20)


async def types_are_kept():
    async with connect() as ws:
        for message in ["", "text", "\u20ac\U0001f600", b"", b"\x00\xff", "x" * 70, b"x" * 200, "y" * LIMIT, b"z" * LIMIT]:
            expect(await echoed(ws, message), message)


async def fragments_become_one_message():
    async with connect() as ws:
        expect(await echoed(ws, ["frag", "", "ments"]), "fragments")
        expect(await echoed(ws, [b"a", b"b" * 10_000, b"c" * 30_000]), b"a" + b"b" * 10_000 + b"c" * 30_000)
        expect(await echoed(ws, ["\u20ac" * 100 for _ in range(100)]), "\u20ac" * 10_000)


async def pings_are_answered():
    async with connect() as ws:
        for payload in [b"", b"p" * 125]:
            await asyncio.wait_for(await ws.ping(payload), 20)
        expect(await echoed(ws, "after"), "after")


async def pings_pass_between_fragments():
    async with connect() as ws:
        async def parts():
            yield "one "
            await asyncio.wait_for(await ws.ping(), 20)
            yield "two"

        expect(await echoed(ws, parts()), "one two")


async def closes_are_answered():
    for code in [1000, 1001, 3000, 4999]:
        async with connect() as ws:
            expect(await echoed(ws, "x"), "x")
            await asyncio.wait_for(ws.close(code, "bye"), 20)
            expect(ws.close_code, code)


async def what_is_too_long_is_refused():
    for message in ["x" * (LIMIT + 1), b"x" * (10 * LIMIT), [b"x" * LIMIT, b"x"]]:
        async with connect() as ws:
            try:
                await ws.send(message)
                await asyncio.wait_for(ws.recv(), 20)
                raise AssertionError("it came back")
            except websockets.ConnectionClosed:
                expect(ws.close_code, 1009)


async def the_first_subprotocol_that_is_spoken_here_is_taken():
    for offered, chosen in [(["beta", "alpha"], "beta"), (["other", "beta"], "beta"), (["other"], None), (None, None)]:
        async with connect(subprotocols=offered) as ws:
            expect(ws.subprotocol, chosen)


async def many_at_once():
    async def one(number):
        async with connect(f"/{number}") as ws:
            for turn in range(20):
                message = f"{number}-{turn}-" + "m" * (97 * turn)
                expect(await echoed(ws, message), message)

    await asyncio.gather(*[one(number) for number in range(100)])


async def many_messages_in_flight():
    async with connect() as ws:
        async def send():
            for number in range(2_000):
                await ws.send(str(number) * (number % 50))

        sender = asyncio.ensure_future(send())
        for number in range(2_000):
            expect(await asyncio.wait_for(ws.recv(), 20), str(number) * (number % 50))
        await sender


SCENARIOS = [
    types_are_kept,
    fragments_become_one_message,
    pings_are_answered,
    pings_pass_between_fragments,
    closes_are_answered,
    what_is_too_long_is_refused,
    the_first_subprotocol_that_is_spoken_here_is_taken,
    many_at_once,
    many_messages_in_flight,
]


async def main():
    for scenario in SCENARIOS:
        await scenario()
        print(scenario.__name__, flush=True)


asyncio.run(main())
