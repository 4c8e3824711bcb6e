package fanfare

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/internal/transport"
)

// A turns is a loop whose tasks the test runs.
type turns struct{ tasks []transport.Task }

func (l *turns) Post(t transport.Task) { l.tasks = append(l.tasks, t) }

func (l *turns) run() {
	for i := 0; i < len(l.tasks); i++ {
		for l.tasks[i].Run() {
		}
	}
	l.tasks = l.tasks[:0]
}

// A desk is a session's connection: what there is to write is only counted.
type desk struct {
	transport.Conn // of which a delivery needs no more than the following
	session        *session
	loop           *turns
	writes, bytes  int
	last           *byte // where what was written last begins
}

func (d *desk) Loop() transport.Loop { return d.loop }
func (d *desk) Wake()                {}
func (d *desk) Flush() bool {
	for {
		b, then := d.session.Next()
		if len(b) == 0 {
			return false
		}
		d.writes++
		d.bytes += len(b)
		d.last = &b[0]
		if then == transport.Wait {
			return false
		}
	}
}

// readers returns the connections of n sessions that read a channel, and speak v1
// or are plain.
func readers(t testing.TB, srv *Server, loop *turns, channel string, v1 bool, n int) []*desk {
	t.Helper()
	srv.counts[loop] = newLoopCounts()
	desks := make([]*desk, n)
	for i := range desks {
		w := plainWire
		if v1 {
			w = v1Wire
		}
		at, err := srv.find(t.Context(), channel, nil, slowness{policy: CatchUp, maxLag: 1 << 20}, w, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := &desk{loop: loop}
		d.session = &session{server: srv, conn: d}
		d.session.who.Store(&at.channel.nobody)
		if v1 {
			d.session.begin(at)
		} else {
			srv.attach(&d.session.sub, at, loop, d.session)
		}
		desks[i] = d
	}
	loop.run() // they are members, and were welcomed
	return desks
}

// bothConversations runs a test in either form.
func bothConversations(t *testing.T, test func(t *testing.T, v1 bool)) {
	t.Run("plain", func(t *testing.T) { test(t, false) })
	t.Run("v1", func(t *testing.T) { test(t, true) })
}

// What a delivery costs through the whole fan-out, from the publication to what
// the connection is given to write, in memory: nothing, whether messages come
// one at a time or many.
func TestDeliveryAllocatesNothing(t *testing.T) {
	bothConversations(t, func(t *testing.T, v1 bool) {
		srv, err := New(Config{Limits: Limits{Messages: 1e9, Bytes: 1e9}})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Shutdown(t.Context())
		const receivers = 1000
		loop := new(turns)
		desks := readers(t, srv, loop, "budget", v1, receivers)
		form := &plainWire.form
		if v1 {
			form = &v1Wire.form
		}
		reference := srv.channels["budget"].feed.Live(form, feed.CatchUp, 1<<20)
		for _, batch := range []int{1, 64} {
			t.Run(fmt.Sprint(batch), func(t *testing.T) {
				allocs := testing.AllocsPerRun(20, func() {
					for _, d := range desks {
						d.writes, d.bytes = 0, 0
					}
					for range batch {
						srv.publish(&Message{Channel: "budget", Payload: []byte("hello")}, programFace, func(Position, error) {})
					}
					loop.run()
					want, _ := reference.Take(&srv.channels["budget"].joiner, maxBatch)
					if n := bytes.Count(want.Bytes, []byte("hello")); n != batch {
						t.Fatalf("%d of %d messages are in %q", n, batch, want.Bytes)
					}
					for i, d := range desks {
						if d.writes != 1 || d.bytes != len(want.Bytes) {
							t.Fatalf("receiver %d got %d writes of %d bytes together, want one write of %d bytes", i, d.writes, d.bytes, len(want.Bytes))
						}
						if d.last != &want.Bytes[0] {
							t.Fatalf("receiver %d got bytes of its own, want those that all share", i)
						}
					}
				})
				// What a message costs once, whoever many hear it: itself, its entry, its bytes, and the joining.
				t.Logf("%.0f allocations for %d messages to %d receivers", allocs, batch, receivers)
				if most := float64(10*batch + 4); allocs > most {
					t.Errorf("%.0f allocations for %d messages to %d receivers, want %.0f at most: a delivery must cost none", allocs, batch, receivers, most)
				}
			})
		}
	})
}

// Channels that are busy at once do not spoil each other's joined bytes.
func TestJoinedOncePerChannel(t *testing.T) {
	bothConversations(t, func(t *testing.T, v1 bool) {
		srv, err := New(Config{Limits: Limits{Messages: 1e9, Bytes: 1e9}})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Shutdown(t.Context())
		const receivers = 100
		loop := new(turns)
		a, b := readers(t, srv, loop, "a", v1, receivers), readers(t, srv, loop, "b", v1, receivers)
		for n := range 8 {
			srv.publish(&Message{Channel: []string{"a", "b"}[n%2], Payload: []byte("hello")}, programFace, func(Position, error) {})
		}
		loop.run()
		distinct := make(map[*byte]bool)
		for _, d := range append(a, b...) {
			distinct[d.last] = true
		}
		if len(distinct) != 2 {
			t.Errorf("two channels' bytes were joined %d times for %d readers, want twice", len(distinct), 2*receivers)
		}
	})
}

// What a delivery costs without the system calls, one message at a time.
func BenchmarkDelivery(b *testing.B) {
	for _, form := range []string{"plain", "v1"} {
		b.Run(form, func(b *testing.B) {
			srv, err := New(Config{Limits: Limits{Messages: 1e9, Bytes: 1e9}})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Shutdown(b.Context())
			const receivers = 1000
			loop := new(turns)
			readers(b, srv, loop, "busy", form == "v1", receivers)
			for n := 0; b.Loop(); n++ {
				if n%receivers == 0 {
					srv.publish(&Message{Channel: "busy", Payload: []byte("hello")}, programFace, func(Position, error) {})
					loop.run()
				}
			}
		})
	}
}

// What a publish costs, from the bytes that came to the bytes of its answer: 64 at
// once, of 128 bytes each, in a channel that nobody reads.
func BenchmarkPublish(b *testing.B) {
	const burst, id = 64, "00000000"
	data := strings.Repeat("x", 128)
	for _, form := range []struct{ name, says string }{
		{"plain", data},
		{"v1", `{"type":"publish","data":"` + data + `"}`},
		{"acknowledged", `{"type":"publish","id":"` + id + `","data":"` + data + `"}`},
	} {
		b.Run(form.name, func(b *testing.B) {
			srv, err := New(Config{Limits: Limits{Messages: 1e9, Bytes: 1e9}})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Shutdown(b.Context())
			d := readers(b, srv, new(turns), "elsewhere", form.name != "plain", 1)[0]
			d.session.who.Store(&speaker{home: "quiet"})
			// Masked with zeros, the ids can be counted up where they stand.
			said := bytes.Repeat(frame.AppendMasked(nil, frame.Text, true, [4]byte{}, []byte(form.says)), burst)
			each, digits := len(said)/burst, bytes.Index(said, []byte(id))
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if digits >= 0 {
					at := said[n%burst*each+digits:][:len(id)]
					for i, v := len(at)-1, n; i >= 0; i, v = i-1, v/10 {
						at[i] = '0' + byte(v%10)
					}
				}
				if n%burst == burst-1 {
					d.session.Receive(said)
					d.Flush()
				}
			}
		})
	}
}
