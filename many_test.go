package fanfare_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/internal/partner"
)

// overHTTP2 serves the stage by HTTP/2 as well, and returns a client and the URL.
func (s *stage) overHTTP2() (*http.Client, string) {
	house := httptest.NewUnstartedServer(s.Server)
	house.EnableHTTP2 = true
	house.StartTLS()
	s.t.Cleanup(func() {
		house.CloseClientConnections()
		house.Close()
	})
	return house.Client(), house.URL
}

// A batch is a POST of many messages whose body is still being written.
type batch struct {
	t    *testing.T
	body *io.PipeWriter
	resp chan *http.Response
	got  *bufio.Scanner
	http *http.Response // once something was answered
}

func newBatch(t *testing.T, client *http.Client, url string, headers ...string) *batch {
	t.Helper()
	body, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	b := &batch{t: t, body: w, resp: make(chan *http.Response, 1)}
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			body.CloseWithError(err)
			close(b.resp)
			return
		}
		b.resp <- resp
	}()
	return b
}

func (b *batch) say(text string) {
	b.t.Helper()
	if _, err := io.WriteString(b.body, text); err != nil {
		b.t.Fatal(err)
	}
}

// outcome is a line of the answer.
type outcome struct {
	Position string
	Line     int
	Error    struct{ Code, Message string }
}

// next returns the next line of the answer; false at its end.
func (b *batch) next() (o outcome, ok bool) {
	b.t.Helper()
	if b.got == nil {
		select {
		case b.http, ok = <-b.resp:
			if !ok {
				b.t.Fatal("the request failed")
			}
		case <-time.After(patience):
			b.t.Fatal("there is no answer")
		}
		b.got = bufio.NewScanner(b.http.Body)
		b.got.Buffer(nil, 1<<20)
	}
	if !b.got.Scan() {
		b.http.Body.Close()
		return outcome{}, false
	}
	if err := json.Unmarshal(b.got.Bytes(), &o); err != nil {
		b.t.Fatalf("%q: %v", b.got.Bytes(), err)
	}
	return o, true
}

// end ends the body, and finds the answer ended.
func (b *batch) end() {
	b.t.Helper()
	b.body.Close()
	if o, ok := b.next(); ok {
		b.t.Fatalf("at the end: %+v", o)
	}
}

// Each line is published and answered while the next is not written yet, in
// their order; what is wrong with one hurts no other.
func TestManyInOneRequest(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 100})
	fast, url := s.overHTTP2()
	for name, c := range map[string]struct {
		client *http.Client
		url    string
		major  int
	}{"HTTP/1.1": {http.DefaultClient, s.http.URL, 1}, "HTTP/2": {fast, url, 2}} {
		t.Run(name, func(t *testing.T) {
			alice := s.join("/many" + name)
			b := newBatch(t, c.client, c.url+"/many"+name+"?name=ann&key=k")
			for i, l := range []struct{ line, heard, code string }{
				{`{"data":"hello"}`, "ann: hello", ""},
				{`{"data":{"a": [1]}}`, `{"a": [1]}`, ""},
				{`{"data":"AP8=","encoding":"base64"}`, "\x00\xff", ""},
				{`{"data":`, "", "bad_json"},
				{`["data"]`, "", "bad_json"},
				{`{}`, "", "bad_data"},
				{`{"data":1,"key":2}`, "", "bad_key"},
				{`{"data":1,"id":""}`, "", "bad_id"},
				{`{"data":1,"type":"subscribe"}`, "", "unknown_type"},
				{`{"data":1,"type":"publish","channel":"many` + name + `"}`, "ann: 1", ""},
				{`{"data":1,"channel":"elsewhere"}`, "", "bad_channel"},
				{`{"data":"` + strings.Repeat("x", 100) + `"}`, "ann: " + strings.Repeat("x", 100), ""},
				{`{"data":"` + strings.Repeat("\\u0001", 100) + `"}`, "ann: " + strings.Repeat("\x01", 100), ""},
				{`{"data":"` + strings.Repeat("x", 101) + `"}`, "", "too_big"},
				{`{"data":"` + strings.Repeat("x", 10_000) + `"}`, "", "too_big"},
				{"\xff", "", "bad_json"},
				{"\r\n  ", "", "-"},
				{`  {"data":"dressed"}` + "\t\r", "ann: dressed", ""},
			} {
				b.say(l.line + "\n")
				if l.code == "-" {
					continue // nothing is said about a line with nothing in it
				}
				o, ok := b.next()
				line := i + 1
				if i > 16 {
					line++ // the empty one was two
				}
				if !ok || o.Error.Code != l.code || (o.Position == "") != (l.code != "") || l.code != "" && (o.Line != line || o.Error.Message == "") {
					t.Errorf("%.40q is answered %+v, want line %d and %q", l.line, o, line, l.code)
				}
				if l.heard != "" {
					if heard := alice.hear(); strings.TrimPrefix(heard, heard[:min(11, len(heard))]) != l.heard && heard != l.heard {
						t.Errorf("heard %q, want %q", heard, l.heard)
					}
				}
			}
			if b.http.ProtoMajor != c.major || b.http.StatusCode != 200 || b.http.Header.Get("Content-Type") != "application/x-ndjson" || b.http.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v", b.http.Proto, b.http.Header)
			}
			b.end()
			m := s.page("/many" + name + "?limit=1").records(t)[0]
			if m.Sender != "ann" || m.Key != "k" {
				t.Errorf("%+v", m)
			}
			alice.leave()
		})
	}
}

// The last line may lack its end; a body may be empty.
func TestManyEnds(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for body, want := range map[string]string{
		"":           "",
		"\n\n":       "",
		`{"data":1}`: `"1"`,
		"{\"data\":1}\n{\"data\":2,\"key\":\"own\"}": `"1" "2"`,
	} {
		resp, err := http.Post(s.url("/ends"), "application/x-ndjson; charset=utf-8", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if n := strings.Count(string(answer), `,"position":"`); err != nil || resp.StatusCode != 200 || n != len(strings.Fields(want)) || strings.Contains(string(answer), "error") {
			t.Errorf("%q is answered %s %q, %v", body, resp.Status, answer, err)
		}
	}
	records := s.page("/ends").records(t)
	if len(records) != 3 || records[len(records)-1].Data == nil {
		t.Errorf("%+v", records)
	}
}

// However many lines come, no more than 64 of them, or about 1 MiB, are with the
// broker.
func TestManyDoNotFloodTheBroker(t *testing.T) {
	for _, size := range []int{1, 400 << 10} {
		b := &heldBroker{Memory: broker.NewMemory(nil)}
		s := perform(t, fanfare.Config{Broker: b, HistoryBytes: 1 << 30})
		most := 64
		if size > 1 {
			most = 2
		}
		total := 5 * most
		batch := newBatch(t, http.DefaultClient, s.url("/held"))
		go func() {
			for range total {
				fmt.Fprintf(batch.body, "{\"data\":\"%s\"}\n", strings.Repeat("x", size))
			}
			batch.body.Close()
		}()
		eventually(t, "the broker has what it may have", func() bool { now, _ := b.holds(); return now == most })
		alice := s.join("/")
		for range 50 { // time in which more could come
			alice.send(9, nil)
			if op, _, err := alice.next(); op != 10 {
				t.Fatal(op, err)
			}
		}
		for range total {
			eventually(t, "it is there", b.take)
			if o, ok := batch.next(); !ok || o.Position == "" {
				t.Fatalf("%+v %v", o, ok)
			}
		}
		if _, ok := batch.next(); ok {
			t.Error("more is answered than was asked")
		}
		if _, held := b.holds(); held != most {
			t.Errorf("the broker had %d messages of %d bytes at once, want %d", held, size, most)
		}
		alice.leave()
	}
}

// rawBatch begins a POST of many lines by hand.
func rawBatch(t *testing.T, s *stage, head string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /cut HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n%s\r\n\r\n", head)
	return conn
}

// A line that is cut in the middle is not published, and those before it are.
func TestManyCut(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for _, reset := range []bool{false, true} {
		conn := rawBatch(t, s, "Content-Length: 1000")
		io.WriteString(conn, "{\"data\":\"whole\"}\n{\"data\":\"half")
		answer := bufio.NewReader(conn)
		for line := ""; !strings.Contains(line, "position"); {
			var err error
			if line, err = answer.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if reset {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
			continue
		}
		conn.(*net.TCPConn).CloseWrite()
		rest, err := io.ReadAll(answer)
		if err != nil || !strings.Contains(string(rest), `"code":"bad_body"`) || !strings.Contains(string(rest), `"line":2`) {
			t.Errorf("%q %v", rest, err)
		}
	}
	eventually(t, "both are over", func() bool { return s.page("/cut").data(t) == `"whole" "whole"` })
	if got := s.page("/cut").data(t); got != `"whole" "whole"` {
		t.Error(got)
	}
}

// A line must not take for ever, whether it is short or has no end; what has no
// end needs no more memory than the longest line.
func TestManySlow(t *testing.T) {
	s := perform(t, fanfare.Config{MessageTimeout: 300 * time.Millisecond, MaxMessage: 1000})
	conn := rawBatch(t, s, "Transfer-Encoding: chunked")
	for range 4 { // longer than a line may take, and each line is in time
		time.Sleep(100 * time.Millisecond)
		io.WriteString(conn, "b\r\n{\"data\":1}\n\r\n")
	}
	answer, err := io.ReadAll(conn)
	if n := strings.Count(string(answer), "position"); err != nil || n != 4 || !strings.Contains(string(answer), `"code":"timeout"`) || !strings.Contains(string(answer), `"line":5`) {
		t.Errorf("%q %v", answer, err)
	}

	conn = rawBatch(t, s, "Transfer-Encoding: chunked")
	before := heapAlloc()
	var most int64
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		flood := fmt.Sprintf("10000\r\n%s\r\n", bytes.Repeat([]byte("x"), 64<<10))
		for {
			if _, err := io.WriteString(conn, flood); err != nil {
				return
			}
			most = max(most, heapAlloc()-before)
		}
	}()
	answer, err = io.ReadAll(conn)
	if !strings.Contains(string(answer), `"code":"timeout"`) || !strings.Contains(string(answer), `"line":1`) {
		t.Errorf("%q %v", answer, err)
	}
	conn.Close()
	if <-flooded; most > 1<<20 {
		t.Errorf("a line without end took %d bytes", most)
	}
}

// Whoever does not read the answers is cut off, and what was published is.
func TestManyUnread(t *testing.T) {
	s := perform(t, fanfare.Config{WriteTimeout: 300 * time.Millisecond, History: 1})
	conn := rawBatch(t, s, "Transfer-Encoding: chunked")
	lines := strings.Repeat("{\"data\":1}\n", 1000)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(lines), lines)
	sent := 0
	for {
		conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, chunk); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Fatal("nobody cuts off a client that reads nothing")
			}
			break
		}
		if sent += 1000; sent > 10_000_000 {
			t.Fatal("ten million lines were taken from a client that reads nothing")
		}
	}
}

// A shutdown ends the request, and says so.
func TestManyShutdown(t *testing.T) {
	s := perform(t, fanfare.Config{})
	fast, url := s.overHTTP2()
	one, two := newBatch(t, http.DefaultClient, s.url("/hall")), newBatch(t, fast, url+"/hall")
	for _, b := range []*batch{one, two} {
		b.say("{\"data\":1}\n{\"data")
		if o, ok := b.next(); !ok || o.Position == "" {
			t.Fatalf("%+v", o)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*batch{one, two} {
		if o, ok := b.next(); !ok || o.Error.Code != "shutting_down" || o.Line != 2 {
			t.Errorf("%+v %v", o, ok)
		}
		if o, ok := b.next(); ok {
			t.Errorf("%+v", o)
		}
		b.body.Close()
	}
}

// The hook is asked about each line, with the request's context; its refusals
// are answers.
func TestManyHook(t *testing.T) {
	s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: func(ctx context.Context, m *fanfare.Message) error {
		switch string(m.Payload) {
		case "no":
			return &fanfare.Error{Code: "rude", Message: "not in this house"}
		case "panic":
			panic("in the hook")
		}
		m.Payload = append(m.Payload, '!')
		return ctx.Err()
	}}})
	b := newBatch(t, http.DefaultClient, s.url("/hook"))
	b.say(`{"data":"yes"}` + "\n" + `{"data":"no"}` + "\n" + `{"data":"panic"}` + "\n")
	for _, code := range []string{"", "rude", "internal"} {
		if o, ok := b.next(); !ok || o.Error.Code != code {
			t.Errorf("%+v, want %q", o, code)
		}
	}
	b.end()
	if got := s.page("/hook").data(t); got != `"yes!"` {
		t.Error(got)
	}
}

// hiding is a middleware that shows of a ResponseWriter what every one has.
type hiding struct{ http.ResponseWriter }

// Where nothing can be answered piece by piece, it says who is to blame.
func TestManyBehindAMiddlewareThatHides(t *testing.T) {
	s := perform(t, fanfare.Config{})
	house := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(hiding{w}, r) }))
	defer house.Close()
	resp, err := http.Post(house.URL+"/chat", "application/x-ndjson", strings.NewReader("{\"data\":1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 500 || !strings.Contains(string(answer), `"no_stream"`) || !strings.Contains(string(answer), "fanfare_test.hiding") || !strings.Contains(string(answer), "Unwrap()") {
		t.Errorf("%s %s", resp.Status, answer)
	}
}

// curl asks first whether it may send much, and reads while it sends.
func TestManyFromCurl(t *testing.T) {
	const total = 30_000
	s := perform(t, fanfare.Config{History: 10})
	curl := partner.Curl(t)
	file := filepath.Join(t.TempDir(), "lines")
	var lines bytes.Buffer
	for n := range total {
		fmt.Fprintf(&lines, "{\"data\":%d}\n", n)
	}
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{{"--data-binary", "@" + file}, {"-T", file, "-X", "POST"}, {"-T", file, "-X", "POST", "-H", "Expect: 100-continue"}} {
		cmd := exec.CommandContext(t.Context(), curl, append(how, "-sS", "-N", "-H", "Content-Type: application/x-ndjson", s.url("/curl"))...)
		answer, err := cmd.Output()
		if n := bytes.Count(answer, []byte("position")); err != nil || n != total {
			t.Errorf("%v: %d lines are answered, %v", how, n, err)
		}
	}
}
