package protocol_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"fanfare/broker"
	"fanfare/protocol"
)

// A vector is a case of testdata/vectors, for any language's tests.
type vector struct {
	Name      string
	Direction string          // client or server: who says it
	JSON      *string         // the text as it goes over the wire
	Value     json.RawMessage // what is understood of it, in JSON
	Exact     bool            // the value, written again, is the text byte for byte
	Kept      *kept           // of a message: what the channel has

	Error   string // the code of the refusal, and what its answer repeats
	ID      string
	Channel string
}

// kept is what a channel has of a message.
type kept struct {
	Text   *string
	Base64 []byte
}

func (k *kept) payload() (payload []byte, binary bool) {
	if k.Text != nil {
		return []byte(*k.Text), false
	}
	return k.Base64, true
}

// vectors calls test for each case of each file but those that have a form of
// their own.
func vectors[V any](t *testing.T, pattern string, test func(t *testing.T, v V)) {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/" + pattern + ".json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(filepath.Base(file), ".json")
		if pattern == "*" && (base == "data" || base == "names") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var all struct {
			About string
			Cases []json.RawMessage
		}
		strict(t, text, &all)
		if all.About == "" || len(all.Cases) == 0 {
			t.Errorf("%s says nothing", file)
		}
		for _, one := range all.Cases {
			var v V
			strict(t, one, &v)
			name := reflect.ValueOf(v).FieldByName("Name").String()
			t.Run(base+"/"+name, func(t *testing.T) { test(t, v) })
		}
	}
}

// strict reads JSON, and fails if there is more in it than in v.
func strict(t *testing.T, text []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
}

// like reports whether two JSON texts have the same value.
func like(t *testing.T, a, b []byte) bool {
	t.Helper()
	read := func(text []byte) (v any) {
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%v in %.200s", err, text)
		}
		return v
	}
	return reflect.DeepEqual(read(a), read(b))
}

func TestVectors(t *testing.T) {
	vectors(t, "*", func(t *testing.T, v vector) {
		if v.JSON == nil || (v.Error == "") == (v.Value == nil) {
			t.Fatal("a case has json, and a value or an error")
		}
		switch v.Direction {
		case "client":
			testCommand(t, v)
		case "server":
			testEvent(t, v)
		default:
			t.Fatalf("no direction %q", v.Direction)
		}
	})
}

func testCommand(t *testing.T, v vector) {
	c, refusal := protocol.ParseCommand([]byte(*v.JSON))
	if refusal == nil && c.Type == protocol.Publish {
		_, _, refusal = c.Payload()
	}
	if v.Error != "" {
		if refusal == nil || refusal.Code != v.Error || refusal.Message == "" || c.ID != v.ID || c.Channel != v.Channel {
			t.Errorf("refused with %+v, id %q, channel %q; want %s, %q, %q", refusal, c.ID, c.Channel, v.Error, v.ID, v.Channel)
		}
		return
	}
	if refusal != nil {
		t.Fatal(refusal)
	}
	said := c.Append(nil)
	if v.Exact && string(said) != *v.JSON {
		t.Errorf("\n said %s\nagain %s", *v.JSON, said)
	}
	marshalled, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if !like(t, marshalled, v.Value) {
		t.Errorf("\nunderstood %s\n      want %s", marshalled, v.Value)
	}
	if !like(t, marshalled, said) {
		t.Errorf("\nAppend gives  %s\nMarshal gives %s", said, marshalled)
	}
}

func testEvent(t *testing.T, v vector) {
	e, err := protocol.ParseEvent([]byte(*v.JSON))
	if err != nil {
		t.Fatal(err)
	}
	said := e.Append(nil)
	if v.Exact && string(said) != *v.JSON {
		t.Errorf("\n said %s\nagain %s", *v.JSON, said)
	}
	if !like(t, said, v.Value) {
		t.Errorf("\nunderstood %s\n      want %s", said, v.Value)
	}
	marshalled, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var again protocol.Event
	if err := json.Unmarshal(marshalled, &again); err != nil {
		t.Fatal(err)
	}
	if got := again.Append(nil); !like(t, got, said) {
		t.Errorf("\nAppend gives               %s\nthrough encoding/json it is %s", said, got)
	}
	if (v.Kept != nil) != (e.Type == protocol.MessageEvent) {
		t.Fatal("a message, and nothing else, says what is kept of it")
	}
	if v.Kept != nil {
		testMessage(t, v)
	}
}

func testMessage(t *testing.T, v vector) {
	m, err := protocol.ParseMessage([]byte(*v.JSON))
	if err != nil {
		t.Fatal(err)
	}
	pos, err := broker.ParsePosition(m.Position)
	if err != nil {
		t.Fatal(err)
	}
	payload, binary := v.Kept.payload()
	published := &broker.Message{Channel: m.Channel, Position: pos, Time: m.Time, Sender: m.Sender, Key: m.Key, Binary: binary, Payload: payload}
	if m.Predecessor != "" {
		before, err := broker.ParsePosition(m.Predecessor)
		if err != nil || before.Epoch != pos.Epoch {
			t.Fatal(before, err)
		}
		published.Prev = before.Offset
	}
	if got := protocol.AppendMessage([]byte("before "), m.Pattern, published); string(got) != "before "+*v.JSON {
		t.Errorf("\n got %s\nwant %s", got, *v.JSON)
	}
}

// A dataVector is a case of data.json.
type dataVector struct {
	Name     string
	Said     string // JSON
	Encoding string
	Kept     *kept
	Comes    *string // JSON; absent: what was said
	Error    string
}

func TestDataVectors(t *testing.T) {
	vectors(t, "data", func(t *testing.T, v dataVector) {
		said := []byte(v.Said)
		payload, binary, refusal := protocol.PayloadOf(said, v.Encoding)
		if v.Error != "" {
			if refusal == nil || refusal.Code != v.Error || refusal.Message == "" {
				t.Fatalf("%q, %v; want %s", payload, refusal, v.Error)
			}
			return
		}
		if refusal != nil {
			t.Fatal(refusal)
		}
		if want, wantBinary := v.Kept.payload(); string(payload) != string(want) || binary != wantBinary {
			t.Fatalf("kept is %q, binary %v; want %q, %v", payload, binary, want, wantBinary)
		}
		if v.Comes == nil {
			v.Comes = &v.Said
		}
		data, encoding := protocol.DataOf(payload, binary)
		if string(data) != *v.Comes || encoding != v.Encoding {
			t.Errorf("%q comes as %s, encoding %q; want %s, %q", payload, data, encoding, *v.Comes, v.Encoding)
		}
		clear(said)
		if want, _ := v.Kept.payload(); string(payload) != string(want) {
			t.Error("what is kept is a part of what was said")
		}
	})
}
