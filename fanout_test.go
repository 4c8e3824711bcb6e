package fanfare

import (
	"fmt"
	"testing"

	"fanfare/internal/feed"
	"fanfare/internal/frame"
)

// reader returns a plain session that reads a channel, without a connection.
func reader(srv *Server, c *channel) *session {
	return &session{server: srv, talk: plain{}, who: &c.nobody, sub: subscription{
		cursor: *c.feed.Live(c.form(plainWire), feed.CatchUp, 1<<20), audience: c.audience(srv.anyLoop())}}
}

// What a delivery costs through the whole fan-out, from the session that is
// asked what to write, in memory: nothing, whether messages come one at a time
// or many.
func TestDeliveryAllocatesNothing(t *testing.T) {
	srv, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown(t.Context())
	at, err := srv.find(t.Context(), "budget", nil, slowness{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.abandon(at)
	const receivers = 1000
	sessions := make([]*session, receivers)
	for i := range sessions {
		sessions[i] = reader(srv, at.channel)
	}
	for _, batch := range []int{1, 64} {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			writes, bytes := 0, 0
			allocs := testing.AllocsPerRun(20, func() {
				for range batch {
					srv.publish(&Message{Channel: "budget", Payload: []byte("hello")}, func(Position, error) {})
				}
				writes, bytes = 0, 0
				for _, s := range sessions {
					for {
						b, _ := s.Next()
						if b == nil {
							break
						}
						writes++
						bytes += len(b)
					}
				}
			})
			want := len(frame.Append(nil, frame.Text, []byte("[15:04:05] hello"))) * batch * receivers
			if writes != receivers || bytes != want {
				t.Errorf("%d messages to %d receivers took %d writes of %d bytes together, want one write each and %d bytes", batch, receivers, writes, bytes, want)
			}
			// What a message costs once, whoever many hear it: itself, its entry, its bytes, and the joining.
			if most := float64(10*batch + 4); allocs > most {
				t.Errorf("%.0f allocations for %d messages to %d receivers, want %.0f at most: a delivery must cost none", allocs, batch, receivers, most)
			}
		})
	}
}

// Channels that are busy at once do not spoil each other's joined bytes.
func TestJoinedOncePerChannel(t *testing.T) {
	srv, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown(t.Context())
	const receivers = 100
	var sessions []*session
	for _, name := range []string{"a", "b"} {
		at, err := srv.find(t.Context(), name, nil, slowness{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer srv.abandon(at)
		for range receivers {
			sessions = append(sessions, reader(srv, at.channel))
		}
	}
	for n := range 8 {
		srv.publish(&Message{Channel: []string{"a", "b"}[n%2], Payload: []byte("hello")}, func(Position, error) {})
	}
	distinct := make(map[*byte]bool)
	for i := range receivers {
		for _, s := range []*session{sessions[i], sessions[receivers+i]} {
			b, _ := s.Next()
			distinct[&b[0]] = true
		}
	}
	if len(distinct) != 2 {
		t.Errorf("two channels' bytes were joined %d times for %d readers, want twice", len(distinct), 2*receivers)
	}
}
