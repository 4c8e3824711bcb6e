"""Broadcasts with Python's websockets in the form that its documentation gives:
broadcast() over the set of connections.     python3 python-websockets.py PORT
"""
import asyncio
import sys

try:
    from websockets.asyncio.server import broadcast, serve  # version 14 and later
except ImportError:
    from websockets import broadcast, serve

everyone = set()


async def session(socket):
    everyone.add(socket)
    try:
        async for message in socket:
            broadcast(everyone, message)
    finally:
        everyone.discard(socket)


async def main():
    async with serve(session, "127.0.0.1", int(sys.argv[1]), backlog=4096):
        await asyncio.Future()


asyncio.run(main())
