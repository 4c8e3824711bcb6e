package fanfare_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"fanfare/internal/partner"
	"fanfare/websocket"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"fanfare"
)

// A guest is somebody else's WebSocket client.
type guest struct {
	name string
	say  func(text string)
	hear func() (string, error)
}

// pythonClient and nodeClient say each line of their input, and print each
// message as a line.
const pythonClient = `
import asyncio, sys, websockets

async def main():
    async with websockets.connect("URL") as ws:
        # Before version 14 it was called response_headers.
        headers = ws.response.headers if hasattr(ws, "response") else ws.response_headers
        print(headers.get("Sec-WebSocket-Extensions"), flush=True)
        loop = asyncio.get_running_loop()
        async def speak():
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                await ws.send(line.rstrip("\n"))
            await ws.close()
        speaking = asyncio.create_task(speak())
        async for message in ws:
            print(message, flush=True)
        await speaking
asyncio.run(main())
`

const nodeClient = `
const WebSocket = require('ws')
const readline = require('readline')
const ws = new WebSocket('URL')
ws.on('message', data => console.log(String(data)))
ws.on('open', () => console.log(ws.extensions))
ws.on('open', () => readline.createInterface({ input: process.stdin })
  .on('line', line => ws.send(line))
  .on('close', () => ws.close()))
`

// Everyone's clients, on one channel: each hears all that all said, itself
// included, in one order, Chinese and emoji unharmed, and compressed both ways.
func TestOtherPeoplesClients(t *testing.T) {
	s := perform(t, fanfare.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	url := "ws://" + s.addr() + "/guests?name="

	var guests []guest
	process := func(name string, say io.Writer, out *bufio.Scanner) {
		guests = append(guests, guest{name,
			func(text string) { fmt.Fprintln(say, text) },
			func() (string, error) {
				if !out.Scan() {
					return "", fmt.Errorf("%s ended: %v", name, out.Err())
				}
				return out.Text(), nil
			}})
	}
	at := func(script, name string) string { return strings.ReplaceAll(script, "URL", url+name) }
	pythonPath := partner.Python(t)
	nodePath, modules := partner.Node(t) // before anything is started: it may skip the test
	python, pythonIn, pythonOut := start(t, pythonPath, nil, at(pythonClient, "python"), "client.py")
	process("python", pythonIn, pythonOut)
	compressed := func(name, extensions string) {
		if !strings.Contains(extensions, "permessage-deflate") {
			t.Errorf("%s: the extensions are %q", name, extensions)
		}
	}
	node, nodeIn, nodeOut := start(t, nodePath, []string{"NODE_PATH=" + modules}, at(nodeClient, "node"), "client.js")
	process("node", nodeIn, nodeOut)
	for _, who := range guests {
		said, err := who.hear()
		if err != nil {
			t.Fatal(err)
		}
		compressed(who.name, said)
	}

	g, resp, err := (&gorilla.Dialer{EnableCompression: true}).DialContext(ctx, url+"gorilla", nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed("gorilla", resp.Header.Get("Sec-WebSocket-Extensions"))
	defer g.Close()
	guests = append(guests, guest{"gorilla",
		func(text string) { g.WriteMessage(gorilla.TextMessage, []byte(text)) },
		func() (string, error) { _, b, err := g.ReadMessage(); return string(b), err }})

	c, resp, err := coder.Dial(ctx, url+"coder", &coder.DialOptions{CompressionMode: coder.CompressionNoContextTakeover, CompressionThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	compressed("coder", resp.Header.Get("Sec-WebSocket-Extensions"))
	defer c.CloseNow()
	guests = append(guests, guest{"coder",
		func(text string) { c.Write(ctx, coder.MessageText, []byte(text)) },
		func() (string, error) { _, b, err := c.Read(ctx); return string(b), err }})

	o, resp, err := websocket.Dial(ctx, url+"ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed("ours", resp.Header.Get("Sec-WebSocket-Extensions"))
	defer o.CloseNow()
	guests = append(guests, guest{"ours",
		func(text string) { o.Write(ctx, websocket.Text, []byte(text)) },
		func() (string, error) { _, b, err := o.Read(ctx); return string(b), err }})

	eventually(t, "all guests are here", func() bool { return s.Stats().Sessions == len(guests) })
	for _, who := range guests {
		text := strings.Repeat("你好 👩‍🚀 from "+who.name+" ", 300) + "." // 10 KB: more than all their thresholds
		who.say(text)
		for _, listener := range guests {
			heard, err := listener.hear()
			if err != nil {
				t.Fatalf("%s: %v", listener.name, err)
			}
			if want := who.name + ": " + text; len(heard) < 11 || heard[11:] != want {
				t.Fatalf("%s hears %.100q, want %.100q", listener.name, heard, want)
			}
		}
	}
	if err := g.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "bye")); err != nil {
		t.Error(err)
	}
	if _, _, err := g.ReadMessage(); !gorilla.IsCloseError(err, 1000) {
		t.Errorf("gorilla: %v", err)
	}
	if err := c.Close(coder.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("coder: %v", err)
	}
	if err := o.Close(t.Context(), websocket.NormalClosure, "bye"); err != nil {
		t.Errorf("ours: %v", err)
	}
	for name, end := range map[string]func() error{"python": func() error { pythonIn.Close(); return python.Wait() }, "node": func() error { nodeIn.Close(); return node.Wait() }} {
		if err := end(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
