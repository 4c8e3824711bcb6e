"""Reads and makes frames with Python's websockets, for partner_test.go.

Standard input: {"masked": bool, "wire": hex, "frames": [[opcode, fin, hex], ...]}.
Standard output: {"read": the frames in wire, "made": the frames as hex}.
"""
import json
import sys

from websockets.frames import Frame, Opcode

todo = json.load(sys.stdin)


def read(wire, masked):
    at = 0

    def exactly(n):
        nonlocal at
        at += n
        return wire[at - n:at]
        yield

    frames = []
    while at < len(wire):
        parsing = Frame.parse(exactly, mask=masked)
        try:
            while True:
                next(parsing)
        except StopIteration as done:
            f = done.value
        frames.append([int(f.opcode), f.fin, f.data.hex()])
    return frames


json.dump({
    "read": read(bytes.fromhex(todo["wire"]), todo["masked"]),
    "made": b"".join(
        Frame(Opcode(op), bytes.fromhex(data), fin=fin).serialize(mask=todo["masked"])
        for op, fin, data in todo["frames"]
    ).hex(),
}, sys.stdout)
