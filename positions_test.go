package fanfare_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"fanfare"
	"fanfare/broker"
	"fanfare/protocol"
)

// A resumption is what a reader is told that resumes from a position: where
// reading begins; whether something is missing, and of how many messages that
// is known; and the messages.
type resumption struct {
	position string
	gaps     []string // each "reason missed"
	heard    []string
}

func (r *resumption) String() string {
	return strings.Join(append(slices.Clone(r.gaps), r.heard...), " ")
}

// take takes an event, and reports whether that is the end.
func (r *resumption) take(t testing.TB, e protocol.Event) (end bool) {
	t.Helper()
	switch e.Type {
	case "gap":
		r.gaps = append(r.gaps, fmt.Sprint(e.Reason, " ", e.Missed))
	case "message":
		if end = string(e.Data) == `"live"`; !end {
			r.heard = append(r.heard, strings.Trim(string(e.Data), `"`))
		}
	case "heartbeat":
	default:
		t.Errorf("resuming: %s", e.Append(nil))
	}
	return end
}

// resumes are the ways to resume from a position in a channel or a pattern. Each
// reads up to the message "live", which say publishes, or to the end of a page.
var resumes = []struct {
	how    string
	resume func(s *stage, name, since string, say func()) resumption
}{
	{"v1, subscribe", func(s *stage, name, since string, say func()) (r resumption) {
		p := s.talk("/-/connect")
		r.position = wants(s.t, p.ask(`{"type":"subscribe","id":"1","channel":%q,"since":%q}`, name, since), "ok", "1", "").Position
		say()
		for !r.take(s.t, p.event()) {
		}
		return r
	}},
	{"v1, by the URL", func(s *stage, name, since string, say func()) (r resumption) {
		p := s.join("/"+name+"?since="+since, askV1)
		r.position = wants(s.t, p.event(), "welcome", "", "").Position
		say()
		for !r.take(s.t, p.event()) {
		}
		return r
	}},
	{"plain", func(s *stage, name, since string, say func()) (r resumption) {
		p := s.join("/" + name + "?since=" + since)
		r.position = p.head.Get("Fanfare-Position")
		say()
		for {
			text := p.hear()
			if e, err := protocol.ParseEvent([]byte(text)); err == nil { // of a pattern
				if r.take(s.t, e) {
					return r
				}
				continue
			}
			switch text = text[11:]; {
			case text == "live":
				return r
			case strings.HasPrefix(text, "* history does not reach back"):
				r.gaps = append(r.gaps, "? 0")
			case strings.HasPrefix(text, "* "):
				var n int
				fmt.Sscanf(text, "* %d message", &n)
				r.gaps = append(r.gaps, fmt.Sprint("? ", n))
			default:
				r.heard = append(r.heard, text)
			}
		}
	}},
	{"SSE", func(s *stage, name, since string, say func()) (r resumption) {
		l := s.listen("/"+name, asEvents, "Last-Event-ID: "+since)
		r.position = l.head.Get("Fanfare-Position")
		say()
		for !r.take(s.t, l.event()) {
		}
		return r
	}},
	{"NDJSON", func(s *stage, name, since string, say func()) (r resumption) {
		l := s.listen("/"+name+"?since="+since, asLines)
		r.position = l.head.Get("Fanfare-Position")
		say()
		for !r.take(s.t, l.event()) {
		}
		return r
	}},
	{"a page", func(s *stage, name, since string, _ func()) (r resumption) {
		_, body := s.fetch("GET", "/"+name+"?since="+since, "", "Accept: application/json")
		return r.page(s.t, body["gap"], body["messages"])
	}},
	{"v1, history", func(s *stage, name, since string, _ func()) (r resumption) {
		p := s.talk("/-/connect")
		e := wants(s.t, p.ask(`{"type":"history","id":"1","channel":%q,"since":%q}`, name, since), "ok", "1", "")
		return r.page(s.t, e.Gap, e.Messages)
	}},
}

// page takes a page of history. How many are missing no page says.
func (r resumption) page(t testing.TB, gap, messages any) resumption {
	t.Helper()
	text, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	var page []json.RawMessage
	if err := json.Unmarshal(text, &page); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if gap == true {
		r.gaps = []string{"!"}
	}
	for _, m := range page {
		e, err := protocol.ParseEvent(m)
		if err != nil {
			t.Fatal(err)
		}
		r.take(t, e)
	}
	return r
}

// Resuming from the edges of what is kept, and from beyond, is exact: all that is
// kept after the position, or a gap and all that is kept, and never a part of it. So it is
// on every face, whether or not somebody reads the channel already.
func TestResumeAtTheEdges(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for _, read := range []bool{false, true} {
			for _, way := range resumes {
				t.Run(fmt.Sprintf("%s, read %v", way.how, read), func(t *testing.T) { edges(t, read, way.resume) })
			}
		}
	})
}

func edges(t *testing.T, read bool, resume func(*stage, string, string, func()) resumption) {
	const kept, wild = "7 8 9 10", "7 b7 8 b8 9 b9 10 b10"
	for _, c := range []struct {
		since string // the number of a message, or what is in its place
		want  string // in the channel
		wild  string // in the pattern
	}{
		{"0", kept, wild}, // the oldest kept
		{"first", "expired 0 " + kept, "expired 0 " + wild},
		{"5", "expired 1 " + kept, "expired 0 " + wild},
		{"6", kept, "expired 0 " + wild}, // of the pattern b6 is missing
		{"b6", kept, wild},
		{"7", "8 9 10", "b7 8 b8 9 b9 10 b10"},
		{"b8", "9 10", "9 b9 10 b10"},
		{"9", "10", "b9 10 b10"},
		{"10", "", "b10"},
		{"b10", "", ""},                                    // the newest of all
		{"next", "expired 0 " + kept, "expired 0 " + wild}, // nobody was there yet
		{"2^63", "expired 0 " + kept, "expired 0 " + wild},
		{"2^64-1", "expired 0 " + kept, "expired 0 " + wild},
		{"another epoch", "lost 0 " + kept, "lost 0 " + wild},
		{"another epoch's 2^63", "lost 0 " + kept, "lost 0 " + wild},
	} {
		for _, name := range []string{"a/x", "a/*"} {
			s := perform(t, fanfare.Config{History: 4})
			first, err := s.Publish(t.Context(), &fanfare.Message{Channel: "elsewhere", Payload: []byte("1")})
			if err != nil {
				t.Fatal(err)
			}
			at := map[string]string{
				"0": "0", "first": first.String(),
				"2^63":                 fanfare.Position{Epoch: first.Epoch, Offset: 1 << 63}.String(),
				"2^64-1":               fanfare.Position{Epoch: first.Epoch, Offset: 1<<64 - 1}.String(),
				"another epoch":        fanfare.Position{Epoch: first.Epoch - 1, Offset: 8}.String(),
				"another epoch's 2^63": fanfare.Position{Epoch: first.Epoch + 1, Offset: 1 << 63}.String(),
			}
			if read {
				reader := s.talk("/-/connect")
				wants(t, reader.ask(`{"type":"subscribe","id":"1","channel":%q}`, name), "ok", "1", "")
			}
			var last broker.Position
			for n := 1; n <= 10; n++ {
				at[fmt.Sprint(n)] = s.publishes("a/x", fmt.Sprint(n))
				at[fmt.Sprint("b", n)] = s.publishes("a/y", fmt.Sprintf(`"b%d"`, n))
			}
			last, _ = broker.ParsePosition(at["b10"])
			last.Offset++
			at["next"] = last.String()
			want := map[string]string{"a/x": c.want, "a/*": c.wild}[name]
			got := resume(s, name, at[c.since], func() { s.publishes("a/x", "live") })
			if reason, rest, _ := strings.Cut(want, " "); len(got.gaps) > 0 && (reason == "expired" || reason == "lost") {
				switch missed, rest, _ := strings.Cut(rest, " "); got.gaps[0][0] {
				case '?': // plain does not say why
					want = "? " + missed + " " + rest
				case '!': // a page says neither why nor how many
					want = "! " + rest
				}
			}
			if got.String() != want {
				t.Errorf("%s since %s: %q, want %q", name, c.since, &got, want)
			}
			// Who is cut off when he has heard where reading begins, and no more, can resume
			// from there, and be told the same.
			if len(got.gaps) > 0 && got.position != "" && got.position != at[c.since] {
				t.Errorf("%s since %s: reading begins at %s, with a gap", name, at[c.since], got.position)
			}
			if t.Failed() {
				return
			}
		}
	}
}

// Who was told where reading begins, and was cut off before he was told of a gap, is
// told of it when he resumes from there: a browser does so by itself.
func TestResumeBeforeTheGap(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{History: 2})
		since := s.publishes("c", "0")
		for n := range 10 {
			s.publishes("c", fmt.Sprint(n))
		}
		conn, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /c HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: %s\r\n\r\n", since)
		id := ""
		for in := bufio.NewScanner(conn); id == "" && in.Scan(); {
			id, _ = strings.CutPrefix(in.Text(), "id: ")
			if id == in.Text() {
				id = ""
			}
		}
		conn.Close()
		l := s.listen("/c", asEvents, "Last-Event-ID: "+id)
		if e := l.event(); e.Type != "gap" || e.Missed != 8 {
			t.Errorf("resuming at %s, at first %s, one is told %s", id, since, e.Append(nil))
		}
	})
}
