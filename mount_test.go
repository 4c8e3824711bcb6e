package fanfare_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A mounting is a server within somebody's own HTTP server. (chi and gin, which
// are other modules' dependencies, are in internal/mounts.)
type mounting struct {
	*fanfare.Server
	http   *httptest.Server
	dialer *websocket.Dialer
	log    *ledger
}

// mount has around place a server into what is served, and serves that.
func mount(t *testing.T, around func(live http.Handler) http.Handler, start func(*httptest.Server)) *mounting {
	t.Helper()
	log := new(ledger)
	live, err := fanfare.New(fanfare.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	m := &mounting{Server: live, http: httptest.NewUnstartedServer(around(live)), dialer: &websocket.Dialer{HandshakeTimeout: patience}, log: log}
	m.http.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(log, nil), slog.LevelError)
	start(m.http)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := live.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		m.http.Close()
	})
	return m
}

// A ledger is a log that may be read while it is written.
type ledger struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *ledger) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (m *mounting) fetch(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, m.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := m.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// speaksHTTP wants everything but WebSockets to work on the channel that is
// mounted at path.
func (m *mounting) speaksHTTP(t *testing.T, path, channel string) {
	t.Helper()
	resp, body := m.fetch(t, "POST", path+"?name=bob", "said by POST")
	var answer struct{ Channel, Position string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != http.StatusOK || answer.Channel != channel || answer.Position == "" {
		t.Errorf("POST: %s %s, want a position in %s", resp.Status, body, channel)
	}
	resp, body = m.fetch(t, "GET", path+"?since=0", "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, `"sender":"bob","data":"said by POST"`) {
		t.Errorf("history: %s %s", resp.Status, body)
	}
	resp, body = m.fetch(t, "GET", path, "", "Accept", "text/html")
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "<title>") {
		t.Errorf("the page: %s %.200s", resp.Status, body)
	}
}

// speaks wants everything to work on the channel that is mounted at path.
func (m *mounting) speaks(t *testing.T, path, channel string) {
	t.Helper()
	alice, resp, err := m.dialer.Dial("ws"+strings.TrimPrefix(m.http.URL, "http")+path+"?name=alice", nil)
	if err != nil {
		t.Fatalf("%v %+v\nlog: %s", err, resp, m.log)
	}
	defer alice.Close()
	alice.SetReadDeadline(time.Now().Add(patience))
	hears := func(want string) {
		t.Helper()
		if _, got, err := alice.ReadMessage(); err != nil || !strings.HasSuffix(string(got), "] "+want) {
			t.Fatalf("alice hears %q and %v, want %s", got, err, want)
		}
	}
	if err := alice.WriteMessage(websocket.TextMessage, []byte("Hello 🎺")); err != nil {
		t.Fatal(err)
	}
	hears("alice: Hello 🎺")
	m.speaksHTTP(t, path, channel)
	hears("bob: said by POST")
	if err := alice.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := alice.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("alice closed, and was answered %v", err)
	}
	if _, err := alice.NetConn().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the close the connection gives %v, want EOF", err)
	}
	alice.Close()
	eventually(t, "alice's session is gone", func() bool { return m.Stats().Sessions == 0 })
}

// under mounts live below /live of a site that has other things, too.
func under(live http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", live))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the site") })
	return mux
}

func TestMountUnderPrefix(t *testing.T) {
	m := mount(t, func(live http.Handler) http.Handler { return under(live) }, (*httptest.Server).Start)
	m.speaks(t, "/live/chat/general", "chat/general")
	m.speaks(t, "/live/", "lobby")
	if resp, body := m.fetch(t, "GET", "/live/-/readyz", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("/live/-/readyz: %s %s", resp.Status, body)
	}
	if _, body := m.fetch(t, "GET", "/else", ""); body != "the site" {
		t.Errorf("the site beside it answers %q", body)
	}
	// A channel may be mounted alone, at a name of its own.
	m = mount(t, func(live http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/news", http.StripPrefix("/news", live))
		return mux
	}, (*httptest.Server).Start)
	m.speaks(t, "/news", "lobby")
}

// statusWriter is a logging middleware's, as it should be: with Unwrap.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// blindWriter is one as they often are: the connection is not to be seen through it.
type blindWriter struct{ http.ResponseWriter }

func TestMountBehindMiddleware(t *testing.T) {
	m := mount(t, func(live http.Handler) http.Handler {
		mux := under(live)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			outer := &statusWriter{ResponseWriter: &statusWriter{ResponseWriter: w}}
			mux.ServeHTTP(outer, r)
		})
	}, (*httptest.Server).Start)
	m.speaks(t, "/live/chat", "chat")
}

// Behind what hides the connection there are no WebSockets, and whoever has
// the problem is told whose fault it is; all else works.
func TestMountBehindWhatHides(t *testing.T) {
	blind := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(blindWriter{w}, r) })
	}
	seeing := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&statusWriter{ResponseWriter: w}, r) })
	}
	impatient := func(next http.Handler) http.Handler { return http.TimeoutHandler(next, patience, "too late") }
	for _, c := range []struct {
		name   string
		around func(http.Handler) http.Handler
		names  string // the type at fault
	}{
		{"a writer without Unwrap", blind, "fanfare_test.blindWriter"},
		{"one within a writer with Unwrap", func(h http.Handler) http.Handler { return blind(seeing(h)) }, "fanfare_test.blindWriter"},
		{"one around a writer with Unwrap", func(h http.Handler) http.Handler { return seeing(blind(h)) }, "fanfare_test.blindWriter"},
		{"http.TimeoutHandler", impatient, "*http.timeoutWriter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mount(t, func(live http.Handler) http.Handler { return c.around(under(live)) }, (*httptest.Server).Start)
			_, resp, err := m.dialer.Dial("ws"+strings.TrimPrefix(m.http.URL, "http")+"/live/chat", nil)
			if err != websocket.ErrBadHandshake {
				t.Fatalf("the WebSocket: %v, want a refusal", err)
			}
			body, _ := io.ReadAll(resp.Body)
			var refusal struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(body, &refusal); err != nil {
				t.Fatalf("the refusal is no JSON: %v\n%s", err, body)
			}
			if resp.StatusCode != http.StatusInternalServerError || refusal.Error.Code != "no_hijack" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
				t.Errorf("the refusal is %s, %s, %s", resp.Status, resp.Header.Get("Content-Type"), refusal.Error.Code)
			}
			for who, text := range map[string]string{"the client": refusal.Error.Message, "the operator": m.log.String()} {
				if !strings.Contains(text, "type "+c.names+" hides the connection") || !strings.Contains(text, "Unwrap() http.ResponseWriter") {
					t.Errorf("%s is not told that it is %s and what to do: %s", who, c.names, text)
				}
			}
			if s := m.Stats(); s.Sessions != 0 || s.Channels != 0 {
				t.Errorf("after the refusal there are %d sessions and %d channels", s.Sessions, s.Channels)
			}
			m.speaksHTTP(t, "/live/chat", "chat")
		})
	}
}

// TLS is the stream transport's: the connection that is taken over is a tls.Conn.
func TestMountTLS(t *testing.T) {
	m := mount(t, func(live http.Handler) http.Handler { return under(live) }, (*httptest.Server).StartTLS)
	m.dialer.TLSClientConfig = m.http.Client().Transport.(*http.Transport).TLSClientConfig
	m.speaks(t, "/live/chat", "chat")

	// Large messages, many records.
	alice, _, err := m.dialer.Dial("wss"+strings.TrimPrefix(m.http.URL, "https")+"/live/large", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	alice.SetReadDeadline(time.Now().Add(patience))
	large := bytes.Repeat([]byte("large"), 200_000)
	for range 3 {
		if err := alice.WriteMessage(websocket.BinaryMessage, large); err != nil {
			t.Fatal(err)
		}
		if _, got, err := alice.ReadMessage(); err != nil || !bytes.Equal(got, large) {
			t.Fatalf("%d bytes came back as %d, and %v", len(large), len(got), err)
		}
	}
	alice.Close()
}

// Over HTTP/2 there is no upgrade; the rest of a channel's faces is there, and
// a WebSocket's client that asks for HTTP/1.1, as all do, is not concerned.
func TestMountHTTP2(t *testing.T) {
	m := mount(t, func(live http.Handler) http.Handler { return under(live) }, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.StartTLS()
	})
	if resp, _ := m.fetch(t, "GET", "/live/chat", ""); resp.ProtoMajor != 2 {
		t.Fatalf("the test's client speaks %s", resp.Proto)
	}
	m.speaksHTTP(t, "/live/chat", "chat")
	m.dialer.TLSClientConfig = m.http.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	m.dialer.TLSClientConfig.NextProtos = nil // gorilla does not speak HTTP/2 and must not offer it
	m.speaks(t, "/live/both", "both")

	// net/http itself answers an upgrade over HTTP/2 ...
	status, body := upgradeHTTP2(t, m.http)
	if status != "400" || !strings.Contains(body, `"Connection"`) && !strings.Contains(body, `"Upgrade"`) {
		t.Errorf("an upgrade over HTTP/2 is answered %s %s", status, body)
	}
	// ... and where something else serves HTTP/2, we do.
	r := httptest.NewRequest("GET", "https://example.com/chat", nil)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	if w.Code != http.StatusHTTPVersionNotSupported || !strings.Contains(w.Body.String(), `"code":"bad_http"`) || !strings.Contains(w.Body.String(), "came over HTTP/2; connect over HTTP/1.1") {
		t.Errorf("an upgrade over somebody's HTTP/2 is answered %d %s", w.Code, w.Body)
	}
}

// upgradeHTTP2 sends an HTTP/1.1 upgrade as HTTP/2 frames, which no client does
// that knows what it is doing, and returns status and body of the answer.
func upgradeHTTP2(t *testing.T, s *httptest.Server) (status, body string) {
	t.Helper()
	cfg := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":path", "/live/chat"}, {":authority", "example.com"},
		{"connection", "Upgrade"}, {"upgrade", "websocket"}, {"sec-websocket-version", "13"}, {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after status %q: %v", status, err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
			if f.StreamEnded() {
				return status, body
			}
		case *http2.DataFrame:
			body += string(f.Data())
			if f.StreamEnded() {
				return status, body
			}
		case *http2.RSTStreamFrame:
			return f.ErrCode.String(), body
		}
	}
}

func TestMountUnixSocket(t *testing.T) {
	// Not t.TempDir: the name of a Unix socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "fanfare")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	m := mount(t, func(live http.Handler) http.Handler { return under(live) }, func(s *httptest.Server) {
		s.Listener.Close()
		s.Listener = listener
		s.Start()
		s.URL = "http://localhost"
		s.Client().Transport = &http.Transport{DialContext: dial}
	})
	defer m.http.Client().CloseIdleConnections()
	m.dialer.NetDialContext = dial
	m.speaks(t, "/live/chat", "chat")
}
