package protocol_test

import (
	"os"
	"regexp"
	"testing"

	"fanfare/protocol"
)

// The examples of docs/protocol.md are what we read and write, byte for byte.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]bool)
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)\n```").FindAllSubmatch(text, -1) {
		example := block[1]
		var said []byte
		if c, refusal := protocol.ParseCommand(example); refusal == nil {
			said = c.Append(nil)
			told["client: "+c.Type] = true
		} else if refusal.Code != "unknown_type" {
			t.Errorf("%s: %v", example, refusal)
			continue
		} else if e, err := protocol.ParseEvent(example); err != nil {
			t.Errorf("%s: %v", example, err)
			continue
		} else {
			said = e.Append(nil)
			told["server: "+e.Type] = true
		}
		if string(said) != string(example) {
			t.Errorf("\nthe example is %s\n  we write it %s", example, said)
		}
	}
	for _, kind := range []string{protocol.Subscribe, protocol.Unsubscribe, protocol.Publish, protocol.History, protocol.Presence, protocol.Request, protocol.Ping, protocol.Auth} {
		if !told["client: "+kind] {
			t.Errorf("there is no example of a client's %s", kind)
		}
	}
	for _, kind := range []string{
		protocol.WelcomeEvent, protocol.OKEvent, protocol.ErrorEvent, protocol.MessageEvent, protocol.GapEvent,
		protocol.JoinEvent, protocol.ResponseEvent, protocol.HeartbeatEvent, protocol.ByeEvent,
		protocol.RenewEvent, protocol.UnsubscribedEvent, // a leave is like a join
	} {
		if !told["server: "+kind] {
			t.Errorf("there is no example of a server's %s", kind)
		}
	}
}
