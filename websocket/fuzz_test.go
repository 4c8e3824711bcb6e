package websocket

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"fanfare/internal/handshake"
)

// Whatever a server answers to the handshake, and sends behind it, Dial and Read
// come to an end soon, without much memory. In the bytes ACCEPT stands for the
// right answer to the key, so that some handshakes succeed.
func FuzzResponse(f *testing.F) {
	good := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n"
	for _, seed := range []string{
		good + "\r\n\x81\x05Hello\x89\x04ping\x88\x02\x03\xE8",
		good + "Sec-WebSocket-Protocol: a\r\n\r\n\x01\x03Hel\x80\x02lo",
		good + "Sec-WebSocket-Protocol: b\r\n\r\n",
		good + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		good + "\r\n\x82\x7F\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
		good + "\r\n\x82\x7F\x80\x00\x00\x00\x00\x00\x00\x01",
		good + "\r\n\x81\x85abcdHello",
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + good + "\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n",
		"HTTP/1.1 307 x\r\nLocation: wss://other.example/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 301 x\r\nLocation: ws+unix:///run/x\r\n\r\n",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 9223372036854775807\r\n\r\nno",
		"HTTP/1.1 426 x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
		"SSH-2.0-OpenSSH_9.2\r\n",
		"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var servers sync.WaitGroup
		defer servers.Wait()
		options := &DialOptions{
			Subprotocols: []string{"a"},
			Limit:        1000,
			Proxy:        func(*http.Request) (*url.URL, error) { return nil, nil },
			Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, peers := net.Pipe()
				servers.Go(func() { answerWith(peers, answer) })
				return ours, nil
			},
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, resp, err := Dial(ctx, "ws://example.com/", options)
		if err != nil {
			if c != nil || len(err.Error()) > 4000 {
				t.Errorf("%v, and an error of %d bytes", c, len(err.Error()))
			}
		} else {
			if resp == nil || resp.StatusCode != 101 || c.Subprotocol() != "" && c.Subprotocol() != "a" {
				t.Errorf("connected by %v with the subprotocol %q", resp, c.Subprotocol())
			}
			for _, err = range c.Messages(ctx) {
			}
			if err == nil {
				err = c.Err()
			}
			if CloseCode(err) == 0 {
				t.Errorf("read to %v, want a CloseError", err)
			}
			if err := c.CloseNow(); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%d bytes took %v", len(answer), d)
		}
		runtime.ReadMemStats(&after)
		// Buffers, the test's own, and one handshake for each redirect.
		if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 4<<20+100*int64(len(answer)) {
			t.Errorf("%d bytes in answer cost %d bytes", len(answer), grown)
		}
	})
}

// answerWith plays a server that says what it has to say and hangs up.
func answerWith(conn net.Conn, answer []byte) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	if first, err := r.Peek(1); err != nil || first[0] != 'G' { // a TLS client's hello
		_, _ = conn.Write(answer)
		return
	}
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	answer = bytes.Replace(answer, []byte("ACCEPT"), []byte(handshake.AcceptKey(req.Header.Get("Sec-WebSocket-Key"))), 1)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		_, _ = io.Copy(io.Discard, r)
	}()
	_, _ = conn.Write(answer)
	_ = conn.Close()
	<-heard
}
