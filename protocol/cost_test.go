package protocol_test

import (
	"strings"
	"testing"
	"time"

	"fanfare/broker"
	"fanfare/protocol"
)

func record(payload string, binary bool) *broker.Message {
	return &broker.Message{
		Channel: "chat/general", Position: broker.Position{Epoch: 1763800000000, Offset: 42}, Prev: 41,
		Time: time.Date(2026, 11, 22, 16, 0, 0, 123e6, time.UTC), Sender: "alice", Binary: binary, Payload: []byte(payload),
	}
}

var payloads = []struct {
	name, payload string
	binary        bool
}{
	{"text", strings.Repeat("Hello, 你好! ", 10), false},
	{"escapes", strings.Repeat("\"a\"\n\x01", 20), false},
	{"json", `{"type":"chat","content":"` + strings.Repeat("Hello ", 16) + `","n":[1,2.5,true,null]}`, false},
	{"binary", strings.Repeat("\x00\x01\xff", 40), true},
	{"big", strings.Repeat("Hello, world! ", 5000), false},
	{"bigjson", "[" + strings.Repeat(`{"a":"some text here","n":1234.5},`, 2000) + "0]", false},
}

// A record is allocated once, and with hardly more room than it takes.
func TestAppendMessageAllocatesOnce(t *testing.T) {
	for _, p := range payloads {
		m := record(p.payload, p.binary)
		var b []byte
		if n := testing.AllocsPerRun(10, func() { b = protocol.AppendMessage(nil, "", m) }); n != 1 {
			t.Errorf("%s: %v allocations", p.name, n)
		}
		if spare := cap(b) - len(b); spare > len(b)/4+16 {
			t.Errorf("%s: %d bytes, and room for %d more", p.name, len(b), spare)
		}
		if n := testing.AllocsPerRun(10, func() { b = protocol.AppendMessage(b[:0], "", m) }); n != 0 {
			t.Errorf("%s: %v allocations where there is room", p.name, n)
		}
	}
}

// A publish costs its two strings, and its payload.
func TestParseCommandAllocations(t *testing.T) {
	text := []byte(`{"type":"publish","id":"123","channel":"chat/general","data":{"type":"chat","content":"Hello"}}`)
	if n := testing.AllocsPerRun(100, func() {
		c, err := protocol.ParseCommand(text)
		if _, _, err2 := c.Payload(); err != nil || err2 != nil {
			t.Error(err, err2)
		}
	}); n != 3 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	for _, p := range payloads {
		m := record(p.payload, p.binary)
		b.Run(p.name, func(b *testing.B) {
			b.SetBytes(int64(len(p.payload)))
			b.ReportAllocs()
			for b.Loop() {
				protocol.AppendMessage(nil, "", m)
			}
		})
	}
}

func BenchmarkParsePublish(b *testing.B) {
	for _, p := range payloads {
		data, encoding := protocol.DataOf([]byte(p.payload), p.binary)
		c := protocol.Command{Type: protocol.Publish, ID: "123", Channel: "chat/general", Encoding: encoding, Data: data}
		text := c.Append(nil)
		b.Run(p.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				c, _ := protocol.ParseCommand(text)
				c.Payload()
			}
		})
	}
}

func BenchmarkParseMessage(b *testing.B) {
	text := protocol.AppendMessage(nil, "", record(payloads[2].payload, false))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.ParseMessage(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendOK(b *testing.B) {
	e := protocol.Event{Type: protocol.OKEvent, ID: "123", Channel: "chat/general", Position: "1763800000000-42"}
	b.ReportAllocs()
	for b.Loop() {
		e.Append(nil)
	}
}
