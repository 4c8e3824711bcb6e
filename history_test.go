package fanfare_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/protocol"
)

// page is a page of history, as clients see it.
type page struct {
	Channel  string            `json:"channel"`
	Position string            `json:"position"`
	Gap      bool              `json:"gap"`
	More     bool              `json:"more"`
	Count    int               `json:"count"`
	Messages []json.RawMessage `json:"messages"`
}

// page fetches a page of history.
func (s *stage) page(path string) page {
	s.t.Helper()
	resp, err := http.Get(s.url(path))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var p page
	dec := json.NewDecoder(resp.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return p
}

// records reads the messages of a page.
func (p page) records(t *testing.T) []protocol.Message {
	t.Helper()
	var records []protocol.Message
	for _, text := range p.Messages {
		m, err := protocol.ParseMessage(text)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, m)
	}
	return records
}

// data is what the messages of a page say.
func (p page) data(t *testing.T) string {
	t.Helper()
	var all []string
	for _, m := range p.records(t) {
		all = append(all, string(m.Data))
	}
	return strings.Join(all, " ")
}

// History is read in pages, from the newest or from a position.
func TestHistory(t *testing.T) {
	s := perform(t, fanfare.Config{History: 4})
	if p := s.page("/empty"); p.Channel != "empty" || p.Messages == nil || len(p.Messages) != 0 || p.Gap || p.More || p.Count != 0 {
		t.Fatalf("%+v", p)
	}
	var positions []string
	for _, text := range []string{"1", `{"n":2}`, "three", `"4"`, "5 five"} {
		positions = append(positions, s.post("/news?name=ann&key=k", text))
	}
	const all = `{"n":2} "three" "4" "5 five"`
	for _, c := range []struct {
		query, data, position string
		gap, more             bool
	}{
		{"", all, positions[4], false, false},
		{"?limit=2", `"4" "5 five"`, positions[4], false, false},
		{"?since=0", all, positions[4], false, false},
		{"?since=0&limit=2", `{"n":2} "three"`, positions[2], false, true},
		{"?since=" + positions[2], `"4" "5 five"`, positions[4], false, false},
		{"?since=" + positions[2] + "&limit=1", `"4"`, positions[3], false, true},
		{"?since=" + positions[4], ``, positions[4], false, false},
		{"?since=" + positions[0], all, positions[4], false, false},
		{"?since=" + strings.Replace(positions[0], "-1", "-0", 1), all, positions[4], true, false},
		{"?since=7-7", all, positions[4], true, false},
		{"?since=" + positions[4] + "0", all, positions[4], true, false},
	} {
		p := s.page("/news" + c.query)
		if p.data(t) != c.data || p.Position != c.position || p.Gap != c.gap || p.More != c.more {
			t.Errorf("%s: %+v, want %+v", c.query, p, c)
		}
	}
	m := s.page("/news?limit=1").records(t)[0]
	if m.Channel != "news" || m.Sender != "ann" || m.Key != "k" || m.Position != positions[4] || m.Predecessor != positions[3] || m.Time.IsZero() || m.Pattern != "" {
		t.Errorf("%+v", m)
	}
	s.fetch("POST", "/news", "\x00\xff", "Content-Type: application/octet-stream")
	if m := s.page("/news?limit=1").records(t)[0]; m.Encoding != "base64" || string(m.Data) != `"AP8="` {
		t.Errorf("%+v", m)
	}
}

// A page says how many read the channel.
func TestHistoryCounts(t *testing.T) {
	s := perform(t, fanfare.Config{})
	alice, _ := s.join("/news"), s.join("/news")
	s.join("/other")
	eventually(t, "two are here", func() bool { return s.page("/news").Count == 2 }) // the 101 comes before
	alice.leave()
	eventually(t, "one is left", func() bool { return s.page("/news").Count == 1 })
}

// A page ends at 4 MiB, and says how to go on.
func TestHistoryPageIsBounded(t *testing.T) {
	const most = 4 << 20
	s := perform(t, fanfare.Config{MaxMessage: 6 << 20, HistoryBytes: 64 << 20})
	read := func(path string) (letters string, p page) {
		p = s.page(path)
		size := 0
		for _, m := range p.Messages {
			letters += string(m[len(m)-len(`x"}`)])
			size += len(m)
		}
		if size > most && len(p.Messages) > 1 || p.Gap {
			t.Fatalf("%s: a page of %d bytes, gap %v", path, size, p.Gap)
		}
		return letters, p
	}
	for _, c := range "abcdefg" {
		s.post("/big", strings.Repeat(string(c), 1<<20))
	}
	got, since := "", "0"
	for more := true; more; {
		letters, p := read("/big?since=" + since)
		got += letters + " "
		since, more = p.Position, p.More
	}
	if got != "abc def g " {
		t.Errorf("the pages have %s", got)
	}
	// Without since it is the newest, as many as there is room for.
	if letters, p := read("/big"); letters != "efg" || p.More || p.Position != since {
		t.Errorf("the newest are %s, more %v", letters, p.More)
	}
	// One that is larger alone is a page.
	s.post("/big", strings.Repeat("k", 5<<20))
	s.post("/big", "l")
	if letters, p := read("/big?since=" + since); letters != "k" || !p.More {
		t.Errorf("%s, more %v", letters, p.More)
	}
	if letters, _ := read("/big"); letters != "l" {
		t.Errorf("the newest are %s", letters)
	}
}

// A message that readers of JSON choke on does not spoil the page of history
// that it stands in.
func TestDeepMessageInHistory(t *testing.T) {
	s := perform(t, fanfare.Config{})
	s.post("/deep", nested(9999))
	s.post("/deep", nested(200))
	records := s.page("/deep").records(t)
	if len(records) != 2 || records[0].Data[0] != '"' || string(records[1].Data) != nested(200) {
		t.Errorf("%.200s", s.page("/deep").Messages)
	}
}

// Whoever asks for history again and again and never reads is cut off, also
// where the program's http.Server has no timeout for that.
func TestHistoryThatNobodyReads(t *testing.T) {
	closed := make(chan struct{}, 10)
	s := perform(t, fanfare.Config{WriteTimeout: 200 * time.Millisecond, HistoryBytes: 8 << 20}, func(h *http.Server) {
		h.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
	})
	for range 3 {
		if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "big", Payload: make([]byte, 1<<20), Binary: true}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const requests = 10 // for more than the system's buffers hold
	if _, err := fmt.Fprint(c, strings.Repeat("GET /big HTTP/1.1\r\nHost: fanfare\r\nAccept: application/json\r\n\r\n", requests)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("a client that reads nothing keeps its pages")
		c.Close()
	}
	// Who reads, and then nothing for a while, is not disturbed.
	for range 2 {
		if p := s.page("/big?limit=1"); len(p.Messages) != 1 {
			t.Errorf("%d messages", len(p.Messages))
		}
		time.Sleep(300 * time.Millisecond)
	}
}
