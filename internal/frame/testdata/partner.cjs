// Reads and makes frames with Node's ws, for partner_test.go.
//
// Standard input: {"masked": bool, "wire": hex, "frames": [[opcode, fin, hex], ...]}.
// Standard output: {"read": the messages and control frames in wire, as frames with FIN,
// "made": the frames as hex}.
"use strict";
const { Receiver, Sender } = require("ws");

const todo = JSON.parse(require("fs").readFileSync(0));

const read = [];
const receiver = new Receiver({ isServer: todo.masked, binaryType: "nodebuffer", maxPayload: 1 << 20 });
receiver.on("message", (data, binary) => read.push([binary ? 2 : 1, true, data.toString("hex")]));
receiver.on("ping", (data) => read.push([9, true, data.toString("hex")]));
receiver.on("pong", (data) => read.push([10, true, data.toString("hex")]));
receiver.on("error", (err) => { throw err; });
receiver.on("conclude", (code, reason) => {
  const payload = code === 1005 ? Buffer.alloc(0) : Buffer.concat([Buffer.from([code >> 8, code & 255]), reason]);
  read.push([8, true, payload.toString("hex")]);
  const made = todo.frames.flatMap(([opcode, fin, data]) =>
    Sender.frame(Buffer.from(data, "hex"), { opcode, fin, mask: todo.masked, readOnly: false, rsv1: false }));
  process.stdout.write(JSON.stringify({ read, made: Buffer.concat(made).toString("hex") }));
});
receiver.write(Buffer.from(todo.wire, "hex"));
