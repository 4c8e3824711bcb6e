package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/websocket"
)

// A malicious server is what it does with a connection after it has read the
// handshake, whose key it gets.
type malicious func(conn net.Conn, key string)

// upgraded answers the handshake as it should be, and lets raw follow.
func upgraded(raw string) malicious {
	return func(conn net.Conn, key string) { io.WriteString(conn, goodAnswer(key)+raw) }
}

// flooded answers the handshake and sends first, and then more without end. It
// reads nothing.
func flooded(first, more string) malicious {
	return func(conn net.Conn, key string) { endless(conn, goodAnswer(key)+first, more) }
}

// unanswered sends, instead of an answer, first, and then more without end.
func unanswered(first, more string) malicious {
	return func(conn net.Conn, _ string) { endless(conn, first, more) }
}

// goodAnswer is RFC 6455, section 4.2.2.
func goodAnswer(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

func endless(conn net.Conn, first, more string) {
	flood := bytes.Repeat([]byte(more), 1+(32<<10)/len(more))
	_, err := io.WriteString(conn, first)
	for err == nil {
		_, err = conn.Write(flood)
	}
}

// holdOn keeps a connection open without a word until the client ends it.
func holdOn(conn net.Conn, _ string) { io.Copy(io.Discard, conn) }

// servedBy runs a malicious server. A client that comes back is told goodbye
// if it had a WebSocket before, and else gets the same again.
func servedBy(t *testing.T, does malicious, goodbye bool) (at string, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int32)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				key, n := r.Header.Get("Sec-WebSocket-Key"), int32(1)
				if r.URL.Path != "/-/connect" { // where a client looks whether it is a Fanfare server
					n = connections.Add(1)
				}
				if n > 1 && goodbye {
					upgraded("\x88\x02\x03\xe8")(conn, key)
				} else {
					does(conn, key)
				}
				// What was sent is to arrive before the end does.
				_ = conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String(), connections
}

// heapPeak says how much the heap has grown at most when stop is called.
func heapPeak() (stop func() int64) {
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	peak := before
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			peak = max(peak, live())
			select {
			case <-over:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(over)
		<-done
		return peak - before
	}
}

// Whatever a server does, connect and subscribe end with the right code and a
// word why, or come back; they take little memory and do not hang.
func TestMaliciousServers(t *testing.T) {
	const (
		late  = "did not answer in time"
		tiny  = "\x00\x01x" // a continuation of one byte
		empty = "\x00\x00"
		ping  = "\x89\x7d" + "125 bytes, to which a pong of as many has to be sent, though nobody reads it; and another one, and another one, and so on ..."
	)
	if len(ping) != 2+125 {
		t.Fatal(len(ping))
	}
	for _, c := range []struct {
		name string
		does malicious
		code int
		says string
		back bool // it comes back, and then is told goodbye
	}{
		// Rows 1 to 4: lengths, compression, fragments, pings.
		{"length 2^63+1", upgraded("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x01"), exitClosed, "the server broke the protocol (1002", false},
		{"length 2^64-1", upgraded("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), exitClosed, "the server broke the protocol (1002", false},
		{"length 2^62", upgraded("\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00"), exitClosed, "larger than --max-message allows (1009", false},
		{"a byte more than allowed", flooded("\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x01", "x"), exitClosed, "larger than --max-message allows (1009", false},
		{"compressed, not agreed on", upgraded("\xc1\x05hello"), exitClosed, "the server broke the protocol (1002", false},
		{"endless fragments", flooded("\x01\x01x", tiny), exitClosed, "larger than --max-message allows (1009", false},
		{"endless empty fragments", flooded("\x01\x00", empty), exitClosed, "larger than --max-message allows (1009", false},
		{"pings, and nobody reads", flooded("", ping), exitFine, "the connection was lost (1006", true},
		{"half a million positions", func(conn net.Conn, key string) {
			io.WriteString(conn, goodAnswer(key))
			flood := []byte(strings.Repeat("\x8a\x06e-1234", 4<<10))
			for range 128 {
				conn.Write(flood)
			}
			io.WriteString(conn, "\x88\x02\x03\xe8")
		}, exitFine, "", false},
		// The frames.
		{"masked frames", upgraded("\x81\x85abcd\x09\x07\x0f\x08\x0e"), exitClosed, "the server broke the protocol (1002", false},
		{"not UTF-8", upgraded("\x81\x02\xc3\x28"), exitClosed, "the server broke the protocol (1007", false},
		{"half a character", upgraded("\x81\x02\xe4\xbd"), exitClosed, "the server broke the protocol (1007", false},
		{"close with 1005", upgraded("\x88\x02\x03\xed"), exitClosed, "the server broke the protocol (1002", false},
		{"close with 999", upgraded("\x88\x02\x03\xe7"), exitClosed, "the server broke the protocol (1002", false},
		{"close with half a code", upgraded("\x88\x01\x03"), exitClosed, "the server broke the protocol (1002", false},
		{"close with a reason that is not UTF-8", upgraded("\x88\x04\x03\xe8\xc3\x28"), exitClosed, "the server broke the protocol (1007", false},
		{"a ping of 126 bytes", upgraded("\x89\x7e\x00\x7e"), exitClosed, "the server broke the protocol (1002", false},
		{"junk behind the answer", upgraded("HTTP/1.1 200 OK\r\n\r\n<html>"), exitClosed, "the server broke the protocol (1002", false},
		{"half a frame", upgraded("\x81\x7e\x01"), exitFine, "the connection was lost (1006", true},
		// Rows 7 and 9, and the rest of the handshake.
		{"an endless header", unanswered("HTTP/1.1 101 Switching Protocols\r\nX: ", "x"), exitConnect, "the response's header is larger than 64 KiB", false},
		{"endless headers", unanswered("HTTP/1.1 101 Switching Protocols\r\n", "X: y\r\n"), exitConnect, "the response's header is larger than 64 KiB", false},
		{"endless interim answers", unanswered("", "HTTP/1.1 100 Continue\r\n\r\n"), exitConnect, "the response's header is larger than 64 KiB", false},
		{"an endless refusal", unanswered("HTTP/1.1 403 Forbidden\r\n\r\nno, ", "and no, "), exitConnect, "403 Forbidden: no, and no, ", false},
		{"endless redirects", func(conn net.Conn, _ string) {
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
		}, exitConnect, "more than 10 redirects", false},
		{"a redirect to a file", func(conn net.Conn, _ string) {
			io.WriteString(conn, "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
		}, exitConnect, "the server redirects elsewhere", false},
		{"never an answer", holdOn, exitConnect, late, false},
		{"half an answer", func(conn net.Conn, key string) {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n")
			holdOn(conn, key)
		}, exitConnect, late, false},
		{"an extension not offered", func(conn net.Conn, key string) {
			io.WriteString(conn, strings.Replace(goodAnswer(key), "Upgrade: ", "Sec-WebSocket-Extensions: x-other\r\nUpgrade: ", 1))
		}, exitConnect, "does not speak WebSocket as it should: the server uses an extension that was not offered", false},
		{"a window of compression that there is not", func(conn net.Conn, key string) {
			io.WriteString(conn, strings.Replace(goodAnswer(key), "Upgrade: ", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99999\r\nUpgrade: ", 1))
		}, exitConnect, "does not speak WebSocket as it should: the server's answer to permessage-deflate: server_max_window_bits must be", false},
		{"the answer to another key", func(conn net.Conn, _ string) { upgraded("")(conn, "AAAAAAAAAAAAAAAAAAAAAA==") }, exitConnect, "Sec-WebSocket-Accept does not answer our key", false},
		{"not HTTP", unanswered("SSH-2.0-OpenSSH\r\n", "junk\r\n"), exitConnect, "malformed HTTP", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, command := range []string{"connect", "subscribe"} {
				at, connections := servedBy(t, c.does, c.back)
				u, err := parseTarget(at)
				if err != nil {
					t.Fatal(err)
				}
				f := &dialFlags{maxMessage: 1 << 20}
				f.times = websocket.DialOptions{HandshakeTimeout: patience, WriteTimeout: 300 * time.Millisecond, CloseTimeout: 100 * time.Millisecond}
				if c.says == late {
					f.times.HandshakeTimeout = 100 * time.Millisecond
				}
				f.pause.random = func(time.Duration) time.Duration { return 0 }
				ctx, end := context.WithCancelCause(t.Context())
				defer end(nil)
				grown := heapPeak()
				p := perform(t, command, func(std stdio) int {
					var err error
					if command == "connect" {
						err = connectPipe(f, u, 0, std)
					} else {
						err = subscribe(ctx, f, u, false, 0, std)
					}
					if err != nil {
						std.say("%v", err)
					}
					return exitCode(err)
				})
				p.ends(c.code, c.says)
				if grown := grown(); grown > 8<<20 {
					t.Errorf("%s: the heap grew by %d bytes", command, grown)
				}
				if said := p.errs.String(); len(said) > 1000 || strings.Contains(said, "websocket:") {
					t.Errorf("%s said %.2000q", command, said)
				}
				if n := connections.Load(); c.back && n != 2 {
					t.Errorf("%s: there were %d connections, want one that came back", command, n)
				}
			}
		})
	}
}
