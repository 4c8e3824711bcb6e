package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"fanfare"
)

// behind runs serve with settings, and returns it and its address.
func behind(t *testing.T, set func(*settings)) (*service, string) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	s := defaultSettings()
	s.listen, s.grace, s.logLevel = "127.0.0.1:0", patience, "error"
	set(s)
	running := &service{given: s}
	p := perform(t, "serve", func(std stdio) int {
		running.std = std
		return exitCode(running.serveUntil(ctx, serveTimeouts()))
	})
	t.Cleanup(func() {
		end()
		p.ends(exitFine)
	})
	p.says("fanfare: ready, open ")
	_, rest, _ := strings.Cut(p.errs.String(), "fanfare: ready, open http://")
	at, _, _ := strings.Cut(rest, "/\n")
	return running, at
}

const upgradeTo = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// asks sends bytes over a new connection, and returns the answer's status; 0: none came.
func asks(t *testing.T, network, at, said string) (net.Conn, *bufio.Reader, int) {
	t.Helper()
	conn, err := net.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, said); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return conn, r, 0
	}
	return conn, r, answer.StatusCode
}

func v2Header(t *testing.T, from string) string {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP(from), Port: 4711}, &net.TCPAddr{IP: net.ParseIP(from), Port: 80})
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// masked "hi", as a WebSocket's client says it.
const hi = "\x81\x82\x00\x00\x00\x00hi"

// A trusted proxy says by the PROXY protocol for whom it asks, and that is what limits are
// about; the connection is an event loop's all the same, with what came right behind the request.
func TestProxyProtocol(t *testing.T) {
	s, at := behind(t, func(s *settings) {
		s.proxyProtocol, s.proxies, s.limits.Connections = true, []string{"127.0.0.1"}, 1
	})
	if _, _, status := asks(t, "tcp", at, upgradeTo+"\r\n"); status != 0 && status != 400 {
		t.Errorf("a trusted proxy that says nothing is answered %d", status)
	}
	before := runtime.NumGoroutine()
	for name, head := range map[string]string{
		"v1":  "PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n",
		"v2":  v2Header(t, "192.0.2.2"),
		"IP6": "PROXY TCP6 2001:db8::1 2001:db8::9 4711 80\r\n",
	} {
		_, r, status := asks(t, "tcp", at, head+upgradeTo+"\r\n"+hi)
		if status != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %d", name, status)
		}
		for b := byte(0); b != 'h'; {
			var err error
			if b, err = r.ReadByte(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		// The address has its one connection; what it says of another is not a proxy's word.
		second, _, status := asks(t, "tcp", at, head+upgradeTo+"X-Forwarded-For: 8.8.8.8\r\n\r\n")
		if second.Close(); status != http.StatusTooManyRequests {
			t.Errorf("%s: a second one is answered %d", name, status)
		}
	}
	if n := s.server.Stats().Sessions; n != 3 {
		t.Errorf("%d sessions", n)
	}
	if runtime.GOOS == "linux" && os.Getenv("FANFARE_TRANSPORT") != "stream" { // where a connection has no goroutine
		eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 })
	}
	for _, bad := range []string{"PROXY TCP4 nonsense\r\n", "PROXY " + strings.Repeat("x", 200), "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"} {
		conn, _, status := asks(t, "tcp", at, bad+"\r\n\r\n"+strings.Repeat("x", 70_000))
		if status != 0 && status != 400 {
			t.Errorf("%.20q is answered %d", bad, status)
		}
		conn.Close()
	}
}

// Of anybody else nothing is believed, neither by that protocol nor in X-Forwarded-For.
func TestProxiesOnlyAsConfigured(t *testing.T) {
	_, at := behind(t, func(s *settings) {
		s.proxyProtocol, s.proxies, s.limits.Connections = true, []string{"192.0.2.0/24"}, 1
	})
	if _, _, status := asks(t, "tcp", at, "PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n"+upgradeTo+"\r\n"); status != 400 {
		t.Errorf("a stranger's PROXY header is answered %d", status)
	}
	if _, _, status := asks(t, "tcp", at, upgradeTo+"\r\n"); status != http.StatusSwitchingProtocols {
		t.Errorf("a stranger is answered %d", status)
	}
	if _, _, status := asks(t, "tcp", at, upgradeTo+"X-Forwarded-For: 8.8.8.8\r\n\r\n"); status != http.StatusTooManyRequests {
		t.Errorf("a stranger that claims to be another is answered %d", status)
	}
}

// A proxy that was not told to say for whom it comes is turned away, and the log says so.
func TestProxyWithoutHeader(t *testing.T) {
	ctx, end := context.WithCancel(context.Background())
	p := perform(t, "serve", func(std stdio) int {
		s := defaultSettings()
		s.listen, s.proxyProtocol, s.proxies = "127.0.0.1:0", true, []string{"127.0.0.1"}
		return exitCode((&service{given: s, std: std}).serveUntil(ctx, serveTimeouts()))
	})
	p.says("fanfare: ready, open ")
	_, rest, _ := strings.Cut(p.errs.String(), "fanfare: ready, open http://")
	at, _, _ := strings.Cut(rest, "/\n")
	for range 3 {
		if _, _, status := asks(t, "tcp", at, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != 0 && status != http.StatusBadRequest {
			t.Errorf("it is answered %d", status)
		}
	}
	p.says("a trusted proxy sends no PROXY header")
	end()
	p.ends(exitFine)
	if n := strings.Count(p.errs.String(), "sends no PROXY header"); n != 1 {
		t.Errorf("that is said %d times", n)
	}
}

// One that says nothing is cut off.
func TestProxyHeaderTimeout(t *testing.T) {
	_, at := behind(t, func(s *settings) {
		s.proxyProtocol, s.proxies, s.handshakeTimeout = true, []string{"127.0.0.0/8"}, 300*time.Millisecond
	})
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "PROXY TCP4 192.")
	began := time.Now()
	_ = conn.SetDeadline(began.Add(patience))
	if _, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("it is still there after %v", time.Since(began))
	}
}

// The peer of a Unix socket is a proxy.
func TestProxyOverUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ctx, end := context.WithCancel(context.Background())
	given := defaultSettings()
	given.listen, given.grace, given.logLevel = "unix:"+path, patience, "error"
	given.limits.Connections = 1
	p := perform(t, "serve", func(std stdio) int {
		return exitCode((&service{std: std, given: given}).serveUntil(ctx, serveTimeouts()))
	})
	defer p.ends(exitFine)
	defer end()
	p.says("ready")
	for i, want := range []int{101, 101, 429} {
		from := fmt.Sprintf("X-Forwarded-For: 192.0.2.%d\r\n\r\n", []int{1, 2, 1}[i])
		conn, _, status := asks(t, "unix", path, upgradeTo+from)
		if status != want {
			t.Errorf("the %d.: %d, want %d", i+1, status, want)
		}
		defer conn.Close() // before the server ends, which else waits for them
	}
}

func TestBoundFlags(t *testing.T) {
	var l fanfare.Limits
	for _, c := range []struct{ given, want string }{{"5", "5"}, {"0.5", "0.5"}, {"none", "none"}, {"default", "100"}} {
		b := &bound{&l.Handshakes, "100"}
		if err := b.Set(c.given); err != nil || b.String() != c.want {
			t.Errorf("%s: %s %v", c.given, b, err)
		}
	}
	for _, bad := range []string{"0", "-1", "", "NaN", "Inf", "1e10"} {
		if (&bound{&l.Handshakes, ""}).Set(bad) == nil {
			t.Errorf("%q is a number", bad)
		}
	}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}
