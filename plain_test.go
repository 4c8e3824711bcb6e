package fanfare_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// What a text becomes, to everyone on the channel, the sender included.
func TestPlainConversation(t *testing.T) {
	s := perform(t, fanfare.Config{})
	alice, bob := s.join("/chat/general?name=alice"), s.join("/chat/general")
	binary := string([]byte{0, 1, 0xFF, 0xFE})
	for _, c := range []struct {
		who  *person
		op   frame.Opcode
		said string
		want string // behind "TIME", if it begins with that, the stamp's bytes
	}{
		{alice, frame.Text, "hello", `TIMEalice: hello`},
		{bob, frame.Text, "hello", `TIMEhello`},
		{bob, frame.Text, "", `TIME`},
		{bob, frame.Text, "你好，世界 🎉👩‍👩‍👧", `TIME你好，世界 🎉👩‍👩‍👧`},
		{bob, frame.Text, "two\nlines\r\n", "TIMEtwo\nlines\r\n"},
		{alice, frame.Text, `{"type":"chat","content":"Hello"}`, `{"type":"chat","content":"Hello"}`},
		{alice, frame.Text, " {\"a\" : [1,2] }\n", " {\"a\" : [1,2] }\n"},
		{alice, frame.Text, `{"broken":`, `TIMEalice: ` + `{"broken":`},
		{alice, frame.Text, `[1,2]`, `TIMEalice: [1,2]`},
		{alice, frame.Text, nested(200), nested(200)},
		{alice, frame.Text, nested(201), `TIMEalice: ` + nested(201)},
		{alice, frame.Text, `{"\"[":"` + strings.Repeat("[", 300) + `\\"}`, `{"\"[":"` + strings.Repeat("[", 300) + `\\"}`},
		{alice, frame.Binary, binary, binary},
		{alice, frame.Binary, "", ``},
	} {
		before := time.Now().Truncate(time.Second)
		c.who.send(c.op, []byte(c.said))
		for _, p := range []*person{alice, bob} {
			op, got, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			want, stamped := strings.CutPrefix(c.want, "TIME")
			said := string(got)
			if stamped && len(said) >= len("[15:04:05] ") {
				checkStamp(t, said[:11], before)
				said = said[11:]
			}
			if op != c.op || said != want {
				t.Fatalf("said %q: heard %v %q, want %v %q", c.said, op, said, c.op, want)
			}
		}
	}
	alice.leave()
	bob.say("still here")
	if got := bob.said(); got != "still here" {
		t.Fatal(got)
	}
}

// nested returns a JSON object of so many levels.
func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels-1) + "{}" + strings.Repeat("}", levels-1)
}

// checkStamp finds that a stamp is of a time between before and now.
func checkStamp(t *testing.T, stamp string, before time.Time) {
	t.Helper()
	for at := before; !at.After(time.Now()); at = at.Add(time.Second) {
		if at.Format("[15:04:05] ") == stamp {
			return
		}
	}
	t.Fatalf("stamped %q, said between %s and %s", stamp, before, time.Now())
}

// A client's fragments are one message, and control frames may come between.
func TestFragmentsAreOneMessage(t *testing.T) {
	s := perform(t, fanfare.Config{})
	p := s.join("/")
	p.raw(frame.AppendMasked(nil, frame.Text, false, testKey, []byte("one \xF0\x9F")))
	p.send(frame.Ping, []byte("are you there"))
	p.raw(frame.AppendMasked(nil, frame.Continuation, true, testKey, []byte("\x8E\x89 two")))
	if op, payload, err := p.next(); op != frame.Pong || string(payload) != "are you there" {
		t.Fatal(op, string(payload), err)
	}
	if got := p.said(); got != "one 🎉 two" {
		t.Fatalf("%q", got)
	}
}

// Channels do not hear one another, and "/" is the lobby.
func TestChannelsAreApart(t *testing.T) {
	s := perform(t, fanfare.Config{})
	root, lobby, other, encoded, slash := s.join("/"), s.join("/lobby"), s.join("/rooms/%C3%A9"), s.join("/rooms/é"), s.join("/rooms/%C3%A9/")
	root.say("in the lobby")
	other.say("elsewhere")
	for _, p := range []*person{root, lobby} {
		if got := p.said(); got != "in the lobby" {
			t.Fatalf("%q", got)
		}
	}
	for _, p := range []*person{other, encoded, slash} {
		if got := p.said(); got != "elsewhere" {
			t.Fatalf("%q", got)
		}
	}
}

// ?since= replays what came after a position, then goes on live.
func TestSinceReplays(t *testing.T) {
	s := perform(t, fanfare.Config{History: 5})
	alice := s.join("/news?name=alice")
	start := alice.head.Get("Fanfare-Position")
	var positions []string
	for _, text := range []string{"1", "2", "3"} {
		positions = append(positions, s.post("/news", text))
		alice.said()
	}
	late := s.join("/news?since=" + positions[0])
	for _, want := range []string{"2", "3"} {
		if got := late.said(); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	if got := late.head.Get("Fanfare-Position"); got != positions[0] {
		t.Fatalf("begins at %s, asked for %s", got, positions[0])
	}
	alice.say("4")
	if got := late.said(); got != "alice: 4" {
		t.Fatal(got)
	}
	for _, since := range []string{"0", start} {
		all := s.join("/news?since=" + since)
		for _, want := range []string{"1", "2", "3", "alice: 4"} {
			if got := all.said(); got != want {
				t.Fatalf("since %s: %q, want %q", since, got, want)
			}
		}
	}
	// More than history keeps: what is there, and how much is not.
	for _, text := range []string{"5", "6", "7"} {
		s.post("/news", text)
	}
	behind := s.join("/news?since=" + start)
	for _, want := range []string{"* 2 messages no longer kept", "3", "alice: 4", "5", "6", "7"} {
		if got := behind.said(); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	// Another epoch: nothing can be compared.
	stranger := s.join("/news?since=1-1")
	if got := stranger.said(); !strings.HasPrefix(got, "* history does not reach back") {
		t.Fatal(got)
	}
	if got := stranger.said(); got != "3" {
		t.Fatal(got)
	}
	if missed := s.Stats().Missed; missed["expired"] != 2 || missed["lost"] != 1 {
		t.Fatalf("missed is counted as %v, want 2 expired and an unknown number lost", missed)
	}
}

// Who asks for positions gets them in pongs, behind the messages they are of.
func TestPositionsInPongs(t *testing.T) {
	s := perform(t, fanfare.Config{})
	p := s.join("/news", "Fanfare-Position: pong")
	pos := s.post("/news", "hello")
	if got := p.said(); got != "hello" {
		t.Fatal(got)
	}
	if op, payload, err := p.next(); op != frame.Pong || string(payload) != pos {
		t.Fatalf("%v %q %v, want a pong with %s", op, payload, err, pos)
	}
}

// Closing right after speaking loses nothing, and one's own words come back
// before the close does.
func TestLastWordsAreHeard(t *testing.T) {
	s := perform(t, fanfare.Config{})
	bob := s.join("/")
	for range 50 {
		alice := s.join("/")
		var burst []byte
		for _, text := range []string{"a", "b", "c"} {
			burst = frame.AppendMasked(burst, frame.Text, true, testKey, []byte(text))
		}
		alice.raw(frame.AppendMasked(burst, frame.Close, true, testKey, nil))
		for _, want := range []string{"a", "b", "c"} {
			if got := alice.said(); got != want {
				t.Fatalf("alice hears %q, want %q", got, want)
			}
			if got := bob.said(); got != want {
				t.Fatalf("bob hears %q, want %q", got, want)
			}
		}
		if code, _ := alice.closed(); code != frame.NoStatus {
			t.Fatalf("an empty close was answered with %d", code)
		}
		alice.ended()
	}
}

// post publishes over HTTP and returns the position.
func (s *stage) post(path, text string) string {
	s.t.Helper()
	resp, body := s.fetch(http.MethodPost, path, text)
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("POST %s: %s: %v", path, resp.Status, body)
	}
	return body["position"].(string)
}
