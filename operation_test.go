//go:build linux

package fanfare_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/internal/frame"
	"fanfare/websocket"

	"golang.org/x/sys/unix"
)

// What goes wrong in operation, at a scale at which it shows, against a server
// in a process of its own.

// Some of a hundred clients read 1 KiB a second of 200. The others get each
// message as soon as without them. Where history is long, the slow ones are cut
// off, resume and lose nothing; where it is short and patience long, they stay,
// are told exactly how many messages they missed, and cost no memory.
func TestTrickle(t *testing.T) {
	const clients, slow, size, every = 100, 4, 8 << 10, 40 * time.Millisecond
	for _, transport := range transports {
		for _, name := range []string{"trickle", "forget"} {
			t.Run(transport+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := open(t, transport, name)
				publisher := s.join("/flow")
				spoken := int64(0)
				// speak publishes for d, and has everyone of the crowd, the publisher too,
				// hear it; it returns the delays, sorted.
				speak := func(d time.Duration, crowd []*person) []time.Duration {
					from, to := spoken+1, spoken+int64(d/every)
					delays := make([][]time.Duration, len(crowd))
					var listening sync.WaitGroup
					for i, p := range crowd {
						listening.Go(func() {
							for f := (follower{next: from}); f.next <= to; {
								at, err := f.take(p.said())
								if err != nil || f.missed > 0 {
									t.Fatalf("a healthy reader missed %d messages: %v", f.missed, err)
								}
								delays[i] = append(delays[i], time.Since(at))
							}
						})
					}
					pause := time.NewTicker(every)
					defer pause.Stop()
					for spoken < to {
						<-pause.C
						spoken++
						publisher.say(fmt.Sprintf("%d %d %s", spoken, time.Now().UnixNano(), strings.Repeat("~", size)))
					}
					listening.Wait()
					return slices.Sorted(slices.Values(slices.Concat(delays...)))
				}
				p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }

				healthy := []*person{publisher}
				for range clients - slow {
					healthy = append(healthy, s.join("/flow"))
				}
				quiet := speak(2*time.Second, healthy)
				if t.Failed() {
					return
				}
				before := s.holds()
				behind := make([]*trickler, slow)
				over := make(chan struct{})
				var trickling sync.WaitGroup
				for i := range behind {
					behind[i] = &trickler{outpost: s, follower: follower{next: spoken + 1}}
					behind[i].come("/flow")
					trickling.Go(func() { behind[i].trickle(over) })
				}
				disturbed := speak(5*time.Second, healthy)
				grown := s.holds().Heap - before.Heap
				close(over)
				trickling.Wait()
				if t.Failed() {
					return
				}
				t.Logf("p99 %v without slow readers, %v beside %d; the heap grew by %d KiB", p99(quiet), p99(disturbed), slow, grown>>10)
				// Whoever waits for a slow reader waits for seconds; the rest of this is room
				// for a busy machine.
				if p99(disturbed) > 2*p99(quiet)+time.Second {
					t.Errorf("beside %d slow readers p99 is %v, without them %v", slow, p99(disturbed), p99(quiet))
				}
				for _, b := range behind {
					b.catchUp(spoken)
					switch {
					case name == "trickle" && (b.missed > 0 || b.cuts == 0):
						t.Errorf("with a long history, a slow reader missed %d messages, after it was cut off %d times", b.missed, b.cuts)
					case name == "forget" && (b.missed == 0 || b.cuts > 0):
						t.Errorf("with a short history, a slow reader missed %d messages, after it was cut off %d times", b.missed, b.cuts)
					}
				}
				// A queue for each would have been a megabyte for each.
				if name == "forget" && grown > 2<<20 {
					t.Errorf("the heap grew by %d bytes beside %d readers who were a megabyte behind", grown, slow)
				}
			})
		}
	}
}

// A trickler is a client on a very slow line, that comes back when it is cut off.
type trickler struct {
	*outpost
	follower
	p     *person
	since string // behind the message that was read last
	cuts  int
}

func (b *trickler) come(path string) {
	b.p = b.join(path, "Fanfare-Position: pong")
	b.p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	b.since = b.p.head.Get("Fanfare-Position")
}

// trickle reads 1 KiB a second, raw; what it got is kept for catchUp.
func (b *trickler) trickle(over <-chan struct{}) {
	pause := time.NewTicker(time.Second / 8)
	defer pause.Stop()
	var got []byte
	for {
		select {
		case <-over:
			b.p.r = bufio.NewReader(io.MultiReader(bytes.NewReader(got), b.p.r))
			return
		case <-pause.C:
		}
		buf := make([]byte, 128)
		b.p.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := b.p.r.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			b.t.Errorf("a slow reader: %v", err)
			return
		}
	}
}

// catchUp reads as fast as it can, up to message last, and resumes when it finds
// that it was cut off.
func (b *trickler) catchUp(last int64) {
	for b.next <= last {
		op, payload, err := b.p.next()
		switch {
		case err != nil:
			b.t.Fatalf("a slow reader, at message %d of %d: %v", b.next, last, err)
		case op == frame.Close:
			if code, reason, _ := frame.ParseClose(payload); code != frame.TryAgainLater {
				b.t.Fatalf("a slow reader is closed with %d %q", code, reason)
			}
			b.cuts++
			b.come("/flow?since=" + b.since)
		case op == frame.Pong:
			b.since = string(payload)
		case op == frame.Text:
			if _, err := b.take(string(payload[11:])); err != nil {
				b.t.Fatalf("a slow reader: %v", err)
			}
		}
	}
}

// Half a thousand clients are unplugged: nothing reaches them any more, not even
// for their systems to acknowledge it, and nobody is told. The server notices by
// its pings, or sooner by what it writes, and then holds nothing of them; and so
// do those at the other end.
func TestUnplugged(t *testing.T) {
	const idle, busy, ours = 240, 240, 20
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := open(t, transport, "unplug")
			// As many as will come, for what is made once and kept.
			var first []*person
			for range idle + busy + ours {
				first = append(first, s.join("/busy"))
			}
			for _, p := range first {
				p.leave()
			}
			before := s.settled()

			publisher := s.join("/busy")
			var gone []*person
			for range idle {
				gone = append(gone, s.join("/idle"))
			}
			for range busy {
				gone = append(gone, s.join("/busy"))
			}
			var clients []*websocket.Conn
			for range ours {
				conn, _, err := websocket.Dial(t.Context(), "ws://"+s.addr+"/ours", &websocket.DialOptions{
					PingInterval: time.Second, PingTimeout: 3 * time.Second,
					Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := new(net.Dialer).DialContext(ctx, network, addr)
						if err == nil {
							gone = append(gone, &person{conn: conn})
						}
						return conn, err
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, conn)
			}
			for _, p := range gone {
				unplug(t, p.conn)
			}
			begin := time.Now()
			var noticing sync.WaitGroup
			for i, conn := range clients {
				noticing.Go(func() {
					if i%2 == 0 { // the others only listen
						for conn.Write(t.Context(), websocket.Text, make([]byte, 1<<10)) == nil {
							time.Sleep(10 * time.Millisecond)
						}
					}
					_, _, err := conn.Read(t.Context())
					var end *websocket.CloseError
					if !errors.As(err, &end) || end.Code != websocket.Abnormal || !end.Local {
						t.Errorf("an unplugged client reads on to %v", err)
					}
					if took := time.Since(begin); took > 10*time.Second {
						t.Errorf("a client noticed only after %v that it was unplugged", took)
					}
				})
			}
			text := strings.Repeat("~", 4<<10)
			for s.holds().Sessions > 1 {
				publisher.say(text)
				if got := publisher.said(); got != text {
					t.Fatalf("heard %.100q", got)
				}
				if time.Since(begin) > patience {
					t.Fatalf("after %v not all unplugged clients are noticed: %v", patience, s.holds())
				}
			}
			took := time.Since(begin)
			t.Logf("the last of %d was noticed after %v", len(gone), took)
			if most := unplugConfig.Heartbeat + unplugConfig.HeartbeatTimeout + 5*time.Second; took > most {
				t.Errorf("it took %v until all unplugged clients were noticed, want %v", took, most)
			}
			noticing.Wait()
			publisher.leave()
			// The connections that the system still has are of no process any more.
			for _, p := range gone {
				reset(p.conn)
			}
			s.deserted(before, 512<<10)
			ended := s.holds().Ended
			if ended["silent"]+ended["stuck"] != idle+busy+ours || ended["silent"] < idle || ended["stuck"] == 0 {
				t.Errorf("%d were unplugged in silence and %d were written to, but they ended as %v", idle, busy+ours, ended)
			}
		})
	}
}

// unplug has the system throw away all that arrives for a connection.
func unplug(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // of each packet, 0 bytes
	var refused error
	if err := raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	}); err != nil || refused != nil {
		t.Fatalf("unplugging: %v %v", err, refused)
	}
}

// Thousands come and go as fast as they can, in six ways, and leave nothing.
func TestStampede(t *testing.T) {
	const visitors, each = 20, 250
	ways := []func(*visitor){
		func(v *visitor) { v.leaves(v.join(v.somewhere())) },
		func(v *visitor) { v.join(v.somewhere()).conn.Close() },
		func(v *visitor) { reset(v.join(v.somewhere()).conn) },
		func(v *visitor) {
			p := v.join(v.somewhere())
			v.begins(p, masked(frame.Text, true, v.word(1000))[:1+v.rnd.IntN(900)])
			reset(p.conn)
		},
		func(v *visitor) {
			request := upgrade(v.addr, v.somewhere())
			reset(v.dial(request[:1+v.rnd.IntN(len(request))]))
		},
		func(v *visitor) {
			p := v.join(v.somewhere())
			p.raw([]byte{0x81, 0x02, 'h', 'i'})
			v.closed(p, frame.ProtocolError)
		},
	}
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			c := &churn{t: t, outpost: open(t, transport, "stampede")}
			run := func(each int) {
				var running sync.WaitGroup
				for i := range visitors {
					running.Go(func() {
						v := &visitor{churn: c, id: i, rnd: rand.New(rand.NewPCG(seed, uint64(i)))}
						for n := range each {
							ways[(i+n)%len(ways)](v)
						}
					})
				}
				running.Wait()
			}
			run(len(ways))
			before := c.settled()
			begin := time.Now()
			run(each)
			t.Logf("%d came and went in %v", visitors*each, time.Since(begin))
			c.deserted(before, 256<<10)
		})
	}
}
