package fanfare_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"fanfare"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// Too much of everything gets an error that says so, and the conversation goes on.
func TestV1TooMuch(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: -1}})
		p := s.talk("/-/connect")
		mega := strings.Repeat("x", 1<<20)
		for _, c := range []struct{ say, code string }{
			{`{"type":"publish","id":"x","channel":"c","key":"` + mega + `","data":1}`, "bad_key"},
			{`{"type":"publish","id":"` + mega + `","channel":"c","data":1}`, "bad_id"},
			{`{"type":"publish","id":"x","channel":"` + mega + `","data":1}`, "bad_channel"},
			{`{"type":"publish","id":"x","channel":"c","data":"` + mega + `x"}`, "too_big"},
			{`{"type":"publish","id":"x","channel":"c","encoding":"` + mega + `","data":1}`, "bad_data"},
			{`{"type":"publish","id":"x","channel":"c","data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "bad_data"},
			{`{"type":"subscribe","id":"x","channel":"` + mega + `"}`, "bad_channel"},
			{`{"type":"subscribe","id":"x","channel":"` + strings.Repeat("a/", 1000) + `**"}`, "bad_channel"},
			{`{"type":"subscribe","id":"x","channel":"c","since":"` + mega + `"}`, "bad_since"},
			{`{"type":"subscribe","id":"x","channel":"c","slow":"` + mega + `"}`, "bad_slow"},
			{`{"type":"subscribe","id":"x"}`, "bad_channel"}, // to nothing
			{`{"type":"subscribe","id":"x","channel":""}`, "bad_channel"},
			{`{"type":"subscribe","id":"x","channel":null}`, "bad_channel"},
			{`{"type":"history","id":"x","channel":"c","limit":` + strings.Repeat("9", 1000) + `}`, "bad_limit"},
			{`{"type":"history","id":"x","channel":"c","limit":1e99999}`, "bad_limit"},
			{`{"type":"request","id":"x","method":"` + mega + `"}`, "unknown_method"},
			{`{"type":"auth","id":"x","token":"` + mega + `"}`, "no_authentication"},
			{`{"type":"` + mega + `","id":"x"}`, "unknown_type"},
			{strings.Repeat(`{"type":`, 100_000), "bad_json"},
			{strings.Repeat(" ", 1<<20), "bad_json"},
			{"", "bad_json"},
		} {
			e := p.ask("%s", c.say)
			if e.Type != "error" || e.Code != c.code || e.Message == "" || len(e.Message) > 1000 {
				t.Errorf("%.80s is answered %.500s, want %s", c.say, e.Append(nil), c.code)
			}
		}
		// Ten thousand subscriptions in one breath.
		var b []byte
		for n := range 10_000 {
			b = frame.AppendMasked(b, frame.Text, true, testKey, fmt.Appendf(nil, `{"type":"subscribe","id":"%d","channel":"c/%d"}`, n, n))
		}
		go p.conn.Write(b) // nobody hears more than he answers
		for n := range 10_000 {
			if e := p.event(); n < 1000 {
				wants(t, e, "ok", fmt.Sprint(n), "")
			} else {
				wants(t, e, "error", fmt.Sprint(n), "too_many_subscriptions")
			}
		}
		if n := s.Stats().Channels; n != 1000 {
			t.Errorf("%d channels", n)
		}
		wants(t, p.ask(`{"type":"ping","id":"last"}`), "ok", "last", "")
	})
}

// known are the codes that docs/protocol.md lists.
var knownCodes = map[string]bool{
	"bad_json": true, "unknown_type": true, "bad_id": true, "bad_channel": true, "bad_since": true, "bad_slow": true,
	"bad_limit": true, "bad_key": true, "bad_data": true, "bad_presence": true, "too_big": true, "id_reused": true,
	"already_subscribed": true, "not_subscribed": true, "too_many_subscriptions": true, "unknown_method": true, "no_authentication": true,
}

// What is almost a command is answered as what it is: once, if it has an id or is wrong;
// and the conversation goes on, unless a bye says why it does not.
func TestV1Mutations(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		seed := seed(t)
		rnd := rand.New(rand.NewPCG(seed, 0))
		s := perform(t, fanfare.Config{MaxSubscriptions: 50})
		s.Handle("time", func(_ context.Context, _ *fanfare.Request) (any, error) { return "now", nil })
		right := [][]byte{
			[]byte(`{"type":"subscribe","id":"s","channel":"chat/a","since":"0","presence":true,"slow":"skip"}`),
			[]byte(`{"type":"subscribe","id":"w","channel":"chat/**","since":"1763800000000-41"}`),
			[]byte(`{"type":"unsubscribe","id":"u","channel":"chat/a"}`),
			[]byte(`{"type":"publish","id":"p","channel":"chat/a","key":"k","data":{"a":[1,-2.5e+3,true,null,"é\u00e9\n"]}}`),
			[]byte(`{"type":"publish","channel":"chat/b","encoding":"base64","data":"AAEC"}`),
			[]byte(`{"type":"history","id":"h","channel":"chat/a","since":"0","limit":5}`),
			[]byte(`{"type":"presence","id":"m","channel":"chat/a","limit":5}`),
			[]byte(`{"type":"request","id":"r","method":"time","data":{"zone":"UTC"}}`),
			[]byte(`{"type":"ping","id":"i"}`),
			[]byte(`{"type":"auth","id":"t","token":"secret"}`),
		}
		var p *person
		answers, byes := 0, 0
		for n := range 2000 {
			if p == nil {
				p = s.talk("/chat/home")
			}
			text := mutated(rnd, right)
			opcode := frame.Text
			if rnd.IntN(50) == 0 {
				opcode = frame.Binary
			}
			cmd, refused := protocol.ParseCommand(text)
			last := fmt.Sprint("behind ", n)
			p.raw(append(masked(opcode, true, string(text)), masked(frame.Text, true, fmt.Sprintf(`{"type":"ping","id":%q}`, last))...))
			// A request's answer may come behind the ping's.
			asks := cmd.Type == protocol.Request && refused == nil && opcode == frame.Text
			told, over := 0, false
			for p != nil && !(over && (told > 0 || !asks)) {
				e := p.event()
				switch e.Type {
				case "ok", "response", "error":
					if e.ID == last {
						over = true
						continue
					}
					told++
					if e.Type == "error" && (!knownCodes[e.Code] || e.Message == "") {
						t.Errorf("%q is answered %s", text, e.Append(nil))
					}
				case "message", "join", "leave", "gap":
				case "bye":
					if opcode != frame.Text || utf8.Valid(text) || e.Code != "protocol" || e.Message == "" || e.Retry != 0 {
						t.Errorf("%q is answered %s", text, e.Append(nil))
					}
					if code, _ := p.closed(); code != frame.InvalidPayload {
						t.Errorf("%q: closed with %d", text, code)
					}
					p.conn.Close()
					p = nil
					byes++
				default:
					t.Errorf("%q is answered %s", text, e.Append(nil))
				}
			}
			answers += told
			if must := refused != nil || opcode == frame.Binary || cmd.ID != ""; p != nil && (told > 1 || must && told != 1) {
				t.Errorf("%q (%v) is answered %d times", text, refused, told)
			}
			if t.Failed() {
				return
			}
		}
		t.Logf("%d answers, %d byes", answers, byes)
		if answers < 500 || byes == 0 {
			t.Error("these are few")
		}
	})
}

// mutated returns one of some texts, a little different.
func mutated(rnd *rand.Rand, texts [][]byte) []byte {
	text := bytes.Clone(texts[rnd.IntN(len(texts))])
	for range 1 + rnd.IntN(3) {
		at := rnd.IntN(len(text) + 1)
		end := min(len(text), at+rnd.IntN(8))
		var with []byte
		switch rnd.IntN(8) {
		case 0: // a piece is missing
		case 1: // it ends here
			end = len(text)
		case 2: // a piece comes twice
			with = bytes.Repeat(text[at:end], 2)
		case 3: // a piece of another
			other := texts[rnd.IntN(len(texts))]
			from := rnd.IntN(len(other))
			with = other[from:min(len(other), from+rnd.IntN(30))]
		case 4: // what means something in JSON
			with = []byte([]string{`"`, `\`, `{`, `}`, `[`, `]`, `:`, `,`, `null`, `true`, `0`, `-`, `1e9`, `\u0000`, `\ud800`, `*`, `/`, ` `, "\n"}[rnd.IntN(19)])
		case 5: // any byte
			with = []byte{byte(rnd.IntN(256))}
		case 6: // what is like it to people
			if at < len(text) {
				with, end = []byte{text[at] ^ ' '}, at+1
			}
		case 7: // much of it
			with = bytes.Repeat([]byte{text[max(0, at-1)]}, rnd.IntN(300))
		}
		text = append(append(bytes.Clone(text[:at]), with...), text[end:]...)
		if len(text) == 0 {
			break
		}
	}
	return text
}

// A client that resumes in many patterns, each of which keeps ten thousand messages in
// memory for it alone, must read what it asked for before it is heard again.
func TestV1ReplaysAreBounded(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{History: 4000})
		for i := range 2000 {
			s.publishes("chat/x", fmt.Sprint(i))
		}
		p := s.talk("/-/connect")
		const patterns = 40
		go func() { // the answers do not fit into the sockets' buffers
			for n := range patterns {
				name := "chat/" + "*"
				if n > 0 {
					name = []string{"**", "*/x", "chat/**", "*/*"}[n%4]
				}
				p.send(frame.Text, fmt.Appendf(nil, `{"type":"unsubscribe","channel":"%s"}`, name))
				p.send(frame.Text, fmt.Appendf(nil, `{"type":"subscribe","id":"%d","channel":"%s","since":"0"}`, n, name))
			}
		}()
		oks, messages := 0, 0
		for oks < patterns {
			switch e := p.event(); e.Type {
			case "ok":
				oks++
			case "message":
				messages++
			}
		}
		if messages < 2000 {
			t.Errorf("%d messages came", messages)
		}
	})
}
