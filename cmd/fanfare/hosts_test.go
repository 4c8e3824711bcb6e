package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fanfare"
)

func TestCheckHost(t *testing.T) {
	for name, ok := range map[string]bool{
		"chat.example.com": true, "localhost": true, "münchen.example": true,
		"": false, "http://chat.example.com": false, "chat.example.com:443": false, "a/b": false, "*.example.com": false, "a b": false,
	} {
		if err := checkHost(name); (err == nil) != ok {
			t.Errorf("--host %q: %v", name, err)
		}
	}
}

// A page whose name resolves to this machine is not let in: neither by a plain
// request, nor by a handshake that names it as its own origin.
func TestOnlyHosts(t *testing.T) {
	srv, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	outside := httptest.NewServer(onlyHosts(func() ([]string, bool) { return []string{"chat.example.com"}, false }, srv))
	defer outside.Close()
	defer srv.Shutdown(context.Background())
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:8765": true, "LOCALHOST": true, "localhost.": true, "app.localhost:1": true,
		"127.0.0.1:8765": true, "127.0.0.2": true, "[::1]:8765": true, "[::1]": true, "192.168.1.5:80": true,
		"chat.example.com": true, "Chat.Example.com:443": true,
		"evil.example": false, "evil.example:8765": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false,
		"notlocalhost": false, "chat.example.com.evil.example": false, "xchat.example.com": false,
	} {
		for _, upgrade := range []bool{false, true} {
			conn, err := net.Dial("tcp", outside.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			extra, want := "Connection: close\r\n", 200
			if upgrade {
				extra = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://" + host + "\r\n"
				want = 101
			}
			if !ok {
				want = 421
			}
			fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n%s\r\n", host, extra)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(host, err)
			}
			if resp.StatusCode != want {
				t.Errorf("Host %s, upgrade %v: %s, want %d", host, upgrade, resp.Status, want)
			}
			if !ok {
				if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), `"bad_host"`) || !strings.Contains(string(body), "--host") {
					t.Errorf("Host %s: %s", host, body)
				}
			}
			conn.Close()
		}
	}
}
