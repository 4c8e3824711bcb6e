package protocol_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fanfare/broker"
	"fanfare/protocol"
)

// seeds adds what all vectors of a direction say.
func seeds(f *testing.F, direction string) {
	f.Helper()
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no vectors", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var all struct {
			Cases []struct{ Direction, JSON string }
		}
		if err := json.Unmarshal(text, &all); err != nil {
			f.Fatal(file, err)
		}
		for _, v := range all.Cases {
			if v.Direction == direction {
				f.Add([]byte(v.JSON))
			}
		}
	}
}

// levels returns how many levels of arrays and objects valid JSON has.
func levels(text []byte) (most int) {
	d := json.NewDecoder(bytes.NewReader(text))
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			return most
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			most = max(most, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// isJSON is IsJSON by encoding/json.
func isJSON(text []byte) bool { return json.Valid(text) && levels(text) <= protocol.MaxLevels }

// oneLine fails if something is no JSON in UTF-8 on one line.
func oneLine(t *testing.T, text []byte) {
	t.Helper()
	if !json.Valid(text) || !utf8.Valid(text) || bytes.ContainsAny(text, "\n\r") {
		t.Fatalf("this is no JSON on one line: %q", text)
	}
}

// What is no JSON by encoding/json is none here, what is understood is what
// encoding/json understands, and what is understood and written again is
// understood alike.
func FuzzParseCommand(f *testing.F) {
	seeds(f, "client")
	f.Fuzz(func(t *testing.T, text []byte) {
		c, refusal := protocol.ParseCommand(text)
		wellFormed := json.Valid(text) && utf8.Valid(text) && bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{"))
		if wellFormed {
			wellFormed = levels(text) <= protocol.MaxLevels+1
		}
		if refusal != nil {
			if refusal.Code == "" || refusal.Message == "" || !utf8.ValidString(refusal.Message) {
				t.Fatalf("%+v", refusal)
			}
			if !wellFormed && refusal.Code != "bad_json" && refusal.Code != "bad_data" {
				t.Fatalf("%q is not JSON, and the error is %v", text, refusal)
			}
			if malformed := strings.Contains(refusal.Message, "not JSON"); malformed && wellFormed {
				t.Fatalf("%q is well-formed, and the error is %v", text, refusal)
			}
			return
		}
		if !wellFormed {
			t.Fatalf("%q was understood: %+v", text, c)
		}
		var exact map[string]json.RawMessage
		if err := json.Unmarshal(text, &exact); err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]string{"id": c.ID, "type": c.Type, "channel": c.Channel} {
			var want string
			if raw, ok := exact[name]; ok && json.Unmarshal(raw, &want) != nil || got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		said := c.Append(nil)
		oneLine(t, said)
		again, refusal := protocol.ParseCommand(said)
		if refusal != nil {
			t.Fatalf("%s: %v", said, refusal)
		}
		if c.Data != nil {
			if !like(t, c.Data, again.Data) {
				t.Errorf("data %s became %s", c.Data, again.Data)
			}
			c.Data, again.Data = nil, nil
		}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%+v became %+v", c, again)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	seeds(f, "server")
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := protocol.ParseEvent(text)
		if err != nil {
			return
		}
		if !json.Valid(text) || e.Type == "" {
			t.Fatalf("%q was understood: %+v", text, e)
		}
		said := e.Append(nil)
		if y := e.Time.UTC().Year(); y < 0 || y > 9999 {
			return // RFC 3339 has no such year; an offset made it of one that it has
		}
		for _, m := range e.Members {
			if y := m.Since.UTC().Year(); y < 0 || y > 9999 {
				return
			}
		}
		oneLine(t, said)
		again, err := protocol.ParseEvent(said)
		if err != nil {
			t.Fatalf("%s: %v", said, err)
		}
		if twice := again.Append(nil); !bytes.Equal(twice, said) {
			t.Errorf("\n said %s\nagain %s", said, twice)
		}
	})
}

// What one client says as JSON another hears as the same JSON.
func FuzzPayloadRoundTrip(f *testing.F) {
	text, err := os.ReadFile("testdata/vectors/data.json")
	if err != nil {
		f.Fatal(err)
	}
	var all struct {
		Cases []struct{ Said, Encoding string }
	}
	if err := json.Unmarshal(text, &all); err != nil {
		f.Fatal(err)
	}
	for _, v := range all.Cases {
		f.Add([]byte(v.Said), v.Encoding == protocol.Encoding)
	}
	f.Fuzz(func(t *testing.T, said []byte, bytesMeant bool) {
		if protocol.IsJSON(said) != isJSON(said) {
			t.Fatalf("IsJSON is %v for %q", protocol.IsJSON(said), said)
		}
		encoding := ""
		if bytesMeant {
			encoding = protocol.Encoding
		}
		payload, binary, refusal := protocol.PayloadOf(said, encoding)
		if refusal != nil {
			if encoding == "" && isJSON(said) && utf8.Valid(said) || refusal.Code != "bad_data" {
				t.Fatalf("%q: %+v", said, refusal)
			}
			return
		}
		if !isJSON(said) || binary != bytesMeant || !binary && !utf8.Valid(payload) {
			t.Fatalf("%q gave %q, binary %v", said, payload, binary)
		}
		heard, encodingHeard := protocol.DataOf(payload, binary)
		oneLine(t, heard)
		if encodingHeard != encoding {
			t.Fatalf("said %q, heard %q", encoding, encodingHeard)
		}
		if binary {
			var want string
			if err := json.Unmarshal(said, &want); err != nil {
				t.Fatal(err)
			}
			if got, err := base64.StdEncoding.DecodeString(want); err != nil || !bytes.Equal(got, payload) {
				t.Fatalf("%q gave %q", said, payload)
			}
			return
		}
		if !same(t, said, heard) {
			t.Fatalf("said %s, heard %s", said, heard)
		}
		again, _, refusal := protocol.PayloadOf(heard, encoding)
		if refusal != nil || oneLineOf(again) != oneLineOf(payload) {
			t.Fatalf("%q, heard and said again, is %q, %v", payload, again, refusal)
		}
	})
}

// same reports whether two JSON texts are the same but for white space and
// escapes: numbers digit for digit, halves of surrogate pairs too.
func same(t *testing.T, a, b []byte) bool {
	t.Helper()
	read := func(text []byte) (tokens []any) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		for {
			token, err := d.Token()
			if err != nil {
				return tokens
			}
			tokens = append(tokens, token)
		}
	}
	return reflect.DeepEqual(read(a), read(b))
}

// oneLineOf returns a text whose ends of lines are spaces.
func oneLineOf(text []byte) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(string(text))
}

// Whatever the broker has becomes a record on one line that is understood.
func FuzzAppendMessage(f *testing.F) {
	f.Add("chat/general", "", "alice", "", []byte("Hello"), false, uint64(1), uint64(42), uint64(41), int64(1763800000123))
	f.Add("a\"b", "a/*", "\u2028", "\x00", []byte("{\n\"a\":\r[1]}"), false, uint64(1), uint64(1), uint64(0), int64(0))
	f.Add("räume/你好", "**", "Zoë 🎉", "\\", []byte{0, 1, 255}, true, uint64(1<<63), uint64(1<<63), uint64(1), int64(-1))
	f.Add("", "", "\xff", "\xe2\x80", []byte("\xe2\x80"), false, uint64(0), uint64(0), uint64(0), int64(1<<40))
	f.Add("deep", "", "", "", []byte(strings.Repeat("[", 201)+strings.Repeat("]", 201)), false, uint64(1), uint64(2), uint64(1), int64(1))
	f.Fuzz(func(t *testing.T, channel, pattern, sender, key string, payload []byte, binary bool, epoch, offset, prev uint64, ms int64) {
		if ms %= 253402300800000; ms < 0 {
			ms = -ms // from 1970 to 9999
		}
		m := &broker.Message{
			Channel: channel, Position: broker.Position{Epoch: epoch, Offset: offset}, Prev: prev, Time: time.UnixMilli(ms),
			Sender: sender, Key: key, Binary: binary, Payload: payload,
		}
		if !binary {
			m.Payload = bytes.ToValidUTF8(payload, nil) // as the broker's contract says
		}
		record := protocol.AppendMessage(nil, pattern, m)
		oneLine(t, record)
		got, err := protocol.ParseMessage(record)
		if err != nil {
			t.Fatalf("%v in %s", err, record)
		}
		data, encoding := protocol.DataOf(m.Payload, binary)
		want := protocol.Message{
			Channel: replaced(channel), Pattern: replaced(pattern), Position: m.Position.String(), Time: m.Time.UTC(),
			Sender: replaced(sender), Key: replaced(key), Encoding: encoding, Data: bytes.Trim(data, " \t"),
		}
		if prev != 0 {
			want.Predecessor = broker.Position{Epoch: epoch, Offset: prev}.String()
		}
		if !got.Time.Equal(want.Time) {
			t.Errorf("time %v became %v", want.Time, got.Time)
		}
		got.Time = want.Time
		if !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
		if back, isBinary, err := got.Payload(); err != nil || isBinary != binary {
			t.Errorf("%q, binary %v, error %v", back, isBinary, err)
		} else if binary && !bytes.Equal(back, payload) {
			t.Errorf("%q became %q", payload, back)
		} else if !binary && !isJSON(m.Payload) && !bytes.Equal(back, m.Payload) {
			t.Errorf("%q became %q", m.Payload, back)
		}
	})
}

// replaced is what is read of a string that may not be UTF-8.
func replaced(s string) string { return string([]rune(s)) }
