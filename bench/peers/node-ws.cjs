// Broadcasts with Node's ws in the form that its README gives: a walk over
// clients.     node node-ws.cjs PORT
const { WebSocket, WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
server.on("connection", (socket) => {
  socket.on("error", () => {}); // the close that follows says it too
  socket.on("message", (data, binary) => {
    server.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary });
    });
  });
});
