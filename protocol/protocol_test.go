package protocol_test

import (
	"testing"
	"time"

	"fanfare/broker"
	"fanfare/protocol"
)

func TestMessageOnOneLine(t *testing.T) {
	m := &broker.Message{
		Channel: "a/b", Position: broker.Position{Epoch: 5, Offset: 6}, Prev: 4, Time: time.Date(2026, 11, 22, 17, 0, 0, 1e6, time.UTC),
		Sender: `al"ice`, Payload: []byte("{\n\"a\":1}"),
	}
	const want = `{"type":"message","channel":"a/b","pattern":"a/*","position":"5-6","predecessor":"5-4","time":"2026-11-22T17:00:00.001Z","sender":"al\"ice","data":{ "a":1}}`
	if got := string(protocol.AppendMessage(nil, "a/*", m)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
