package handshake

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request returns a good request for example.com, changed as the lines say:
// "Name: value" adds, "Name:" removes, "Name= value" replaces.
func request(lines ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://example.com/chat", nil)
	r.Header = http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for _, line := range lines {
		if name, value, ok := strings.Cut(line, "= "); ok {
			r.Header.Set(name, value)
		} else if name, value, _ := strings.Cut(line, ": "); value != "" {
			r.Header.Add(name, value)
		} else {
			r.Header.Del(strings.TrimSuffix(name, ":"))
		}
	}
	return r
}

// The key and its answer stand in RFC 6455, section 1.3.
func TestAcceptKey(t *testing.T) {
	if got := AcceptKey("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		r      *http.Request
		status int // 0: fine
		code   string
	}{
		{"plain", request(), 0, ""},
		{"tokens in any case and place", request("Connection= keep-alive, uPGRADE", "Upgrade= h2c , WebSocket"), 0, ""},
		{"tokens in repeated headers", request("Connection= keep-alive", "Connection: Upgrade", "Upgrade= h2c", "Upgrade: websocket"), 0, ""},
		{"token with a version", request("Upgrade= websocket/13"), 0, ""},
		{"no Upgrade", request("Upgrade:"), 426, "no_upgrade"},
		{"another Upgrade", request("Upgrade= websockets"), 426, "no_upgrade"},
		{"no Connection", request("Connection:"), 426, "no_upgrade"},
		{"Connection without upgrade", request("Connection= keep-alive"), 426, "no_upgrade"},
		{"no version", request("Sec-WebSocket-Version:"), 426, "bad_version"},
		{"version 8", request("Sec-WebSocket-Version= 8"), 426, "bad_version"},
		{"version 14", request("Sec-WebSocket-Version= 14"), 426, "bad_version"},
		{"two versions", request("Sec-WebSocket-Version: 13"), 426, "bad_version"},
		{"no key", request("Sec-WebSocket-Key:"), 400, "bad_key"},
		{"two keys", request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "bad_key"},
		{"short key", request("Sec-WebSocket-Key= dGhlIHNhbXBsZSBub25j"), 400, "bad_key"},
		{"long key", request("Sec-WebSocket-Key= dGhlIHNhbXBsZSBub25jZTE="), 400, "bad_key"},
		{"key not base64", request("Sec-WebSocket-Key= !!!!!!!!!!!!!!!!!!!!!!=="), 400, "bad_key"},
		{"huge key", request("Sec-WebSocket-Key= " + strings.Repeat("A", 1<<20)), 400, "bad_key"},
	}
	post := request()
	post.Method = "POST"
	old := request()
	old.ProtoMinor = 0
	h2 := request()
	h2.ProtoMajor, h2.ProtoMinor = 2, 0
	body := request()
	body.ContentLength = 5
	chunked := request()
	chunked.ContentLength = -1
	tests = append(tests, []struct {
		name   string
		r      *http.Request
		status int
		code   string
	}{
		{"POST", post, 405, "bad_method"}, {"HTTP/1.0", old, 505, "bad_http"}, {"HTTP/2", h2, 505, "bad_http"},
		{"a body", body, 400, "bad_body"}, {"a chunked body", chunked, 400, "bad_body"},
	}...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Check(tt.r, nil)
			if tt.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Status != tt.status || refusal.Code != tt.code || refusal.Reason == "" {
				t.Fatalf("%v, want %d %s", err, tt.status, tt.code)
			}
			rec := httptest.NewRecorder()
			refusal.Answer(rec)
			if rec.Code != tt.status || !strings.Contains(rec.Body.String(), refusal.Reason) {
				t.Errorf("answered %d %q", rec.Code, rec.Body)
			}
			if h := rec.Header(); tt.status == 426 && (h.Get("Sec-WebSocket-Version") != "13" || h.Get("Upgrade") != "websocket") {
				t.Errorf("a 426 must say what to upgrade to: %v", h)
			}
			if tt.status == 405 && rec.Header().Get("Allow") != "GET" {
				t.Error("a 405 must say what is allowed")
			}
		})
	}
}

func TestIsUpgrade(t *testing.T) {
	if !IsUpgrade(request()) || !IsUpgrade(request("Sec-WebSocket-Key:")) || IsUpgrade(request("Upgrade= h2c")) || IsUpgrade(request("Upgrade:")) {
		t.Error("asking for a WebSocket is having the token websocket in Upgrade")
	}
}

func TestOrigin(t *testing.T) {
	plain, secure := "http://app.example.com", "https://app.example.com"
	tests := []struct {
		at      string // the page's host, as the request's URL
		origin  string // "": absent
		origins []string
		fine    bool
	}{
		{plain, "", nil, true},
		{secure, "", nil, true},
		{plain, "http://app.example.com", nil, true},
		{plain, "HTTP://APP.example.COM", nil, true},
		{plain, "http://app.example.com:80", nil, true},
		{plain + ":80", "http://app.example.com", nil, true},
		{plain, "https://app.example.com", nil, true}, // a proxy ends TLS before us
		{plain + ":443", "https://app.example.com", nil, true},
		{secure, "https://app.example.com", nil, true},
		{secure + ":443", "https://app.example.com", nil, true},
		{plain + ":8765", "http://app.example.com:8765", nil, true},
		{"http://[::1]:8765", "http://[::1]:8765", nil, true},
		{"http://[::1]", "http://[::1]", nil, true},

		{plain, "https://evil.example", nil, false},
		{plain, "https://app.example.com.evil.example", nil, false},
		{plain, "https://evil.example/app.example.com", nil, false},
		{plain, "https://app.example.com@evil.example", nil, false},
		{plain, "https://evil.example#app.example.com", nil, false},
		{plain, "https://evil.example?app.example.com", nil, false},
		{plain, "null", nil, false},
		{plain, "//app.example.com", nil, false},
		{plain, "app.example.com", nil, false},
		{plain, "https://", nil, false},
		{plain, "https://:443", nil, false},
		{plain, "ftp://app.example.com", nil, false},
		{plain, "http://app.example.com:8080", nil, false},
		{plain, "https://app.example.com:80", nil, false},
		{plain + ":8765", "http://app.example.com", nil, false},
		{secure, "http://app.example.com", nil, false},
		{secure, "http://app.example.com:443", nil, false},
		{plain, "http://[::1", nil, false},

		{plain, "https://other.example", []string{"other.example"}, true},
		{plain, "https://other.example:443", []string{"other.example"}, true},
		{plain, "https://OTHER.example", []string{"other.example"}, true},
		{plain, "https://other.example:444", []string{"other.example"}, false},
		{plain, "https://a.other.example", []string{"*.other.example"}, true},
		{plain, "https://a.other.example.evil.example", []string{"*.other.example"}, false},
		{plain, "https://aother.example", []string{"*.other.example"}, false},
		{plain, "http://localhost:3000", []string{"localhost:*"}, true},
		{plain, "http://[::1]:3000", []string{"[::1]:3000"}, true},
		{plain, "https://other.example", []string{"https://other.example"}, true},
		{plain, "http://other.example", []string{"https://other.example"}, false},
		{plain, "https://other.example", []string{"OTHER.Example"}, true},
		{plain, "https://other.example", []string{"HTTPS://Other.Example"}, true},
		{plain, "https://a.other.example", []string{"*.Other.EXAMPLE"}, true},
		{plain, "https://other.example", []string{"https://other.example:443"}, true},
		{plain, "https://other.example", []string{"other.example:443"}, true},
		{plain, "http://other.example", []string{"other.example:443"}, false},
		{plain, "https://other.example:80", []string{"other.example"}, false},
		{plain, "http://localhost", []string{"localhost:*"}, true},
		{plain, "https://[::1]", []string{"[::1]:443"}, true},
		{plain, "chrome-extension://abcdef", []string{"chrome-extension://abcdef"}, true},
		{plain, "null", []string{"other.example", "*.example"}, false},
		{plain, "null", []string{"*"}, true},
		{plain, "https://evil.example", []string{"a", "*"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.at+" from "+tt.origin, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.at+"/", nil)
			r.Header = request().Header
			r.Header.Set("Cookie", "session=secret")
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			_, err := Check(r, &Options{Origins: tt.origins})
			if tt.fine != (err == nil) {
				t.Fatal(err)
			}
			var refusal *Refusal
			if err != nil && (!errors.As(err, &refusal) || refusal.Status != 403 || refusal.Code != "bad_origin") {
				t.Error(err)
			}
		})
	}
	var refusal *Refusal
	if _, err := Check(request("Origin: http://example.com", "Origin: http://evil.example"), nil); !errors.As(err, &refusal) || refusal.Status != 403 {
		t.Error("two origins:", err)
	}
	if _, err := Check(request("Origin: http://"+strings.Repeat("a", 1<<16)), nil); !errors.As(err, &refusal) || len(refusal.Reason) > 1000 {
		t.Error("the reason must not grow with the header")
	}
}

func TestCheckOrigins(t *testing.T) {
	good := []string{"*", "app.example.com", "App.Example.com:8080", "*.example.com", "localhost:*", "[::1]:3000", "[2001:db8::1]",
		"https://app.example.com", "HTTPS://*.example.com", "*://app.example.com", "app[0-9].example.com", "chrome-extension://abcdef"}
	if err := CheckOrigins(good); err != nil {
		t.Error(err)
	}
	if err := CheckOrigins(nil); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "[", "app[.example.com", "https://app[a-].example.com", `app.example.com\`, "https://", "https://app.example.com/", "app.example.com/chat",
		"a.example, b.example", "a.example b.example", "null", "bücher.example", "https://me@app.example.com"} {
		err := CheckOrigins([]string{"app.example.com", bad})
		if err == nil {
			t.Errorf("%q passes for a pattern", bad)
			continue
		}
		for _, want := range []string{strconv.Quote(bad), `"https://app.example.com"`} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error does not say %s: %v", bad, want, err)
			}
		}
		// Found with the first request, and not only when a foreign page comes.
		var refusal *Refusal
		if _, err := Check(request(), &Options{Origins: []string{bad}}); !errors.As(err, &refusal) || refusal.Status != 500 || refusal.Code != "bad_config" {
			t.Errorf("%q is not refused at once: %v", bad, err)
		}
		if refusal := CheckOrigin(request("Origin: http://evil.example"), []string{bad}); refusal == nil || refusal.Status != 403 {
			t.Errorf("%q lets a page in, or is not a 403: %v", bad, refusal)
		}
	}
	if err := CheckOrigins([]string{"["}); !errors.Is(err, path.ErrBadPattern) {
		t.Errorf("%v, want a path.ErrBadPattern", err)
	}
}

func TestSubprotocol(t *testing.T) {
	tests := []struct {
		offered, ours []string
		want          string
	}{
		{nil, nil, ""},
		{[]string{"a"}, nil, ""},
		{nil, []string{"a"}, ""},
		{[]string{"b, a"}, []string{"a", "b"}, "a"},
		{[]string{"b", " a\t,c"}, []string{"a", "b"}, "a"},
		{[]string{"c,b"}, []string{"a", "b"}, "b"},
		{[]string{"A"}, []string{"a"}, ""}, // RFC 6455 compares them byte for byte
		{[]string{",, ,"}, []string{""}, ""},
	}
	for _, tt := range tests {
		r := request()
		r.Header["Sec-Websocket-Protocol"] = tt.offered
		if got, err := Check(r, &Options{Subprotocols: tt.ours}); err != nil || got != tt.want {
			t.Errorf("%q of %q: %q, %v", tt.offered, tt.ours, got, err)
		}
	}
}

// Row 7 and 8 of what has hurt others: lists of a hundred thousand entries and
// endless blanks. A megabyte must take milliseconds.
func TestHostileHeadersTakeLinearTime(t *testing.T) {
	for name, value := range map[string]string{
		"many entries": strings.Repeat("x,", 1<<19),
		"many commas":  strings.Repeat(",", 1<<20),
		"blanks":       "b" + strings.Repeat(" ", 1<<20) + "x",
		"tabs":         strings.Repeat("\t ", 1<<19) + ",",
		"slashes":      strings.Repeat("/", 1<<20),
	} {
		for _, header := range []string{"Sec-Websocket-Protocol", "Upgrade", "Connection", "Sec-Websocket-Extensions", "Origin", "Sec-Websocket-Key", "Sec-Websocket-Version"} {
			r := request()
			r.Header[header] = append(r.Header[header], value)
			start := time.Now()
			_, err := Check(r, &Options{Subprotocols: []string{"a", "b"}, Origins: []string{"*.a", "*b*c*"}})
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("%s in %s took %v (%v)", name, header, d, err)
			}
		}
	}
}

// over sends a raw request to a server with the handler and returns the
// connection and a reader of what comes back.
func over(t *testing.T, h http.Handler, raw string) (net.Conn, *bufio.Reader) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

const rawRequest = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// echo takes the connection and sends back what came with and after the request.
func echo(extra http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sub, err := Check(r, &Options{Subprotocols: []string{"v1"}})
		var conn net.Conn
		var arrived []byte
		if err == nil {
			conn, arrived, err = Take(w, r, Agreed{Subprotocol: sub}, extra)
		}
		var refusal *Refusal
		if errors.As(err, &refusal) {
			refusal.Answer(w)
			return
		}
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, io.MultiReader(bytes.NewReader(arrived), conn))
	})
}

func TestTake(t *testing.T) {
	extra := http.Header{
		"X-Two":                    {"a\r\nSet-Cookie: evil=1", "b"},
		"bad name":                 {"x"},
		"Upgrade":                  {"h2c"},
		"connection":               {"close"},
		"Sec-WebSocket-Accept":     {"forged"},
		"sec-websocket-extensions": {"x"},
		"Content-Length":           {"5"},
	}
	conn, r := over(t, echo(extra), strings.Replace(rawRequest, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: v0, v1\r\n\r\nearly", 1))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		"Sec-Websocket-Protocol": {"v1"}, "X-Two": {"a  Set-Cookie: evil=1", "b"},
	}
	if resp.StatusCode != 101 || fmt.Sprint(resp.Header) != fmt.Sprint(want) {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	_, _ = io.WriteString(conn, " late")
	got := make([]byte, len("early late"))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "early late" {
		t.Errorf("%q, %v", got, err)
	}
}

// An answer that goes on has the headers that it was given, and no end but the
// connection's; what the client says besides is nobody's.
func TestTakeStream(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := http.Header{
			"Content-Type": {"text/event-stream"}, "X-Two": {"a\r\nSet-Cookie: evil=1", "b"}, "date": {"long ago"},
			"Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "connection": {"keep-alive"}, "Keep-Alive": {"timeout=5"},
			"Upgrade": {"h2c"}, "Content-Encoding": {"gzip"},
		}
		conn, err := TakeStream(w, h, []byte("first "))
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "and more")
		_ = conn.Close()
	})
	_, r := over(t, h, "GET /chat HTTP/1.1\r\nHost: example.com\r\n\r\nGET /again HTTP/1.1\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Content-Type": {"text/event-stream"}, "Date": {"long ago"}, "X-Two": {"a  Set-Cookie: evil=1", "b"}}
	if resp.StatusCode != 200 || fmt.Sprint(resp.Header) != fmt.Sprint(want) || !resp.Close || resp.ContentLength != -1 || resp.TransferEncoding != nil {
		t.Errorf("%d %v, length %d", resp.StatusCode, resp.Header, resp.ContentLength)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "first and more" {
		t.Errorf("%q", body)
	}
}

// Where it cannot be taken, an answer is still possible.
func TestTakeStreamRefused(t *testing.T) {
	for _, wrap := range []func(http.ResponseWriter) http.ResponseWriter{
		func(w http.ResponseWriter) http.ResponseWriter { return opaque{w} },
		func(w http.ResponseWriter) http.ResponseWriter { return polite{opaque{opaque{w}}} },
	} {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := TakeStream(wrap(w), nil, nil)
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Code != "no_hijack" {
				t.Errorf("%v, want a refusal", err)
			}
			refusal = NoStream(wrap(w))
			if refusal.Code != "no_stream" || !strings.Contains(refusal.Reason, "handshake.opaque") || !strings.Contains(refusal.Reason, "Unwrap()") {
				t.Errorf("%s: %s", refusal.Code, refusal.Reason)
			}
			w.WriteHeader(http.StatusTeapot)
		})
		_, r := over(t, h, "GET /chat HTTP/1.1\r\nHost: example.com\r\n\r\n")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusTeapot {
			t.Errorf("%v %v", resp, err)
		}
	}
}

// The HTTP server's own deadlines would cut a WebSocket in the middle.
func TestTakeClearsDeadlines(t *testing.T) {
	srv := httptest.NewUnstartedServer(echo(nil))
	srv.Config.ReadTimeout = 100 * time.Millisecond
	srv.Config.WriteTimeout = 100 * time.Millisecond
	srv.Start()
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, rawRequest)
	r := bufio.NewReader(conn)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // the timeouts under test run out
	_, _ = io.WriteString(conn, "x")
	if b, err := r.ReadByte(); err != nil || b != 'x' {
		t.Error(b, err)
	}
}

type opaque struct{ w http.ResponseWriter }

func (o opaque) Header() http.Header         { return o.w.Header() }
func (o opaque) Write(b []byte) (int, error) { return o.w.Write(b) }
func (o opaque) WriteHeader(code int)        { o.w.WriteHeader(code) }

type polite struct{ opaque }

func (p polite) Unwrap() http.ResponseWriter { return p.w }

type broken struct{ opaque }

func (broken) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no wire") }

// asserting is a wrapper as routers have it: its Hijack takes for granted that
// the writer within has one.
type asserting struct{ opaque }

func (a asserting) Unwrap() http.ResponseWriter                  { return a.w }
func (a asserting) Hijack() (net.Conn, *bufio.ReadWriter, error) { return a.w.(http.Hijacker).Hijack() }

func wrap(h http.Handler, wrapper func(http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrapper(w), r) })
}

func TestTakeThroughWrappers(t *testing.T) {
	hide := func(w http.ResponseWriter) http.ResponseWriter { return opaque{w} }
	tests := map[string]struct {
		h      http.Handler
		status int
		says   string
	}{
		"an Unwrap method": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return polite{opaque{polite{opaque{w}}}} }), 101, ""},
		"hidden":           {wrap(echo(nil), hide), 500, "handshake.opaque"},
		"hidden deeper": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return polite{opaque{opaque{w}}} }),
			500, "handshake.opaque"},
		"asserting": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return asserting{opaque{w}} }), 101, ""},
		"asserting around an Unwrap method": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return asserting{opaque{polite{opaque{w}}}} }),
			101, ""},
		"hidden below asserting": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return asserting{opaque{opaque{w}}} }),
			500, "handshake.opaque"},
		"TimeoutHandler":  {http.TimeoutHandler(echo(nil), time.Minute, ""), 500, "*http.timeoutWriter"},
		"a broken Hijack": {wrap(echo(nil), func(w http.ResponseWriter) http.ResponseWriter { return broken{opaque{w}} }), 500, "no wire"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, r := over(t, tt.h, rawRequest)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Fatal(resp.Status)
			}
			if tt.status != 101 {
				if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), tt.says) {
					t.Errorf("%s", body)
				}
			}
		})
	}
}

// Over HTTP/2 there is no connection to take, and the client is told.
func TestHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, err := Take(w, r, Agreed{}, nil)
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("Take over HTTP/2: %v", err)
			return
		}
		refusal.Answer(w)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 505 {
		t.Error(resp.Proto, resp.Status)
	}
}

// On a TLS server the page must be https.
func TestOriginOverTLS(t *testing.T) {
	r := request("Origin: http://example.com")
	r.TLS = &tls.ConnectionState{}
	if _, err := Check(r, nil); err == nil {
		t.Error("an http page reached a TLS server")
	}
}
