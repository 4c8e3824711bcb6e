package fanfare_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// What somebody said before he hung up is done behind his back, and not any more
// once his access was revoked.
func TestRevokedWhenGone(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for _, what := range []string{"subject", "token", "session"} {
			t.Run(what, func(t *testing.T) {
				g := newGate("alice")
				defer g.open()
				ended := make(chan string, 1)
				s := perform(t, guarded(func(c *fanfare.Config) {
					c.Hooks.Publish, c.CloseTimeout = g.ask, 100*time.Millisecond
					c.Hooks.Disconnect = func(channel, name, why string) { ended <- name }
				}))
				v := s.talk("/chat/x?token=alice-token")
				members := v.ask(`{"type":"presence","id":"1"}`).Members
				var b []byte
				for n := range 10 {
					b = append(b, masked(frame.Text, true, fmt.Sprintf(`{"type":"publish","data":%d}`, n))...)
				}
				v.raw(frame.AppendMasked(b, frame.Close, true, testKey, frame.AppendClose(nil, frame.NormalClosure, "")))
				g.waitUntilAsked(t)
				v.closed()
				v.conn.Close()
				eventually(t, "she is gone", func() bool { return s.Stats().Sessions == 0 })
				whose := map[string]fanfare.Revocation{"subject": {Subject: "alice"}, "token": {Token: "a1"}, "session": {Session: members[0].Session}}
				if _, err := s.Revoke(t.Context(), whose[what]); err != nil {
					t.Fatal(err)
				}
				g.open()
				<-ended
				if _, body := s.fetch("GET", "/chat/x", "", bearer("bob-token")); strings.Contains(fmt.Sprint(body), "data:") {
					t.Errorf("behind the revocation came %v", body)
				}
			})
		}
	})
}
