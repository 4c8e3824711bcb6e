"""Talks in a channel: prints what is said there, and says each line that it reads.

    python3 client.py ws://localhost:8765 chat/general

It speaks fanfare.v1 (docs/protocol.md) with nothing but Debian's
python3-websockets. When the connection is lost it makes another: it is brought
what was said meanwhile, and says again what got no answer, under the same id,
so that the server (which remembers ids for five minutes) takes it once.
"""
import asyncio
import json
import random
import secrets
import sys
import threading

import websockets


class Client:
    def __init__(self, url, channel, name="python"):
        # The secret tells the server that it is still us, over whatever connection.
        self.url = f"{url}/-/connect?name={name}&client={secrets.token_hex(16)}"
        self.subscription = {"type": "subscribe", "id": "subscribe", "channel": channel}
        self.unanswered = {}  # publishes by id, oldest first
        self.leaving = False  # as soon as all is answered
        self.changed = asyncio.Event()  # one of these two

    def say(self, text):
        id = secrets.token_hex(8)
        self.unanswered[id] = {"type": "publish", "id": id, "channel": self.subscription["channel"], "data": text}
        self.changed.set()

    def leave(self):
        self.leaving = True
        self.changed.set()

    def done(self):
        return self.leaving and not self.unanswered

    async def run(self):
        pause = 0.25
        while not self.done():
            try:
                # websockets pings by itself, so a connection that died is noticed.
                async with websockets.connect(self.url, subprotocols=["fanfare.v1"], max_size=None) as socket:
                    await socket.send(json.dumps(self.subscription))
                    speaking = asyncio.create_task(self.speak(socket))
                    try:
                        async for text in socket:
                            pause = 0.25
                            if not self.hear(json.loads(text)):
                                return
                    finally:
                        speaking.cancel()
            except (OSError, asyncio.TimeoutError, websockets.WebSocketException) as error:
                print("no connection:", error, file=sys.stderr)
            await asyncio.sleep(random.uniform(0, pause))  # so that not all come back at once
            pause = min(2 * pause, 20)

    async def speak(self, socket):
        sent = set()  # over this connection
        while not self.done():
            self.changed.clear()
            for id in [id for id in self.unanswered if id not in sent]:
                sent.add(id)
                await socket.send(json.dumps(self.unanswered[id]))
            await self.changed.wait()
        await socket.close()

    def hear(self, event):
        """Takes what the server says; False: there is no use in coming back."""
        kind, id = event["type"], event.get("id")
        if kind in ("ok", "error") and self.unanswered.pop(id, None):
            self.changed.set()
        if kind == "message":
            text = event["data"] if isinstance(event["data"], str) else json.dumps(event["data"], ensure_ascii=False)
            print(event.get("sender", "somebody") + ": " + text)
        elif kind == "gap":
            print("messages are missing here:", event["reason"])
        elif kind in ("error", "bye"):
            print(f"{kind}: {event['message']}", file=sys.stderr)
        if kind in ("message", "gap") or (kind, id) == ("ok", "subscribe"):
            self.subscription["since"] = event["position"]  # where the next connection goes on
        return (kind, id) != ("error", "subscribe") and (kind != "bye" or "retry" in event)


async def main(url, channel):
    client, loop = Client(url, channel), asyncio.get_running_loop()
    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(client.say, line.rstrip("\n"))
        loop.call_soon_threadsafe(client.leave)
    threading.Thread(target=read, daemon=True).start()
    await client.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:])) if len(sys.argv) == 3 else sys.exit(__doc__)
