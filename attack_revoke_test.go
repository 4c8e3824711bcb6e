package fanfare_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/internal/frame"
)

// A thousand connections of one subject read and publish as fast as it goes. When
// the answer to its revocation has come, nothing that is published from then on
// reaches one of them, and nothing that one of them says is published: by the numbers of
// what they read, and by what there is in the channel behind a mark.
func TestRevokedUnderLoad(t *testing.T) {
	const moles = 1000
	bothTransports(t, func(t *testing.T) {
		kept := broker.NewMemory(&broker.MemoryOptions{History: 1 << 20, HistoryAge: time.Hour, HistoryBytes: 64 << 20})
		s := perform(t, fanfare.Config{
			Broker: kept, History: 1 << 20, HistoryBytes: 64 << 20, MaxLag: 64 << 20, CloseTimeout: patience, WriteTimeout: patience,
			Auth: &fanfare.AuthConfig{Authenticator: register{
				"mole": {Subject: "mole"}, "friend": {Subject: "friend"}, "admin": {Subject: "admin", Roles: []string{"admin"}},
			}},
		})
		var said atomic.Int64 // the number of the news under way
		over := make(chan struct{})
		var talkers, all sync.WaitGroup
		talkers.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(100 * time.Millisecond): // times a thousand who hear it
				}
				text := fmt.Sprintf(`{"news":%d}`, said.Add(1))
				if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "news", Payload: []byte(text)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
		newest := make([]atomic.Int64, moles) // that each heard
		ends := make([]string, moles)
		read := func(p *person, heard *atomic.Int64) string {
			for {
				op, payload, err := p.next()
				if err != nil {
					return err.Error()
				}
				if at := bytes.Index(payload, []byte(`{"news":`)); at >= 0 && op == frame.Text {
					var n int64
					fmt.Sscanf(string(payload[at:]), `{"news":%d`, &n)
					if n <= heard.Load() {
						return fmt.Sprintf("after news %d comes %d", heard.Load(), n)
					}
					heard.Store(n)
				}
				if op == frame.Ping {
					p.conn.Write(masked(frame.Pong, true, string(payload)))
				}
				if op == frame.Close {
					code, reason, _ := frame.ParseClose(payload)
					return fmt.Sprintf("%d %s", code, reason)
				}
			}
		}
		for i := range moles {
			v1 := i%4 == 0
			headers := []string{bearer("mole"), "X-Speaks: plain"}
			if v1 {
				headers[1] = askV1
			}
			p, resp, err := meet(t, s.addr(), "/news", headers...)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v %v", resp, err)
			}
			all.Go(func() { ends[i] = read(p, &newest[i]); p.conn.Close() })
			if v1 {
				text := masked(frame.Text, true, `{"type":"publish","channel":"talk","data":"mole"}`)
				all.Go(func() {
					for {
						p.conn.SetWriteDeadline(time.Now().Add(patience))
						if _, err := p.conn.Write(text); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond) // times 250 who say it
					}
				})
			}
		}
		friend := s.join("/news", bearer("friend"))
		var friendly atomic.Int64
		var friends sync.WaitGroup
		var friendsEnd string
		friends.Go(func() { friendsEnd = read(friend, &friendly) })
		eventually(t, "everybody reads", func() bool {
			for i := range newest {
				if newest[i].Load() == 0 {
					return false
				}
			}
			return true
		})
		began := time.Now()
		resp, body := s.fetch("POST", "/-/revoke", `{"subject":"mole"}`, bearer("admin"))
		last := said.Load() // what has a greater number began behind the answer
		took := time.Since(began)
		mark := s.publishes("talk", "mark")
		if resp.StatusCode != http.StatusOK || body["closed"] != float64(moles) {
			t.Errorf("revoked: %s %v", resp.Status, body)
		}
		t.Logf("%d connections were revoked in %v, at news %d", moles, took, last)
		eventually(t, "the news goes on", func() bool { return said.Load() > last+5 && friendly.Load() > last+5 })
		all.Wait()
		close(over)
		talkers.Wait()
		for i := range newest {
			if n := newest[i].Load(); n > last {
				t.Errorf("mole %d heard news %d, and the answer came at %d", i, n, last)
			}
			if !strings.HasPrefix(ends[i], "4403 ") {
				t.Errorf("mole %d ended with %s", i, ends[i])
			}
			if t.Failed() {
				break
			}
		}
		if page, err := kept.History(t.Context(), "talk", broker.Query{Limit: 1, Tail: true}); err != nil || len(page.Messages) != 1 || page.Messages[0].Position.String() != mark {
			t.Errorf("behind the mark something was published: %v %v", page.Messages, err)
		}
		eventually(t, "the friend heard all", func() bool { return friendly.Load() == said.Load() })
		friend.conn.Close()
		friends.Wait()
		if strings.HasPrefix(friendsEnd, "after") || strings.HasPrefix(friendsEnd, "4") {
			t.Errorf("the friend ended with %s", friendsEnd)
		}
		_, again, err := s.tryJoin("/news", bearer("mole"))
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(again.Body); again.StatusCode != http.StatusUnauthorized || !strings.Contains(string(text), "token_revoked") {
			t.Errorf("a mole that comes back is told %s %s", again.Status, text)
		}
	})
}
