package fanfare_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/chromiumtest"
	"fanfare/internal/partner"
	"fanfare/protocol"
)

const (
	asEvents = "Accept: text/event-stream"
	asLines  = "Accept: application/x-ndjson"
)

// A listener reads a channel over HTTP.
type listener struct {
	t     testing.TB
	head  http.Header
	conn  net.Conn // of HTTP/1 only
	body  io.ReadCloser
	r     *bufio.Reader
	sse   bool
	at    string        // the newest position: what to resume from
	retry time.Duration // as an EventSource is told
}

// listen begins to read a path, over a connection of its own.
func (s *stage) listen(path string, headers ...string) *listener {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	l, err := listenOn(s.t, conn, path, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// listenOn begins to read over a connection to the server.
func listenOn(t testing.TB, conn net.Conn, path string, headers ...string) (*listener, error) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, conn.RemoteAddr(), strings.Join(append(headers, ""), "\r\n"))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	l, err := newListener(t, resp)
	if err == nil {
		l.conn = conn
	}
	return l, err
}

func newListener(t testing.TB, resp *http.Response) (*listener, error) {
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	l := &listener{t: t, head: resp.Header, body: resp.Body, r: bufio.NewReader(resp.Body), at: resp.Header.Get("Fanfare-Position")}
	switch resp.Header.Get("Content-Type") {
	case "text/event-stream":
		l.sse = true
	case "application/x-ndjson":
	default:
		return nil, fmt.Errorf("it comes as %q", resp.Header.Get("Content-Type"))
	}
	return l, nil
}

// next returns what is said next, whatever form it has. What was cut off in the
// middle is io.ErrUnexpectedEOF, and counts for nothing.
func (l *listener) next() (protocol.Event, error) {
	if l.conn != nil {
		l.conn.SetReadDeadline(time.Now().Add(patience))
	}
	if !l.sse {
		line, err := l.line()
		if err != nil {
			return protocol.Event{}, err
		}
		e, err := protocol.ParseEvent([]byte(line))
		if e.Position != "" {
			l.at = e.Position
		}
		return e, err
	}
	var name, data, id string
	for begun := false; ; begun = true {
		line, err := l.line()
		switch {
		case err == io.EOF && begun:
			return protocol.Event{}, io.ErrUnexpectedEOF
		case err != nil:
			return protocol.Event{}, err
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data += value
		case "retry":
			ms, err := strconv.Atoi(value)
			if err != nil {
				return protocol.Event{}, err
			}
			l.retry = time.Duration(ms) * time.Millisecond
		case "":
			if line == ":" || line == ": " { // a comment
				if end, err := l.line(); end != "" || err != nil {
					return protocol.Event{}, fmt.Errorf("behind a comment is %q, %v", end, err)
				}
				return protocol.Event{Type: "heartbeat"}, nil
			}
			if line != "" {
				return protocol.Event{}, fmt.Errorf("the line %q", line)
			}
			if id != "" {
				l.at = id
			}
			if data == "" {
				name, id, begun = "", "", false
				continue // no event, and its id counts
			}
			e, err := protocol.ParseEvent([]byte(data))
			if err == nil && (name != e.Type && !(name == "" && e.Type == "message") || e.Position != id) {
				err = fmt.Errorf("the event %q with the id %q is %s", name, id, data)
			}
			return e, err
		default:
			return protocol.Event{}, fmt.Errorf("the line %q", line)
		}
	}
}

func (l *listener) line() (string, error) {
	line, err := l.r.ReadString('\n')
	if err == io.EOF && line != "" {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSuffix(line, "\n"), err
}

// event returns what is said next.
func (l *listener) event() protocol.Event {
	l.t.Helper()
	e, err := l.next()
	if err != nil {
		l.t.Fatal("listening: ", err)
	}
	return e
}

// hear returns the data of the next message; heartbeats are passed over.
func (l *listener) hear() string {
	l.t.Helper()
	for {
		switch e := l.event(); e.Type {
		case "message":
			return string(e.Data)
		case "heartbeat":
		default:
			l.t.Fatalf("instead of a message: %s", e.Append(nil))
		}
	}
}

// bye reads on to the end and returns what was said last.
func (l *listener) bye() protocol.Event {
	l.t.Helper()
	var last protocol.Event
	for {
		e, err := l.next()
		switch {
		case err == io.EOF:
			if last.Type != "bye" {
				l.t.Fatalf("the last is %s", last.Append(nil))
			}
			l.body.Close()
			return last
		case err != nil:
			l.t.Fatal("waiting for bye: ", err)
		}
		last = e
	}
}

// bothForms runs a test for each form in which a channel is read over HTTP, over
// each transport.
func bothForms(t *testing.T, f func(t *testing.T, accept string)) {
	bothTransports(t, func(t *testing.T) {
		for name, accept := range map[string]string{"SSE": asEvents, "NDJSON": asLines} {
			t.Run(name, func(t *testing.T) { f(t, accept) })
		}
	})
}

// What goes over the wire, byte for byte.
func TestLiveBytes(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{})
		events, lines := s.listen("/a/b", asEvents), s.listen("/a/b", asLines)
		wildEvents, wildLines := s.listen("/a/*", asEvents), s.listen("/**", asLines)
		start := events.head.Get("Fanfare-Position")
		before := start
		for i, said := range []struct{ path, body, media, data string }{
			{"/a/b?name=ann&key=k", "hello\r\n\nthere", "", `"sender":"ann","key":"k","data":"hello\r\n\nthere"`},
			{"/a/b", "{\"a\":\r\n1}", "", `"data":{"a":  1}`},
			{"/a/b", "\x00\xff", "application/octet-stream", `"encoding":"base64","data":"AP8="`},
		} {
			_, body := s.fetch("POST", said.path, said.body, "Content-Type: "+said.media)
			pos := body["position"].(string)
			m := s.page("/a/b?limit=1").Messages[0]
			record := func(pattern string) string {
				predecessor := ""
				if i > 0 {
					predecessor = `,"predecessor":"` + before + `"`
				}
				var time struct{ Time string }
				if err := json.Unmarshal(m, &time); err != nil {
					t.Fatal(err)
				}
				return `{"type":"message","channel":"a/b"` + pattern + `,"position":"` + pos + `"` + predecessor + `,"time":"` + time.Time + `",` + said.data + `}`
			}
			if string(m) != record("") {
				t.Errorf("history has\n%s\nwant\n%s", m, record(""))
			}
			for _, c := range []struct {
				name string
				from *listener
				want string
			}{
				{"events", events, "id: " + pos + "\ndata: " + record("") + "\n\n"},
				{"lines", lines, record("") + "\n"},
				{"a pattern's events", wildEvents, "id: " + pos + "\ndata: " + record(`,"pattern":"a/*"`) + "\n\n"},
				{"a pattern's lines", wildLines, record(`,"pattern":"**"`) + "\n"},
			} {
				if i == 0 && c.from.sse {
					c.want = "id: " + start + "\n\n" + c.want
					if first, err := c.from.line(); err != nil || !strings.HasPrefix(first, "retry: 1") || len(first) != len("retry: 1234") {
						t.Errorf("%s: %q %v", c.name, first, err)
					}
				}
				got := make([]byte, len(c.want))
				c.from.conn.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(c.from.r, got); err != nil || string(got) != c.want {
					t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, got, c.want)
				}
			}
			before = pos
		}
		for name, want := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no",
			"X-Content-Type-Options": "nosniff", "Content-Length": "", "Transfer-Encoding": "", "Content-Encoding": "",
		} {
			if got := events.head.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if vary := strings.Join(events.head["Vary"], ","); !strings.Contains(vary, "Origin") || !strings.Contains(vary, "Accept") {
			t.Errorf("Vary: %s", vary)
		}
	})
}

// One resumes by Last-Event-ID, which a browser sends by itself, or by since.
func TestLiveResume(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		s := perform(t, fanfare.Config{})
		for i, c := range []struct{ since, last, first int }{ // numbers of messages; 0: the beginning; -1: not said
			{0, -1, 1}, {2, -1, 3}, {-1, 3, 4}, {0, 4, 5}, {3, 0, 1}, {-1, -1, 6}, {5, 5, 6},
		} {
			path := fmt.Sprint("/news", i)
			positions := []string{"0"}
			for n := range 5 {
				positions = append(positions, s.post(path, strconv.Itoa(n+1)))
			}
			query, headers := "", []string{accept}
			if c.since >= 0 {
				query = "?since=" + positions[c.since]
			}
			if c.last >= 0 {
				headers = append(headers, "Last-Event-ID: "+positions[c.last])
			}
			l := s.listen(path+query, headers...)
			s.post(path, "6")
			for n := c.first; n <= 6; n++ {
				if got := l.hear(); got != strconv.Itoa(n) {
					t.Fatalf("%+v: heard %s, want %d", c, got, n)
				}
			}
			l.conn.Close()
		}
		for _, bad := range []string{"yesterday", "-1", "1"} {
			resp, body := s.fetch("GET", "/news", "", accept, "Last-Event-ID: "+bad)
			if resp.StatusCode != 400 || errorCode(body) != "bad_since" {
				t.Errorf("Last-Event-ID: %s: %s %v", bad, resp.Status, body)
			}
		}
	})
}

// A client that is cut off before the first message has come knows all the same
// where it was.
func TestLiveResumeBeforeTheFirstMessage(t *testing.T) {
	s := perform(t, fanfare.Config{})
	l := s.listen("/news", asEvents)
	start := l.at
	l.at = ""
	for l.at == "" { // what an EventSource sees, which sees no headers
		line, err := l.line()
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			if end, err := l.line(); end != "" || err != nil {
				t.Fatalf("%q %v", end, err)
			}
			l.at = id
		}
	}
	if l.at != start {
		t.Errorf("the first id is %s, and the header says %s", l.at, start)
	}
	l.conn.Close()
	s.post("/news", "missed")
	if got := s.listen("/news", asEvents, "Last-Event-ID: "+l.at).hear(); got != `"missed"` {
		t.Error(got)
	}
}

// Who reads is told what is missing, and why.
func TestLiveGaps(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		s := perform(t, fanfare.Config{History: 2})
		var positions []string
		for n := range 5 {
			positions = append(positions, s.post("/gap", strconv.Itoa(n+1)))
		}
		for _, c := range []struct {
			since, reason string
			missed        int64
			at            string
		}{
			{positions[0], "expired", 2, positions[2]},
			{"7-7", "lost", 0, positions[2]},
		} {
			l := s.listen("/gap?since="+c.since, accept)
			e := l.event()
			if e.Type != "gap" || e.Reason != c.reason || e.Missed != c.missed || e.Channel != "gap" || e.Position != c.at || l.at != c.at {
				t.Errorf("since %s: %s, want %+v", c.since, e.Append(nil), c)
			}
			for _, want := range []string{"4", "5"} {
				if got := l.hear(); got != want {
					t.Errorf("since %s: heard %s, want %s", c.since, got, want)
				}
			}
			l.conn.Close()
		}
		wild := s.listen("/*?since=7-7", accept)
		if e := wild.event(); e.Type != "gap" || e.Pattern != "*" || e.Channel != "" || e.Position == "" {
			t.Errorf("%s", e.Append(nil))
		}
	})
}

// Something is said when nothing else is, and not otherwise.
func TestLiveHeartbeat(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		const pause = 150 * time.Millisecond
		s := perform(t, fanfare.Config{Heartbeat: pause})
		l := s.listen("/quiet", accept)
		began := time.Now()
		for range 3 {
			if e := l.event(); e.Type != "heartbeat" {
				t.Fatalf("%s", e.Append(nil))
			}
		}
		if took := time.Since(began); took < 2*pause {
			t.Errorf("three heartbeats within %v, for %v", took, pause)
		}
		// On a busy machine others may be silent for long enough.
		var longest time.Duration
		heartbeats := 1
		for end := time.Now().Add(patience); heartbeats > 0; {
			if time.Now().After(end) {
				t.Fatalf("%d heartbeats while others speak, every %v at least", heartbeats, longest)
			}
			heartbeats, longest = -1, 0 // one may be on its way
			for began, last := time.Now(), time.Now(); time.Since(began) < 2*pause; last = time.Now() {
				s.post("/quiet", "1")
				for e := l.event(); e.Type != "message"; e = l.event() {
					heartbeats++
				}
				longest = max(longest, time.Since(last))
			}
		}
	})
}

// A shutdown: what was published comes first, then bye and the end, and the
// server waits for that.
func TestLiveShutdown(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		s := perform(t, fanfare.Config{})
		listeners := []*listener{s.listen("/hall", accept), s.listen("/hall", accept), s.listen("/**", accept)}
		s.post("/hall", "last words")
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(t.Context()) }()
		for _, l := range listeners {
			if got := l.hear(); got != `"last words"` {
				t.Error(got)
			}
			e := l.bye()
			if e.Code != "shutting_down" || e.Message == "" || e.Retry != 1000 {
				t.Errorf("%s", e.Append(nil))
			}
			if l.sse && (l.retry < time.Second || l.retry >= 2*time.Second) {
				t.Errorf("come back after %v", l.retry)
			}
		}
		select {
		case err := <-done:
			t.Errorf("Shutdown did not wait for listeners whose connections are still there: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		for _, l := range listeners {
			l.conn.Close()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := s.Stats().Ended["shutdown"]; n != 3 {
			t.Errorf("%d ended by the shutdown", n)
		}
		if resp, body := s.fetch("GET", "/hall", "", accept); resp.StatusCode != 503 || errorCode(body) != "shutting_down" {
			t.Errorf("%s %v", resp.Status, body)
		}
	})
}

// One who does not read is treated as his policy says, and others do not notice.
func TestLiveSlowReaders(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		const total, size = 300, 16 << 10
		s := perform(t, fanfare.Config{MaxLag: 64 << 10, History: 10, WriteTimeout: time.Minute})
		text := strings.Repeat("x", size)
		slow := map[string]*listener{}
		for _, policy := range []string{"catch-up", "skip", "latest", "close"} {
			l := s.listen("/flood?slow="+policy, accept)
			slow[policy] = l
		}
		quick := s.listen("/flood", accept)
		for n := range total {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "flood", Payload: fmt.Appendf(nil, "%d %s", n, text)}); err != nil {
				t.Fatal(err)
			}
			if got := quick.hear(); !strings.HasPrefix(got, fmt.Sprintf(`"%d x`, n)) {
				t.Fatalf("the quick one hears %.20s, want %d", got, n)
			}
		}
		for policy, l := range slow {
			reasons := map[string]int64{}
			next := 0
			for next < total {
				e := l.event()
				switch e.Type {
				case "message":
					if !strings.HasPrefix(string(e.Data), fmt.Sprintf(`"%d x`, next)) {
						t.Fatalf("%s: hears %.20s, want %d", policy, e.Data, next)
					}
					next++
					continue
				case "gap":
					reasons[e.Reason] += e.Missed
					next += int(e.Missed)
					continue
				case "bye":
					if e.Code != "too_slow" || e.Retry == 0 || !strings.Contains(e.Message, "?since="+l.at) {
						t.Errorf("%s: %s at %s", policy, e.Append(nil), l.at)
					}
					reasons[e.Code]++
				}
				break
			}
			want := map[string]string{"catch-up": "outrun", "skip": "skipped", "latest": "superseded", "close": "too_slow"}[policy]
			if len(reasons) != 1 || reasons[want] == 0 {
				t.Errorf("%s: %v, want %s", policy, reasons, want)
			}
		}
		eventually(t, "the slow one is gone", func() bool {
			slow["close"].conn.Close()
			return s.Stats().Ended["slow"] == 1
		})
	})
}

// Who takes nothing at all is cut off, and finds out why when he reads on.
func TestLiveStuck(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		s := perform(t, fanfare.Config{WriteTimeout: 300 * time.Millisecond, HistoryBytes: 1 << 30, MaxLag: 1 << 30})
		l := s.listen("/flood", accept)
		text := []byte(strings.Repeat("x", 64<<10))
		for n := 0; s.Stats().Ended["stuck"] == 0; n++ {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "flood", Payload: text}); err != nil {
				t.Fatal(err)
			}
			if n > 200 {
				time.Sleep(10 * time.Millisecond)
			}
			if n > 2000 {
				t.Fatalf("nobody cuts off who reads nothing: %+v", s.Stats())
			}
		}
		if e := l.bye(); e.Code != "stuck" || e.Retry == 0 {
			t.Errorf("%s", e.Append(nil))
		}
	})
}

// What a listener says is nobody's, however much it is; when it ends its
// connection, it is gone.
func TestLiveNoise(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		s := perform(t, fanfare.Config{})
		l := s.listen("/noise", accept, "Content-Length: 10000000")
		noise := []byte(strings.Repeat("POST /noise HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 10_000))
		for range 5 {
			if _, err := l.conn.Write(noise); err != nil {
				t.Fatal(err)
			}
		}
		s.post("/noise", "signal")
		if got := l.hear(); got != `"signal"` {
			t.Fatal(got)
		}
		l.conn.(*net.TCPConn).CloseWrite()
		eventually(t, "it is gone", func() bool { return s.Stats().Ended["client"] == 1 })
		if _, err := l.next(); err != io.EOF {
			t.Errorf("the end is %v", err)
		}
		l = s.listen("/noise", accept)
		l.conn.(*net.TCPConn).SetLinger(0)
		l.conn.Close()
		eventually(t, "it is lost", func() bool { return s.Stats().Ended["lost"] == 1 })
		if st := s.Stats(); st.Sessions != 0 || st.Channels != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A listener counts as one who is there, for those who ask and for the program.
func TestLivePresence(t *testing.T) {
	bothForms(t, func(t *testing.T, accept string) {
		ends := make(chan string, 10)
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{
			Subscribe: func(context.Context, string, string) error { return nil }, // whom Connect let in may know who is here
			Connect: func(r *http.Request, channel string) error {
				if r.URL.Query().Get("name") == "mallory" {
					return &fanfare.Error{Code: "banned", Message: "not here"}
				}
				return nil
			},
			Disconnect: func(channel, name, reason string) { ends <- fmt.Sprint(channel, " ", name, " ", reason) },
		}})
		alice := s.talk("/-/connect")
		wants(t, alice.ask(`{"type":"subscribe","id":"1","channel":"room","presence":true}`), "ok", "1", "")
		wants(t, alice.event(), "join", "", "") // of alice herself
		l := s.listen("/room?name=bob", accept)
		if e := wants(t, alice.event(), "join", "", ""); len(e.Members) != 1 || e.Members[0].Name != "bob" || *e.Count != 2 {
			t.Errorf("%s", e.Append(nil))
		}
		wild := s.listen("/*?name=carol", accept)
		if n := s.page("/room").Count; n != 2 {
			t.Errorf("%d are here, want 2", n)
		}
		eventually(t, "all three are counted", func() bool { return s.Stats().Sessions == 3 })
		l.conn.Close()
		if e := wants(t, alice.event(), "leave", "", ""); len(e.Members) != 1 || e.Members[0].Name != "bob" || *e.Count != 1 {
			t.Errorf("%s", e.Append(nil))
		}
		if end := <-ends; end != "room bob client" {
			t.Error(end)
		}
		wild.conn.Close()
		if end := <-ends; end != "* carol client" {
			t.Error(end)
		}
		if resp, body := s.fetch("GET", "/room?name=mallory", "", accept); resp.StatusCode != 403 || errorCode(body) != "banned" {
			t.Errorf("%s %v", resp.Status, body)
		}
	})
}

// HEAD says what GET would, and begins nothing.
func TestLiveHead(t *testing.T) {
	s := perform(t, fanfare.Config{})
	pos := s.post("/chat", "hello")
	for _, accept := range []string{asEvents, asLines} {
		resp, _ := s.fetch("HEAD", "/chat", "", accept)
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || "Accept: "+got != accept || resp.Header.Get("Fanfare-Position") != pos {
			t.Errorf("%s: %s %v", accept, resp.Status, resp.Header)
		}
	}
	if st := s.Stats(); st.Sessions != 0 || st.Channels != 0 {
		t.Errorf("%+v", st)
	}
}

// shaded is a middleware that shows of a ResponseWriter what every one has, and how to flush it.
type shaded struct{ http.ResponseWriter }

func (s shaded) Flush() { s.ResponseWriter.(http.Flusher).Flush() }

// The live channel is the same over TLS, HTTP/2 and behind middleware, as far as
// that lets through what is written.
func TestLiveElsewhere(t *testing.T) {
	unwrapping := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "was here")
			h.ServeHTTP(&statusWriter{ResponseWriter: w}, r)
		})
	}
	shading := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(shaded{w}, r) })
	}
	as := func(h http.Handler) http.Handler { return h }
	for _, c := range []struct {
		name   string
		around func(http.Handler) http.Handler
		start  func(*httptest.Server)
	}{
		{"TLS", as, (*httptest.Server).StartTLS},
		{"HTTP/2", as, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() }},
		{"a middleware with Unwrap", unwrapping, (*httptest.Server).Start},
		{"one with Unwrap over HTTP/2", unwrapping, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() }},
		{"one with Flush only", shading, (*httptest.Server).Start},
		{"one with Flush only over HTTP/2", shading, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const pause = 100 * time.Millisecond
			s := perform(t, fanfare.Config{Heartbeat: pause, WriteTimeout: 300 * time.Millisecond})
			house := httptest.NewUnstartedServer(c.around(s.Server))
			// The HTTP server's own patience is for requests that end.
			house.Config.WriteTimeout, house.Config.ReadTimeout = 500*time.Millisecond, 500*time.Millisecond
			if strings.Contains(c.name, "only") {
				house.Config.WriteTimeout = 0 // nobody could lift it
			}
			c.start(house)
			t.Cleanup(func() {
				house.CloseClientConnections()
				house.Close()
			})
			client := house.Client()
			listen := func(accept string) (*listener, context.CancelFunc) {
				t.Helper()
				ctx, leave := context.WithCancel(t.Context())
				req, err := http.NewRequestWithContext(ctx, "GET", house.URL+"/else", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", strings.TrimPrefix(accept, "Accept: "))
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if two := resp.ProtoMajor == 2; two != strings.HasSuffix(c.name, "2") {
					t.Errorf("it is %s", resp.Proto)
				}
				if strings.Contains(c.name, "Unwrap") && resp.Header.Get("X-Middleware") == "" {
					t.Error("what the middleware has to say is lost")
				}
				l, err := newListener(t, resp)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.body.Close() })
				return l, leave
			}
			events, leaveEvents := listen(asEvents)
			lines, _ := listen(asLines)
			for beats := 0; beats < 8; { // longer than any of the HTTP server's timeouts
				if events.event().Type == "heartbeat" {
					beats++
				}
			}
			large := strings.Repeat("large ", 50_000)
			for _, text := range []string{"small", large, "small again"} {
				s.post("/else", text)
				for _, l := range []*listener{events, lines} {
					if got := l.hear(); got != `"`+text+`"` {
						t.Fatalf("%d bytes came as %d", len(text), len(got))
					}
				}
			}
			leaveEvents()
			eventually(t, "one has left", func() bool { return s.Stats().Sessions == 1 })
			done := make(chan error, 1)
			go func() { done <- s.Shutdown(t.Context()) }()
			if e := lines.bye(); e.Code != "shutting_down" {
				t.Errorf("%s", e.Append(nil))
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A reader that takes nothing is cut off over HTTP/2 too, and its neighbours on the
// same connection go on.
func TestLiveStuckOverHTTP2(t *testing.T) {
	s := perform(t, fanfare.Config{WriteTimeout: 300 * time.Millisecond, HistoryBytes: 1 << 30, MaxLag: 1 << 30, Heartbeat: time.Minute})
	client, url := s.overHTTP2()
	open := func() *listener {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/flood", nil)
		req.Header.Set("Accept", "application/x-ndjson")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		l, err := newListener(t, resp)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.body.Close() })
		return l
	}
	stuck, neighbour := open(), open()
	text := []byte(strings.Repeat("x", 64<<10))
	for n := 0; s.Stats().Ended["stuck"] == 0; n++ {
		if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "flood", Payload: text}); err != nil {
			t.Fatal(err)
		}
		neighbour.hear()
		if n > 200 {
			time.Sleep(10 * time.Millisecond)
		}
		if n > 2000 {
			t.Fatalf("nobody cuts off who reads nothing: %+v", s.Stats())
		}
	}
	for {
		if _, err := stuck.next(); err != nil {
			if err == io.EOF {
				t.Error("the answer has a proper end, though it was cut off")
			}
			break
		}
	}
	s.post("/flood", "still here")
	if got := neighbour.hear(); got != `"still here"` {
		t.Errorf("%.40s", got)
	}
}

// Behind what shows nothing, who is to blame is told, as for a WebSocket.
func TestLiveBehindWhatHides(t *testing.T) {
	var log lockedBuffer
	s := perform(t, fanfare.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for name, around := range map[string]func(http.Handler) http.Handler{
		"fanfare_test.hiding": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(hiding{w}, r) })
		},
		"*http.timeoutWriter": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, patience, "") },
	} {
		house := httptest.NewServer(around(s.Server))
		for _, accept := range []string{asEvents, asLines} {
			conn, err := net.Dial("tcp", house.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, err = listenOn(t, conn, "/chat", accept)
			if err == nil || !strings.HasPrefix(err.Error(), "500 ") || !strings.Contains(err.Error(), "no_stream") || !strings.Contains(err.Error(), name) || !strings.Contains(log.take(), name) {
				t.Errorf("%s, %s: %v", name, accept, err)
			}
			conn.Close()
		}
		house.Close()
	}
	if st := s.Stats(); st.Sessions != 0 || st.Channels != 0 {
		t.Errorf("%+v", st)
	}
}

// Twenty publish; fifty read, in every form, and are cut off again and again, in
// the middle of whatever is being said. Each gets every message once, in order.
func TestLiveResumesUnderCuts(t *testing.T) {
	const publishers, readers, each = 20, 50, 60
	bothTransports(t, func(t *testing.T) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		s := perform(t, fanfare.Config{History: publishers*each + 1, HistoryBytes: 1 << 30, MaxLag: 16 << 10})
		fast, url := s.overHTTP2()
		var cuts atomic.Int64
		var published, all sync.WaitGroup
		start := s.post("/storm", "start")
		for p := range publishers {
			published.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(p)))
				for n := range each {
					text := fmt.Sprintf(`{"p":%d,"n":%d,"x":"%s"}`, p, n, strings.Repeat("x", random.IntN(500)))
					if _, err := s.Publish(context.Background(), &fanfare.Message{Channel: "storm", Payload: []byte(text)}); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
				}
			})
		}
		orders := make([][]string, readers)
		for i := range readers {
			all.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(1000+i)))
				at := start
				for calm := false; len(orders[i]) < publishers*each; {
					accept, path := asEvents, "/storm"
					headers := []string{"Last-Event-ID: " + at}
					if i%2 == 1 {
						accept = asLines
						path, headers = path+"?since="+at, nil
					}
					var l *listener
					var err error
					quit := func() {}
					if i%5 == 4 { // of each form
						l, quit, err = listenOver(t, fast, url+path, append(headers, accept)...)
					} else {
						var conn net.Conn
						if conn, err = net.Dial("tcp", s.addr()); err == nil {
							quit = func() { conn.Close() }
							cut := &cutConn{Conn: conn, left: 1 << 30}
							if !calm {
								cut.left = 300 + random.IntN(60_000)
							}
							l, err = listenOn(t, cut, path, append(headers, accept)...)
						}
					}
					left := 1 + random.IntN(400)
					for err == nil && (calm || left > 0) && len(orders[i]) < publishers*each {
						var e protocol.Event
						if e, err = l.next(); err == nil && e.Type == "message" {
							orders[i] = append(orders[i], string(e.Data))
							at = e.Position
						} else if err == nil && e.Type != "heartbeat" {
							err = fmt.Errorf("%s", e.Append(nil))
							t.Error(err)
							return
						}
						left--
					}
					if err != nil && !errors.Is(err, errCut) && !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("reader %d: %v", i, err)
						return
					}
					if random.IntN(4) == 0 {
						if c, ok := l.connection(); ok {
							c.SetLinger(0)
						}
					}
					quit()
					if cuts.Add(1); len(orders[i]) > publishers*each*3/4 {
						calm = random.IntN(8) == 0
					}
				}
			})
		}
		published.Wait()
		all.Wait()
		page, _ := s.Subscribe(t.Context(), "storm", &fanfare.SubscribeOptions{Since: new(fanfare.Position)})
		defer page.Close()
		if _, err := page.Next(t.Context()); err != nil { // start
			t.Fatal(err)
		}
		for n := range publishers * each {
			m, err := page.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, order := range orders {
				if n >= len(order) || order[n] != string(m.Payload) {
					t.Fatalf("message %d of reader %d of %d is not what was published, seed %d", n, i, len(order), seed)
				}
			}
		}
		t.Logf("%d messages, %d readers, %d cuts", publishers*each, readers, cuts.Load())
		if cuts.Load() < readers*5 {
			t.Errorf("only %d cuts", cuts.Load())
		}
	})
}

var errCut = errors.New("the line is cut")

// cutConn is cut after so many bytes, as if by the network.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, errCut
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// connection is the TCP connection, if it is known.
func (l *listener) connection() (*net.TCPConn, bool) {
	if l == nil || l.conn == nil {
		return nil, false
	}
	conn := l.conn
	if cut, ok := conn.(*cutConn); ok {
		conn = cut.Conn
	}
	tcp, ok := conn.(*net.TCPConn)
	return tcp, ok
}

// listenOver begins to read by an HTTP client's request.
func listenOver(t testing.TB, client *http.Client, url string, headers ...string) (*listener, func(), error) {
	ctx, quit := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, quit, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, quit, err
	}
	l, err := newListener(t, resp)
	return l, func() { quit(); resp.Body.Close() }, err
}

// curl reads line by line.
func TestLiveFromCurl(t *testing.T) {
	s := perform(t, fanfare.Config{})
	curl := partner.Curl(t)
	for _, accept := range []string{asEvents, asLines} {
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "-N", "-H", accept, s.url("/curl"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // of a test that ended before it waited
		eventually(t, "curl is here", func() bool { return s.Stats().Sessions == 1 })
		l := &listener{t: t, r: bufio.NewReader(out), body: out, sse: accept == asEvents}
		for _, text := range []string{`"one"`, `"two"`} {
			s.post("/curl", strings.Trim(text, `"`))
			if got := l.hear(); got != text {
				t.Errorf("%s, want %s", got, text)
			}
		}
		if accept == asEvents {
			cmd.Process.Kill()
			cmd.Wait()
			eventually(t, "curl is gone", func() bool { return s.Stats().Sessions == 0 })
			continue
		}
		go s.Shutdown(context.Background())
		if e := l.bye(); e.Code != "shutting_down" {
			t.Errorf("%s", e.Append(nil))
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("curl ends with %v", err)
		}
	}
}

// A browser's own EventSource: over a line that is cut, before the first message
// and later; and to another host, which lets the page in.
func TestLiveInBrowser(t *testing.T) {
	s := perform(t, fanfare.Config{Origins: []string{"127.0.0.1:*"}})
	open := chromiumtest.Start(t)
	line := chromiumtest.NewLine(t, s.addr())
	tab := open(t, line.URL+"/-/healthz") // a page whose policy forbids nothing
	tab.Run(`
		heard = [], opened = 0
		source = new EventSource("/chat/general")
		source.onopen = () => opened++
		source.onmessage = (e) => heard.push(JSON.parse(e.data).data)
		straight = new EventSource("` + s.url("/chat/general") + `", { withCredentials: true })
		straight.addEventListener("bye", (e) => bye = JSON.parse(e.data))
		bye = null`)
	tab.Until(`opened === 1 && straight.readyState === EventSource.OPEN`)
	var want []string
	for _, texts := range [][]string{{"missed", "as well"}, {"now"}, {"missed again"}} {
		cut := len(texts) > 1 || texts[0] != "now"
		if cut {
			line.Cut() // at first nothing was said yet
		}
		for _, text := range texts {
			s.post("/chat/general", text)
			want = append(want, `"`+text+`"`)
		}
		if cut {
			line.Mend()
		}
		tab.Until(`JSON.stringify(heard) === '[` + strings.Join(want, ",") + `]'`)
	}
	go s.Shutdown(context.Background())
	tab.Until(`bye?.code === "shutting_down"`)
}
