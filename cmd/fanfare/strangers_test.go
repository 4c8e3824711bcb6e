package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/websocket"
)

// What strangers can do to `serve` before there is a WebSocket.

const halfRequest = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: "

// serving runs serve with timeouts fit for a test, and returns its host:port.
func serving(t *testing.T, times timeouts) (at string) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	s := defaultSettings()
	s.listen, s.grace, s.heartbeat, s.heartbeatTimeout, s.logLevel = "127.0.0.1:0", patience, patience, patience, "error"
	p := perform(t, "serve", func(std stdio) int {
		return exitCode((&service{std: std, given: s}).serveUntil(ctx, times))
	})
	t.Cleanup(func() {
		end()
		p.ends(exitFine)
	})
	p.says("/\n")
	_, rest, _ := strings.Cut(p.errs.String(), "fanfare: ready, open http://")
	at, _, _ = strings.Cut(rest, "/\n")
	return at
}

// call connects to a server, for as long as the test lasts.
func call(t *testing.T, at string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// endsUnserved finds that the server ends a connection, without a word or with
// 400, which is what net/http says to half a request line.
func endsUnserved(t *testing.T, conn net.Conn) {
	t.Helper()
	said, err := io.ReadAll(conn)
	if late, ok := err.(net.Error); ok && late.Timeout() {
		t.Error("the connection is still there")
	}
	if len(said) > 0 && !strings.HasPrefix(string(said), "HTTP/1.1 400 ") {
		t.Errorf("the server answered %.100q", said)
	}
}

// The timeouts of the tests below are shorter, so these are looked at as they
// are: 10 seconds is what a slow handshake may take.
func TestTimeouts(t *testing.T) {
	s := newHTTPServer(nil, slog.New(slog.DiscardHandler), timeouts{defaultSettings().handshakeTimeout, serveTimeouts().answer})
	if d := s.ReadHeaderTimeout; d <= 0 || d > 10*time.Second {
		t.Errorf("a handshake may take %v", d)
	}
	if d := s.WriteTimeout; d <= 0 || d > 5*time.Minute {
		t.Errorf("an answer may take %v", d)
	}
	if d := s.IdleTimeout; d <= 0 || d > 5*time.Minute {
		t.Errorf("a connection may be idle for %v", d)
	}
}

// A handshake that comes a byte at a time is cut off however lively it is. At
// ten bytes a second this one would take most of a minute.
func TestAHandshakeAByteAtATime(t *testing.T) {
	t.Parallel()
	conn := call(t, serving(t, timeouts{header: 500 * time.Millisecond, answer: time.Minute}))
	over := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for _, b := range []byte(halfRequest + strings.Repeat("x", 1000)) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-over:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	endsUnserved(t, conn)
	close(over)
	sender.Wait()
}

// A thousand handshakes that stay half done keep nobody else out, and end.
func TestAThousandHalfHandshakes(t *testing.T) {
	t.Parallel()
	at := serving(t, timeouts{header: 2 * time.Second, answer: time.Minute})
	var halves []net.Conn
	for range 1000 {
		conn := call(t, at)
		if _, err := io.WriteString(conn, halfRequest); err != nil {
			t.Fatal(err)
		}
		halves = append(halves, conn)
	}
	began := time.Now()
	honest, _, err := websocket.Dial(t.Context(), "ws://"+at+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer honest.CloseNow()
	if err := honest.Write(t.Context(), websocket.Text, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := honest.Read(t.Context()); err != nil || unstamped(string(text)) != "hello" {
		t.Fatalf("an honest client hears %q, %v", text, err)
	}
	t.Logf("beside them an honest client has its answer after %v", time.Since(began))
	for _, conn := range halves {
		endsUnserved(t, conn)
		conn.Close()
	}
	if err := honest.Close(t.Context(), websocket.NormalClosure, ""); err != nil {
		t.Error(err)
	}
}

// Huge heads are refused, by the binary as it is.
func TestHugeHeads(t *testing.T) {
	t.Parallel()
	_, _, at := daemon(t)
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "\r\nX-%04d: x", i)
	}
	for name, rest := range map[string]string{
		"a header of 1 MB": strings.Repeat("x", 1<<20),
		"2,000 headers":    many.String(),
	} {
		conn := call(t, at)
		go io.WriteString(conn, halfRequest+rest+"\r\n\r\n") // the answer may come before all of it is read
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: %s, want 431", name, answer.Status)
		}
	}
	if code := ready(t, at); code != http.StatusOK {
		t.Errorf("after them readyz says %d", code)
	}
}

// Whoever takes a large answer too slowly does not get all of it.
func TestASlowReaderOfHistory(t *testing.T) {
	t.Parallel()
	const limit = 3 * time.Second
	at := serving(t, timeouts{header: patience, answer: limit})
	for range 8 { // in JSON six times as long, and more than sockets hold
		answer, err := http.Post("http://"+at+"/x", "text/plain", strings.NewReader(strings.Repeat("\x01", 120<<10)))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	get := func(pause time.Duration) (got int, err error) {
		conn := call(t, at)
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		const ask = "GET /x HTTP/1.1\r\nHost: localhost\r\n"
		io.WriteString(conn, strings.Repeat(ask+"\r\n", 3)+ask+"Connection: close\r\n\r\n") // the sockets hold one page
		began := time.Now()
		for err == nil {
			piece := make([]byte, 16<<10)
			var n int
			n, err = conn.Read(piece)
			got += n
			if time.Since(began) <= 2*limit {
				time.Sleep(pause)
			}
		}
		return got, err
	}
	slow, _ := get(50 * time.Millisecond) // 0.3 MB a second at most
	all, err := get(0)
	if err != io.EOF || all <= slow {
		t.Errorf("a quick reader got %d bytes and %v, a slow one %d", all, err, slow)
	}
	t.Logf("of %d bytes a slow reader got %d", all, slow)
}
