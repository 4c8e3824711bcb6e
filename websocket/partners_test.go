package websocket_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"fanfare/internal/partner"
	"fanfare/websocket"
)

// What every partner does with us, as client and as server: texts, bytes,
// fragments, a large message, a ping, subprotocols and the closing handshake.
// A client asks an echo and then closes with 4001 "enough".

const patience = 60 * time.Second

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

// ourEcho is a server that echoes and reports how each connection ended.
func ourEcho(t *testing.T) (url string, ends <-chan error) {
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat.v2", "chat.v1"}, Limit: 4 << 20})
		if err != nil {
			ended <- err
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(context.Background())
			if err != nil {
				ended <- err
				return
			}
			if err := c.Write(context.Background(), kind, data); err != nil {
				ended <- err
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http"), ended
}

func wantEnough(t *testing.T, ends <-chan error) {
	t.Helper()
	select {
	case err := <-ends:
		if websocket.CloseCode(err) != 4001 || !strings.Contains(err.Error(), "enough") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the server's end does not notice the close")
	}
}

// ourClient talks with a partner's echo.
func ourClient(t *testing.T, url string) {
	t.Helper()
	c, _, err := websocket.Dial(ctx(t), url, &websocket.DialOptions{Subprotocols: []string{"chat.v1"}, Limit: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if c.Subprotocol() != "chat.v1" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	talk := func(kind websocket.MessageType, data string) {
		t.Helper()
		go func() { _ = c.Write(ctx(t), kind, []byte(data)) }()
		k, got, err := c.Read(ctx(t))
		if err != nil || k != kind || string(got) != data {
			t.Fatalf("%v of %d bytes: %v %d bytes, %v", kind, len(data), k, len(got), err)
		}
	}
	talk(websocket.Text, "Hello, 世界 😀")
	talk(websocket.Text, "")
	talk(websocket.Binary, "\x00\xFF\xFE")
	talk(websocket.Binary, strings.Repeat("x", 1<<20))
	w, err := c.Writer(ctx(t), websocket.Text)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"in ", "three ", "parts"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx(t)); string(got) != "in three parts" {
		t.Fatalf("%q, %v", got, err)
	}
	if rtt, err := c.Ping(ctx(t)); err != nil || rtt <= 0 {
		t.Error(rtt, err)
	}
	if err := c.Close(ctx(t), 4001, "enough"); err != nil {
		t.Error(err)
	}
}

func TestCoder(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		url, ends := ourEcho(t)
		c, _, err := coder.Dial(ctx(t), url, &coder.DialOptions{Subprotocols: []string{"chat.v1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		c.SetReadLimit(4 << 20)
		if c.Subprotocol() != "chat.v1" {
			t.Error(c.Subprotocol())
		}
		for _, data := range []string{"Hello, 世界 😀", "", strings.Repeat("x", 1<<20)} {
			go func() { _ = c.Write(ctx(t), coder.MessageText, []byte(data)) }()
			if _, got, err := c.Read(ctx(t)); err != nil || string(got) != data {
				t.Fatal(len(got), err)
			}
		}
		pinged := make(chan error, 1)
		reading := c.CloseRead(ctx(t))
		go func() { pinged <- c.Ping(reading) }()
		if err := <-pinged; err != nil {
			t.Error(err)
		}
		if err := c.Close(4001, "enough"); err != nil {
			t.Error(err)
		}
		wantEnough(t, ends)
	})
	t.Run("server", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: []string{"chat.v1"}})
			if err != nil {
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(4 << 20)
			for {
				kind, data, err := c.Read(context.Background())
				if err != nil || c.Write(context.Background(), kind, data) != nil {
					return
				}
			}
		}))
		t.Cleanup(srv.Close)
		ourClient(t, srv.URL)
	})
}

func TestGorilla(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		url, ends := ourEcho(t)
		c, _, err := (&gorilla.Dialer{Subprotocols: []string{"chat.v1"}}).Dial(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.Subprotocol() != "chat.v1" {
			t.Error(c.Subprotocol())
		}
		for _, data := range []string{"Hello, 世界 😀", "", strings.Repeat("x", 1<<20)} {
			sent := make(chan error, 1)
			go func() { sent <- c.WriteMessage(gorilla.TextMessage, []byte(data)) }()
			if _, got, err := c.ReadMessage(); err != nil || string(got) != data {
				t.Fatal(len(got), err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
		pong := make(chan string, 1)
		c.SetPongHandler(func(data string) error {
			pong <- data
			return nil
		})
		_ = c.WriteControl(gorilla.PingMessage, []byte("hi"), time.Now().Add(patience))
		_ = c.WriteMessage(gorilla.TextMessage, []byte("x"))
		if _, _, err := c.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		if data := <-pong; data != "hi" {
			t.Error(data)
		}
		_ = c.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(4001, "enough"), time.Now().Add(patience))
		if _, _, err := c.ReadMessage(); !gorilla.IsCloseError(err, 4001) {
			t.Error(err)
		}
		wantEnough(t, ends)
	})
	t.Run("server", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := (&gorilla.Upgrader{Subprotocols: []string{"chat.v1"}}).Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer c.Close()
			for {
				kind, data, err := c.ReadMessage()
				if err != nil || c.WriteMessage(kind, data) != nil {
					return
				}
			}
		}))
		t.Cleanup(srv.Close)
		ourClient(t, srv.URL)
	})
}

// start runs a partner's program and returns its standard output and a wait for its success.
func start(t *testing.T, cmd *exec.Cmd) (out *bufio.Reader, wait func() error) {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	wait = func() error {
		done = true
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, stderr.String())
		}
		return nil
	}
	t.Cleanup(func() {
		if !done {
			_ = cmd.Process.Kill()
			_ = wait()
		}
	})
	return bufio.NewReader(stdout), wait
}

const pythonClient = `
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], subprotocols=["chat.v1"], compression=None, max_size=4<<20) as ws:
        assert ws.subprotocol == "chat.v1", ws.subprotocol
        for m in ["Hello, 世界 😀", "", b"\x00\xff", "x" * (1 << 20)]:
            await ws.send(m)
            assert await ws.recv() == m
        await ws.send(["in ", "three ", "parts"])
        assert await ws.recv() == "in three parts"
        await asyncio.wait_for(await ws.ping(), 30)
        await ws.close(4001, "enough")
        assert ws.close_code == 4001, ws.close_code
asyncio.run(main())
`

const pythonServer = `
import asyncio, websockets
async def echo(ws, path=None):
    async for m in ws:
        await ws.send(m)
async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=["chat.v1"], compression=None, max_size=4<<20) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()
asyncio.run(main())
`

func TestPython(t *testing.T) {
	python := partner.Python(t)
	t.Run("client", func(t *testing.T) {
		url, ends := ourEcho(t)
		_, wait := start(t, exec.Command(python, "-c", pythonClient, url))
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		wantEnough(t, ends)
	})
	t.Run("server", func(t *testing.T) {
		out, _ := start(t, exec.Command(python, "-c", pythonServer))
		port, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		ourClient(t, "ws://127.0.0.1:"+strings.TrimSpace(port))
	})
}

const nodeClient = `
const WebSocket = require('ws');
const ws = new WebSocket(process.argv[1], ['chat.v1'], {perMessageDeflate: false});
const big = 'x'.repeat(1 << 20);
const say = ['Hello, 世界 😀', '', big];
let i = 0;
ws.on('open', () => ws.send(say[0]));
ws.on('message', (data, binary) => {
  if (binary || data.toString() !== say[i]) { console.error('echo', i, data.length); process.exit(1); }
  if (++i < say.length) ws.send(say[i]); else ws.ping('hi');
});
ws.on('pong', (data) => {
  if (data.toString() !== 'hi' || ws.protocol !== 'chat.v1') { console.error('pong', data.toString(), ws.protocol); process.exit(1); }
  ws.close(4001, 'enough');
});
ws.on('close', (code) => { console.error('closed', code); process.exit(code === 4001 && i === say.length ? 0 : 1); });
ws.on('error', (e) => { console.error(e); process.exit(1); });
`

const nodeServer = `
const {WebSocketServer} = require('ws');
const wss = new WebSocketServer({port: 0, host: '127.0.0.1', handleProtocols: () => 'chat.v1'}, () => console.log(wss.address().port));
wss.on('connection', (ws) => ws.on('message', (data, binary) => ws.send(data, {binary})));
`

func TestNode(t *testing.T) {
	node, nodePath := partner.Node(t)
	run := func(args ...string) *exec.Cmd {
		cmd := exec.Command(node, args...)
		cmd.Env = append(os.Environ(), "NODE_PATH="+nodePath)
		return cmd
	}
	t.Run("client", func(t *testing.T) {
		url, ends := ourEcho(t)
		_, wait := start(t, run("-e", nodeClient, url))
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		wantEnough(t, ends)
	})
	t.Run("server", func(t *testing.T) {
		out, _ := start(t, run("-e", nodeServer))
		port, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		ourClient(t, "ws://127.0.0.1:"+strings.TrimSpace(port))
	})
}
