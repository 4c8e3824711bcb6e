package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reporting is a server that notes each request's header and then echoes.
func reporting(t *testing.T, o *AcceptOptions) (srv *httptest.Server, requests chan *http.Request) {
	requests = make(chan *http.Request, 20)
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		c, err := Accept(w, r, o)
		if err != nil {
			return
		}
		defer c.CloseNow()
		echo(c)
	}))
	t.Cleanup(srv.Close)
	return srv, requests
}

func says(t *testing.T, c *Conn) {
	t.Helper()
	send(t, c, Text, "hello")
	wantMessage(t, c, Text, "hello")
	if err := c.Close(testContext(t), NormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestDialRequest(t *testing.T) {
	srv, requests := reporting(t, &AcceptOptions{Subprotocols: []string{"v2", "v1"}, Origins: []string{"app.example.com"}})
	srv.Start()
	host := srv.Listener.Addr().String()
	c, resp, err := Dial(testContext(t), "http://alice:s%20cret@"+host+"/chat/%E4%B8%96%2F?since=3#part", &DialOptions{
		Header:       http.Header{"X-Room": {"one"}, "host": nil, "Host": {"chat.example.com"}, "Cookie": {"a=b"}},
		Subprotocols: []string{"v1", "v0"},
		Origin:       "https://app.example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Subprotocol() != "v1" || resp.StatusCode != 101 || c.RemoteAddr().String() != host || c.LocalAddr() == nil {
		t.Error(c.Subprotocol(), resp.Status, c.RemoteAddr())
	}
	r := <-requests
	if r.RequestURI != "/chat/%E4%B8%96%2F?since=3" || r.Host != "chat.example.com" || r.Method != "GET" {
		t.Error(r.Method, r.RequestURI, r.Host)
	}
	for name, want := range map[string]string{
		"X-Room": "one", "Cookie": "a=b", "Origin": "https://app.example.com", "Authorization": basic("alice", "s cret"),
		"User-Agent": "fanfare", "Sec-Websocket-Protocol": "v1, v0", "Sec-Websocket-Version": "13",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	says(t, c)

	c, _, err = Dial(testContext(t), "ws://alice:secret@"+host, &DialOptions{Header: http.Header{"Authorization": {"Bearer x"}, "User-Agent": {"mine"}}})
	if err != nil {
		t.Fatal(err)
	}
	if r = <-requests; r.Header.Get("Authorization") != "Bearer x" || r.UserAgent() != "mine" || r.RequestURI != "/" || r.Header["Origin"] != nil {
		t.Error(r.Header)
	}
	says(t, c)
}

// Misuse is said before anything is sent, in words that help.
func TestDialMisuse(t *testing.T) {
	tests := []struct {
		url  string
		o    *DialOptions
		says string
	}{
		{"localhost:8765", nil, "scheme"},
		{"example.com/chat", nil, "no scheme"},
		{"ftp://localhost/", nil, `"ftp"`},
		{"ws:///chat", nil, "no host"},
		{"ws://:80/", nil, "no host"},
		{"ws://[::1/", nil, "URL"},
		{"ws://user:secret@bad host/", nil, "URL"},
		{"ws+unix://relative.sock:/", nil, "three slashes"},
		{"ws+unix:///", nil, "refused|socket|directory"},
		{"ws://x/", &DialOptions{Header: http.Header{"upgrade": {"x"}}}, "handshake's own"},
		{"ws://x/", &DialOptions{Header: http.Header{"Sec-WebSocket-Key": {"x"}}}, "handshake's own"},
		{"ws://x/", &DialOptions{Header: http.Header{"Sec-WebSocket-Protocol": {"x"}}}, "Subprotocols"},
		{"ws://x/", &DialOptions{Header: http.Header{"X": {"a\r\nB: c"}}}, "control characters"},
		{"ws://x/", &DialOptions{Header: http.Header{"X Y": {"a"}}}, "name of a header"},
		{"ws://x/", &DialOptions{Subprotocols: []string{"a b"}}, "one word"},
		{"ws://x/", &DialOptions{Subprotocols: []string{""}}, "one word"},
		{"ws://x/", &DialOptions{Subprotocols: []string{"a", "a"}}, "twice"},
		{"ws://x/", &DialOptions{Origin: "a\nb"}, "Origin"},
	}
	for _, tt := range tests {
		_, _, err := Dial(testContext(t), tt.url, tt.o)
		ok := false
		for _, word := range strings.Split(tt.says, "|") {
			ok = ok || err != nil && strings.Contains(err.Error(), word)
		}
		if !ok || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s %+v: %v", tt.url, tt.o, err)
		}
	}
}

func TestDialTLS(t *testing.T) {
	srv, _ := reporting(t, nil)
	srv.EnableHTTP2 = true                           // and yet we get HTTP/1.1
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the refused certificate below is no news
	srv.StartTLS()
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig
	c, _, err := Dial(testContext(t), "wss"+strings.TrimPrefix(srv.URL, "https"), &DialOptions{TLSConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 1<<19)
	go func() { _ = c.Write(testContext(t), Text, []byte(big)) }()
	wantMessage(t, c, Text, big)
	says(t, c)
	if _, _, err := Dial(testContext(t), srv.URL, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error("an unknown authority was trusted:", err)
	}
	// A frozen peer over TLS: CloseNow does not wait for it.
	frozen := make(chan struct{})
	stuck := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &AcceptOptions{Queue: 1})
		if err != nil {
			return
		}
		defer c.CloseNow()
		<-frozen
	}))
	t.Cleanup(func() { close(frozen); stuck.Close() })
	c, _, err = Dial(testContext(t), stuck.URL, &DialOptions{TLSConfig: stuck.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err = c.Write(ctx, Binary, make([]byte, 1<<20))
		cancel()
	}
	start := time.Now()
	_ = c.CloseNow()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("CloseNow took %v", d)
	}
}

func TestDialUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, requests := reporting(t, nil)
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	c, _, err := Dial(testContext(t), "ws+unix://"+path+":/chat/general?since=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-requests; r.RequestURI != "/chat/general?since=1" || r.Host != "localhost" {
		t.Error(r.RequestURI, r.Host)
	}
	says(t, c)
	if c, _, err = Dial(testContext(t), "ws+unix://"+path, nil); err != nil {
		t.Fatal(err)
	}
	if r := <-requests; r.RequestURI != "/" {
		t.Error(r.RequestURI)
	}
	says(t, c)
}

func TestDialHookAndNames(t *testing.T) {
	srv, requests := reporting(t, nil)
	srv.Start()
	var network, addr string
	hook := func(ctx context.Context, n, a string) (net.Conn, error) {
		network, addr = n, a
		return (&net.Dialer{}).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}
	for _, tt := range []struct{ url, addr, host string }{
		{"ws://chat.example/", "chat.example:80", "chat.example"},
		{"ws://chat.example:81/", "chat.example:81", "chat.example:81"},
		{"ws://[::1]/", "[::1]:80", "[::1]"},
		{"ws://bücher.example/", "xn--bcher-kva.example:80", "xn--bcher-kva.example"},
		{"WS://bücher.example:81", "xn--bcher-kva.example:81", "xn--bcher-kva.example:81"},
	} {
		c, _, err := Dial(testContext(t), tt.url, &DialOptions{Dial: hook})
		if err != nil {
			t.Error(tt.url, err)
			continue
		}
		if r := <-requests; network != "tcp" || addr != tt.addr || r.Host != tt.host {
			t.Error(tt.url, network, addr, r.Host)
		}
		says(t, c)
	}
}

// Redirects are followed within their limits; credentials stay at home.
func TestDialRedirects(t *testing.T) {
	srv, requests := reporting(t, nil)
	srv.Start()
	there := srv.Listener.Addr().String()
	asked := make(chan *http.Request, 50)
	mux := http.NewServeMux()
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(redirect.Close)
	to := func(path, location string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Location"] = []string{location}
			w.WriteHeader(302)
		})
	}
	to("/elsewhere", "http://"+there+"/chat")
	to("/ws", "ws://"+there+"/chat")
	to("/near", "elsewhere")
	to("/loop", "/loop")
	to("/socket", "ws+unix:///var/run/secret.sock:/")
	to("/file", "file:///etc/passwd")
	to("/nowhere", "http://[")
	base := "ws" + strings.TrimPrefix(redirect.URL, "http")
	o := &DialOptions{
		Header:       http.Header{"Authorization": {"Bearer secret"}, "Cookie": {"secret=1"}, "X-Room": {"one"}},
		Subprotocols: []string{"chat", "bearer.secret"},
	}
	for _, path := range []string{"/elsewhere", "/ws", "/near"} {
		c, _, err := Dial(testContext(t), base+path, o)
		if err != nil {
			t.Fatal(path, err)
		}
		for range len(asked) {
			if r := <-asked; r.Header.Get("Authorization") == "" || r.Header.Get("Cookie") == "" {
				t.Error("credentials were lost on the same server:", r.Header)
			}
		}
		r := <-requests
		if r.Header.Get("X-Room") != "one" || r.Host != there || r.RequestURI != "/chat" {
			t.Error(r.Host, r.RequestURI, r.Header)
		}
		if strings.Contains(fmt.Sprint(r.Header), "secret") {
			t.Errorf("%s: credentials went to another server: %v", path, r.Header)
		}
		says(t, c)
	}
	if c, _, err := Dial(testContext(t), "ws://u:secret@"+strings.TrimPrefix(base, "ws://")+"/elsewhere", nil); err != nil {
		t.Error(err)
	} else {
		if r := <-requests; r.Header["Authorization"] != nil {
			t.Error("the URL's password went to another server")
		}
		says(t, c)
	}
	for len(asked) > 0 {
		<-asked
	}
	for path, says := range map[string]string{"/loop": "10 redirects", "/socket": "Unix socket", "/file": "scheme", "/nowhere": "no URL"} {
		_, resp, err := Dial(testContext(t), base+path, nil)
		if err == nil || resp == nil || !strings.Contains(err.Error(), says) {
			t.Error(path, err)
		}
	}
	if n := len(asked); n != 11+3 {
		t.Errorf("%d requests, want 11 of the loop and 3 others", n)
	}
	down := httptest.NewTLSServer(http.RedirectHandler("http://"+there, http.StatusTemporaryRedirect))
	t.Cleanup(down.Close)
	_, _, err := Dial(testContext(t), down.URL, &DialOptions{TLSConfig: down.Client().Transport.(*http.Transport).TLSClientConfig})
	if err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Error(err)
	}
}

// A refusal carries the server's words, bounded.
func TestDialRefused(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/ok":
			_, _ = io.WriteString(w, "just a page")
		default:
			http.Error(w, "no room for you\x1b[31m here\nsecond line", http.StatusForbidden)
		}
	}))
	t.Cleanup(srv.Close)
	_, resp, err := Dial(testContext(t), srv.URL+"/?token=secret", nil)
	if err == nil || resp == nil || resp.StatusCode != 403 || !strings.Contains(err.Error(), "403 Forbidden") ||
		!strings.Contains(err.Error(), "no room for you") || strings.Contains(err.Error(), "secret") || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Fatal(resp, err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "second line") {
		t.Errorf("%q, %v", body, err)
	}
	if _, resp, err = Dial(testContext(t), srv.URL+"/endless", nil); err == nil || resp == nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); len(body) != 64<<10 {
		t.Errorf("%d bytes of body", len(body))
	}
	if _, _, err = Dial(testContext(t), srv.URL+"/ok", nil); err == nil || !strings.Contains(err.Error(), "200 OK") {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, _, err = Dial(testContext(t), "ws://"+l.Addr().String(), nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// The context and the handshake timeout hold at every step.
func TestDialGivesUp(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	trickle := listen(t, func(conn net.Conn) {
		for _, b := range []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX: " + strings.Repeat("x", 1000)) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for name, url := range map[string]string{"silent": "ws://" + silent, "silent TLS": "wss://" + silent, "a byte at a time": "ws://" + trickle} {
		for _, o := range []*DialOptions{nil, {Proxy: http.ProxyURL(mustURL("http://" + silent))}, {Proxy: http.ProxyURL(mustURL("socks5://" + silent))}} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			_, _, err := Dial(ctx, url, o)
			cancel()
			if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d > 5*time.Second {
				t.Error(name, d, err)
			}
		}
		_, _, err := Dial(context.Background(), url, &DialOptions{HandshakeTimeout: 100 * time.Millisecond})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "100ms") {
			t.Error(name, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, _, err := Dial(ctx, url, nil); !errors.Is(err, context.Canceled) {
			t.Error(name, err)
		}
	}
}

// The connection outlives the context it was dialled with.
func TestConnOutlivesDialContext(t *testing.T) {
	url := serve(t, nil, echo)
	ctx, cancel := context.WithCancel(context.Background())
	c, _, err := Dial(ctx, url, nil)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	says(t, c)
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// tunnels is an HTTP proxy that takes every CONNECT to the same address and
// reports what was asked.
func tunnels(t *testing.T, to string, asked chan<- *http.Request) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		if r.Header.Get("Proxy-Authorization") == basic("u", "wrong") {
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 go ahead\r\n\r\n")
		join(conn, rw.Reader, server)
	})
}

// join copies both ways until both ways have ended.
func join(a net.Conn, fromA io.Reader, b net.Conn) {
	one := make(chan struct{})
	go func() {
		_, _ = io.Copy(b, fromA)
		if h, ok := b.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite()
		}
		close(one)
	}()
	_, _ = io.Copy(a, b)
	if h, ok := a.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	<-one
}

func TestProxyHTTP(t *testing.T) {
	srv, requests := reporting(t, nil)
	srv.Start()
	asked := make(chan *http.Request, 10)
	plain := httptest.NewServer(tunnels(t, srv.Listener.Addr().String(), asked))
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(tunnels(t, srv.Listener.Addr().String(), asked))
	t.Cleanup(secure.Close)
	roots := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs

	for _, proxy := range []*httptest.Server{plain, secure} {
		var forURL string
		c, _, err := Dial(testContext(t), "ws://chat.example/room", &DialOptions{
			TLSConfig: &tls.Config{RootCAs: roots},
			Proxy: func(r *http.Request) (*url.URL, error) {
				forURL = r.URL.String()
				u := mustURL(proxy.URL)
				u.User = url.UserPassword("u", "p")
				return u, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := <-asked; r.Method != "CONNECT" || r.Host != "chat.example:80" || r.Header.Get("Proxy-Authorization") != basic("u", "p") {
			t.Error(r.Method, r.Host, r.Header)
		}
		if r := <-requests; r.Host != "chat.example" || r.Header["Proxy-Authorization"] != nil || forURL != "http://chat.example/room" {
			t.Error(r.Host, r.Header, forURL)
		}
		says(t, c)
	}

	// From the environment, as every other program has it.
	t.Setenv("HTTP_PROXY", plain.URL)
	t.Setenv("http_proxy", "")
	t.Setenv("NO_PROXY", "direct.example")
	t.Setenv("no_proxy", "")
	c, _, err := Dial(testContext(t), "ws://chat.example:1234/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Host != "chat.example:1234" {
		t.Error(r.Host)
	}
	<-requests
	says(t, c)
	nowhere := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialled directly") }
	if _, _, err := Dial(testContext(t), "ws://direct.example/", &DialOptions{Dial: nowhere}); err == nil || strings.Contains(err.Error(), "proxy") {
		t.Error("NO_PROXY:", err)
	}
	// wss has HTTPS_PROXY, and TLS goes through the tunnel.
	inner, _ := reporting(t, nil)
	inner.StartTLS()
	tunnel := httptest.NewServer(tunnels(t, inner.Listener.Addr().String(), asked))
	t.Cleanup(tunnel.Close)
	t.Setenv("HTTPS_PROXY", tunnel.URL)
	t.Setenv("https_proxy", "")
	c, _, err = Dial(testContext(t), "wss://example.com/", &DialOptions{TLSConfig: inner.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Host != "example.com:443" {
		t.Error(r.Host)
	}
	says(t, c)

	_, _, err = Dial(testContext(t), "ws://chat.example/", &DialOptions{Proxy: http.ProxyURL(mustURL("http://u:wrong@" + plain.Listener.Addr().String()))})
	if err == nil || !strings.Contains(err.Error(), "407") || strings.Contains(err.Error(), "wrong") {
		t.Error(err)
	}
	_, _, err = Dial(testContext(t), "ws://chat.example/", &DialOptions{Proxy: http.ProxyURL(mustURL("ftp://localhost"))})
	if err == nil || !strings.Contains(err.Error(), "socks5") {
		t.Error(err)
	}
}

// A SOCKS5 proxy with user and password (RFC 1928, RFC 1929), as far as one CONNECT needs it.
func TestProxySOCKS(t *testing.T) {
	srv, requests := reporting(t, nil)
	srv.Start()
	asked := make(chan string, 10)
	addr := listen(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		take := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(r, b)
			return b
		}
		methods := take(int(take(2)[1]))
		method := methods[len(methods)-1] // 2 is user and password
		_, _ = conn.Write([]byte{5, method})
		who := "nobody"
		if method == 2 {
			user := string(take(int(take(2)[1])))
			who = user + ":" + string(take(int(take(1)[0])))
			_, _ = conn.Write([]byte{1, 0})
		}
		head := take(4)
		if head[3] != 3 { // a name, not an address
			asked <- fmt.Sprint("address type ", head[3])
			return
		}
		name := string(take(int(take(1)[0])))
		port := take(2)
		asked <- fmt.Sprint(who, " ", name, " ", int(port[0])<<8|int(port[1]))
		server, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			return
		}
		defer server.Close()
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		join(conn, r, server)
	})
	for proxy, want := range map[string]string{
		"socks5://u:p@" + addr: "u:p chat.example 80",
		"socks5h://" + addr:    "nobody chat.example 80",
	} {
		c, _, err := Dial(testContext(t), "ws://chat.example/", &DialOptions{Proxy: http.ProxyURL(mustURL(proxy))})
		if err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != want {
			t.Errorf("%s: %s, want %s", proxy, got, want)
		}
		<-requests
		says(t, c)
	}
}
