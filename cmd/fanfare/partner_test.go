package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"fanfare/internal/partner"
)

// Servers as their authors' tutorials write them: after a word
// of welcome, whatever one client says, everyone gets. connect must talk with them as with ours.
const (
	pythonServer = `
import asyncio, websockets

everyone = set()

async def talk(ws):
    everyone.add(ws)
    await ws.send("welcome")
    try:
        async for message in ws:
            websockets.broadcast(everyone, message)
    finally:
        everyone.remove(ws)

async def main():
    async with websockets.serve(talk, "127.0.0.1", 0) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()

asyncio.run(main())
`
	nodeServer = `
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log("port", server.address().port));
server.on("connection", (ws) => {
  ws.send("welcome");
  ws.on("message", (data, binary) => {
    for (const client of server.clients) client.send(data, { binary });
  });
});
`
)

func TestServersOfOthers(t *testing.T) {
	for name, serve := range map[string]func(*testing.T) string{
		"Python websockets": func(t *testing.T) string {
			return script(t, nil, partner.Python(t), "-c", pythonServer)
		},
		"Node ws": func(t *testing.T) string {
			node, path := partner.Node(t)
			return script(t, []string{"NODE_PATH=" + path}, node, "-e", nodeServer)
		},
		"coder/websocket": func(t *testing.T) string {
			return web(t, func(w http.ResponseWriter, r *http.Request) {
				conn, err := coder.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer conn.CloseNow()
				_ = conn.Write(r.Context(), coder.MessageText, []byte("welcome"))
				for {
					typ, data, err := conn.Read(r.Context())
					if err != nil || conn.Write(r.Context(), typ, data) != nil {
						return
					}
				}
			})
		},
		"gorilla/websocket": func(t *testing.T) string {
			upgrader := gorilla.Upgrader{}
			return web(t, func(w http.ResponseWriter, r *http.Request) {
				conn, err := upgrader.Upgrade(w, r, nil)
				if err != nil {
					return
				}
				defer conn.Close()
				_ = conn.WriteMessage(gorilla.TextMessage, []byte("welcome"))
				for {
					typ, data, err := conn.ReadMessage()
					if err != nil || conn.WriteMessage(typ, data) != nil {
						return
					}
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			at := serve(t)
			p := start(t, "connect", at)
			p.want("welcome")
			p.write("hello", "你好 🎉", "", `{"type":"chat","content":"hi"}`)
			p.want("hello", "你好 🎉", "", `{"type":"chat","content":"hi"}`)
			long := strings.Repeat("long ", 6000) // coder takes 32 KiB
			p.write(long)
			p.want(long)
			p.write("the last one") // its answer comes though the input ends
			p.stdin.Close()
			p.want("the last one")
			p.ends(exitFine)
			if said := p.errs.String(); said != "" {
				t.Errorf("connect said %q", said)
			}
			start(t, "publish", at, "one more").ends(exitFine)
			p = start(t, "subscribe", at, "--count", "1")
			p.want("welcome")
			p.ends(exitFine)
		})
	}
}

// script runs a server that prints its port, and returns its host:port.
func script(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	port, ok := strings.CutPrefix(strings.TrimSpace(line), "port ")
	if err != nil || !ok {
		t.Fatalf("%s said %q, not its port: %v", name, line, err)
	}
	return "127.0.0.1:" + port
}
