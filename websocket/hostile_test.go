package websocket

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Answers to the handshake that no honest server gives. Each is an error, soon
// and without much memory.
func TestMaliciousHandshakes(t *testing.T) {
	good := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
	for name, tt := range map[string]struct {
		extra string // behind a good answer; else
		whole string
		says  string
	}{
		"wrong accept":             {whole: good + "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", says: "Accept"},
		"no accept":                {whole: "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", says: "Accept"},
		"no upgrade":               {whole: "HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n", says: "no WebSocket"},
		"no connection":            {whole: "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", says: "no WebSocket"},
		"another upgrade":          {whole: "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", says: "no WebSocket"},
		"an extension":             {extra: "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99999\r\n", says: "from 8 to 15"},
		"an empty extension":       {extra: "Sec-WebSocket-Extensions: \r\n", says: "extension"},
		"an extension unasked":     {extra: "Sec-WebSocket-Extensions: x-ours\r\n", says: "not offered"},
		"two extensions":           {extra: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover, permessage-deflate\r\n", says: "not offered"},
		"context takeover unasked": {extra: "Sec-WebSocket-Extensions: permessage-deflate\r\n", says: "leaves out"},
		"a parameter twice":        {extra: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; server_no_context_takeover\r\n", says: "twice"},
		"an unknown parameter":     {extra: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; x\r\n", says: "unknown"},
		"a window without size":    {extra: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_max_window_bits\r\n", says: "from 8 to 15"},
		"a subprotocol unasked":    {extra: "Sec-WebSocket-Protocol: b\r\n", says: "not offered"},
		"two subprotocols":         {extra: "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n", says: "more than one"},
		"an empty subprotocol":     {extra: "Sec-WebSocket-Protocol:\r\n", says: "not offered"},
		"two accepts":              {extra: "Sec-WebSocket-Accept: x\r\n", says: "Accept"},
		"one huge header":          {extra: "X: " + strings.Repeat("x", 8<<20) + "\r\n", says: "64 KiB"},
		"a huge status":            {whole: "HTTP/1.1 101 " + strings.Repeat("x", 8<<20), says: "64 KiB"},
		"many headers":             {extra: strings.Repeat("X: y\r\n", 1<<20), says: "64 KiB"},
		"endless interim answers":  {whole: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1<<18), says: "64 KiB"},
		"not HTTP":                 {whole: "SSH-2.0-OpenSSH_9.2\r\n", says: "answer"},
		"nothing":                  {whole: "", says: "closed the connection"},
		"half an answer":           {whole: "HTTP/1.1 101 Switch", says: "closed the connection"},
		"a bad content length":     {whole: "HTTP/1.1 403 x\r\nContent-Length: -5\r\n\r\n", says: "answer"},
		"an absurd content length": {whole: "HTTP/1.1 403 x\r\nContent-Length: 9223372036854775807\r\n\r\nno", says: "403"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := listen(t, func(conn net.Conn) {
				if tt.extra != "" {
					answer(t, conn, tt.extra)
				} else {
					_ = readRequest(conn)
					_, _ = io.WriteString(conn, tt.whole)
				}
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			})
			start := time.Now()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c, _, err := Dial(testContext(t), "ws://"+addr, &DialOptions{Subprotocols: []string{"a"}})
			runtime.ReadMemStats(&after)
			if err == nil {
				_ = c.CloseNow()
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want word of %q", err, tt.says)
			}
			if len(fmt.Sprint(err)) > 1000 {
				t.Error("an endless error")
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Error(d)
			}
			// All of the test's own, the 8 MiB it sends included, and ours: no more than a few headers' worth.
			if grown := int64(after.TotalAlloc-before.TotalAlloc) - int64(len(tt.extra)+len(tt.whole))*3; grown > 4<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
}

func readRequest(conn net.Conn) error {
	var b [1]byte
	for ends := 0; ends < 4; {
		if _, err := conn.Read(b[:]); err != nil {
			return err
		}
		if b[0] == "\r\n\r\n"[ends] {
			ends++
		} else {
			ends = 0
		}
	}
	return nil
}

// Frames that no honest server sends, against Dial, and no honest client, against Accept.
func TestMaliciousFrames(t *testing.T) {
	for name, tt := range map[string]struct {
		frames []raw
		code   Code
	}{
		"length with the top bit":   {[]raw{{b0: fin | 2, payload: "0123456789", length: -1 << 63}}, ProtocolError},
		"length with the top bit 1": {[]raw{{b0: fin | 2, payload: "0123456789", length: -1<<63 + 1}}, ProtocolError},
		"length of all bits":        {[]raw{{b0: fin | 2, payload: "0123456789", length: -1}}, ProtocolError},
		"length 2^63-1":             {[]raw{{b0: fin | 2, payload: "0123456789", length: 1<<63 - 1}}, MessageTooBig},
		"length 2^62":               {[]raw{{b0: fin | 2, payload: "0123456789", length: 1 << 62}}, MessageTooBig},
		"length 2^32":               {[]raw{{b0: fin | 2, payload: "0123456789", length: 1 << 32}}, MessageTooBig},
		"one byte over the limit":   {[]raw{{b0: fin | 2, length: 1<<20 + 1}}, MessageTooBig},
		"over the limit in parts":   {[]raw{part(2, strings.Repeat("x", 1<<20)), part(0, "x")}, MessageTooBig},
		"parts that overflow":       {[]raw{part(2, "xx"), {b0: fin, length: 1<<63 - 1}}, MessageTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
				go w.send(0, tt.frames...)
				_, _, err := c.Read(testContext(t))
				if CloseCode(err) != tt.code {
					t.Error(err)
				}
				w.want(closing(uint16(tt.code), ""))
				_ = w.Close()
				<-c.Done()
			}, 0)
		})
	}
}

// A million one-byte fragments, and a million empty ones, never a last one: the
// message limit ends it by 16,384 of them.
func TestFragmentFlood(t *testing.T) {
	for name, payload := range map[string]string{"one byte": "x", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
				sent := make(chan int, 1)
				go func() {
					first := w.encode(part(2, payload))
					next := w.encode(part(0, payload))
					_, err := w.Write(first)
					n := 1
					batch := []byte(strings.Repeat(string(next), 1000))
					for ; err == nil && n < 1_000_000; n += 1000 {
						_, err = w.Write(batch)
					}
					sent <- n
				}()
				_, _, err := c.Read(testContext(t))
				if CloseCode(err) != MessageTooBig || !strings.Contains(err.Error(), "16384 fragments") {
					t.Error(err)
				}
				<-c.Done()
				_ = w.Close()
				<-sent
			}, 200*time.Millisecond)
		})
	}
}

// A message that trickles in and never ends has a limit in time, and one that
// waits for us has not.
func TestUnfinishedMessage(t *testing.T) {
	const timeout = 400 * time.Millisecond
	ends := func(t *testing.T, queue int, story func(t *testing.T, w *wire, c *Conn)) {
		t.Run("accept", func(t *testing.T) {
			t.Parallel()
			conns := make(chan *Conn, 1)
			over := make(chan struct{})
			url := serve(t, &AcceptOptions{MessageTimeout: timeout, PingInterval: -1, Queue: queue}, func(c *Conn) {
				conns <- c
				<-over
			})
			t.Cleanup(func() { close(over) })
			w := toAccept(t, url)
			story(t, w, <-conns)
		})
		t.Run("dial", func(t *testing.T) {
			t.Parallel()
			w, c := toDial(t, &DialOptions{MessageTimeout: timeout, PingInterval: -1, Queue: queue})
			story(t, w, c)
		})
	}
	trickles := map[string]func(w *wire, stop <-chan struct{}){
		"fragments": func(w *wire, stop <-chan struct{}) {
			w.send(0, part(2, "x"))
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond): // the trickle
					w.send(0, part(0, "x"))
				}
			}
		},
		"bytes of a frame": func(w *wire, stop <-chan struct{}) {
			b := w.encode(whole(2, strings.Repeat("x", 10_000)))
			for i := range b {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond): // the trickle
					_, _ = w.Write(b[i : i+1])
				}
			}
		},
		"a byte, and silence": func(w *wire, _ <-chan struct{}) { _, _ = w.Write([]byte{fin | 2}) },
	}
	for name, trickle := range trickles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ends(t, 100_000, func(t *testing.T, w *wire, c *Conn) {
				start := time.Now()
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					trickle(w, stop)
				}()
				w.want(closing(1008, ""))
				close(stop)
				<-stopped
				_ = w.Close()
				if end := wantEnd(t, c, PolicyViolation, true); !strings.Contains(end.Reason, "complete within 400ms") {
					t.Error(end)
				}
				if d := time.Since(start); d < timeout || d > patience/2 {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
	// Messages may be as far apart as they like, and one that has to wait for our
	// readers is not late.
	t.Run("not the peer's fault", func(t *testing.T) {
		t.Parallel()
		ends(t, 1, func(t *testing.T, w *wire, c *Conn) {
			w.send(0, part(1, "in "), whole(0, "parts"))
			wantMessage(t, c, Text, "in parts")
			time.Sleep(2 * timeout) // the timeout under test runs out
			go w.send(0, part(1, "a"), part(0, "b"), part(0, "c"), part(0, "d"))
			time.Sleep(2 * timeout) // and again
			_, r, err := c.Reader(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(r, got); err != nil || string(got) != "abcd" {
				t.Fatalf("%q, %v", got, err)
			}
			w.want(closing(1008, "")) // now it is the peer's
		})
	})
	if d := (&DialOptions{}).settings().messageTimeout; d != time.Minute {
		t.Errorf("the default is %v", d)
	}
	if d := (&AcceptOptions{MessageTimeout: -1}).settings().messageTimeout; d > 0 {
		t.Errorf("off is %v", d)
	}
}

// Announcing a megabyte does not make us set it aside: fourteen bytes do not buy memory.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	url := serve(t, nil, func(c *Conn) { echo(c) })
	before := heap()
	for range 100 {
		w := toAccept(t, url)
		announce := w.encode(raw{b0: fin | 2, payload: "x", length: 1 << 20})
		_, _ = w.Write(append(w.encode(whole(9, "")), announce...)) // in one segment
		w.want(whole(10, ""))
	}
	if grown := heap() - before; grown > 20<<20 {
		t.Errorf("100 announcements of a megabyte cost %d bytes", grown)
	}
}

// A peer that pings for ever and never reads is cut off, and until then its
// unanswered pings are few.
func TestPingFlood(t *testing.T) {
	flood := func(t *testing.T, w *wire, c *Conn) {
		narrow(c)
		_ = w.Conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			batch := []byte{}
			for range 500 {
				batch = append(batch, w.encode(whole(9, strings.Repeat("p", 125)))...)
			}
			for { // until it is cut off
				if _, err := w.Write(batch); err != nil {
					return
				}
			}
		}()
		select {
		case <-c.Done():
			t.Log(c.Err())
		case <-time.After(patience):
			t.Fatal("the flood goes on")
		}
		<-flooded
		if end := c.Err().(*CloseError); !end.Local {
			t.Error(end)
		}
		c.out.Lock()
		defer c.out.Unlock()
		if n := len(c.out.pongs); n > mostPongs {
			t.Errorf("%d pongs wait", n)
		}
	}
	// Where the peer's full buffer makes its system throw away what we send, our
	// acknowledgements with it, TCP lets nothing through either way, and no write is
	// under way that could time out: there it is the ping that nobody answers.
	t.Run("accept", func(t *testing.T) {
		conns := make(chan *Conn, 1)
		over := make(chan struct{})
		url := serve(t, &AcceptOptions{WriteTimeout: 300 * time.Millisecond, PingInterval: time.Second, PingTimeout: time.Second}, func(c *Conn) {
			conns <- c
			<-over
		})
		t.Cleanup(func() { close(over) })
		w := toAccept(t, url)
		flood(t, w, <-conns)
	})
	t.Run("dial", func(t *testing.T) {
		w, c := toDial(t, &DialOptions{WriteTimeout: 300 * time.Millisecond, PingInterval: time.Second, PingTimeout: time.Second})
		flood(t, w, c)
	})
}

// A handshake that never ends: the HTTP server in front cuts it off, and a
// legitimate client never notices.
func TestSlowHandshakeAtTheServer(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		echo(c)
	}))
	srv.Config.ReadHeaderTimeout = 500 * time.Millisecond
	srv.Config.MaxHeaderBytes = 16 << 10
	srv.Start()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	slow, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_ = slow.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\nHost: ")
	start := time.Now()
	c := dial(t, "ws://"+addr, nil)
	says(t, c)
	_, _ = io.ReadAll(slow) // to its end
	if d := time.Since(start); d > 10*time.Second {
		t.Error(d)
	}
	// A header too large is a 431.
	_, resp, err := Dial(context.Background(), "ws://"+addr, &DialOptions{Header: http.Header{"X": {strings.Repeat("x", 1<<20)}}})
	if err == nil || resp == nil || resp.StatusCode != 431 {
		t.Error(resp, err)
	}
}

// Accept answers refusals itself.
func TestAcceptRefuses(t *testing.T) {
	url := "http" + strings.TrimPrefix(serve(t, &AcceptOptions{Origins: []string{"good.example"}}, echo), "ws")
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 426 || resp.Header.Get("Sec-WebSocket-Version") != "13" {
		t.Error(resp.Status, resp.Header)
	}
	http.DefaultClient.CloseIdleConnections()
	for origin, status := range map[string]int{"https://evil.example": 403, "null": 403, "https://good.example": 101, "": 101} {
		c, resp, err := Dial(testContext(t), url, &DialOptions{Origin: origin})
		if resp == nil || resp.StatusCode != status {
			t.Errorf("%s: %v", origin, err)
		}
		if err == nil {
			says(t, c)
		}
	}
}

// Headers that a middleware has set go out with the handshake.
func TestAcceptKeepsHeaders(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
		c, err := Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		echo(c)
	}))
	t.Cleanup(srv.Close)
	c, resp, err := Dial(testContext(t), srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Set-Cookie") != "session=1" {
		t.Error(resp.Header)
	}
	says(t, c)
}
