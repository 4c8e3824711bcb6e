//go:build unix

package fanfare_test

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/partner"
	"fanfare/websocket"
)

// A client's process that freezes answers no pings, though its kernel takes
// what is sent to it. It is dropped, and nobody else notices.
func TestFrozenProcess(t *testing.T) {
	s := perform(t, fanfare.Config{Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: time.Second})
	script := strings.NewReplacer("URL", "ws://"+s.addr()+"/pond", "asyncio.run(main())", `
try:
    asyncio.run(main())
except websockets.ConnectionClosed as end:
    print("closed:", end)
`).Replace(pythonClient)
	python, in, out := start(t, partner.Python(t), nil, script, "client.py")
	defer func() {
		_ = python.Process.Kill() // frozen or not
		_ = python.Wait()
	}()
	eventually(t, "Python is here", func() bool { return s.Stats().Sessions == 1 })
	expect(t, out, `permessage-deflate`)
	s.post("/pond", "it is getting cold")
	expect(t, out, `\] it is getting cold$`)

	if err := python.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	alice := s.join("/pond")
	alice.say("Python, are you there?")
	if got := alice.said(); got != "Python, are you there?" {
		t.Fatal(got)
	}
	alice.leave()
	eventually(t, "the frozen process is dropped", func() bool {
		stats := s.Stats()
		return stats.Ended["silent"] == 1 && stats.Sessions == 0 && stats.Channels == 0
	})

	// When it thaws, it finds what was said until then, and why it was dropped.
	in.Close()
	if err := python.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect(t, out, `\] Python, are you there\?$`)
	expect(t, out, `^closed: .*1011 .*nothing was heard for 200ms`)
}

// A cable that is cut carries nothing any more, and tells neither end. Both find
// out by their own pings, whether or not somebody goes on talking.
func TestCutCable(t *testing.T) {
	for name, talk := range map[string]bool{"silence": false, "talk": true} {
		t.Run(name, func(t *testing.T) {
			s := perform(t, fanfare.Config{Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: time.Second})
			line := layCable(t, s.addr())
			conn, _, err := websocket.Dial(t.Context(), "ws://"+line.addr()+"/shore", &websocket.DialOptions{PingInterval: 200 * time.Millisecond, PingTimeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			if err := conn.Write(t.Context(), websocket.Text, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, text, err := conn.Read(t.Context()); err != nil || !strings.HasSuffix(string(text), "] hello") {
				t.Fatalf("%q %v", text, err)
			}

			line.cut()
			over := make(chan struct{})
			var talking sync.WaitGroup
			defer talking.Wait()
			defer close(over)
			if talk {
				talking.Go(func() {
					for {
						select {
						case <-over:
							return
						case <-time.After(20 * time.Millisecond):
						}
						if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "shore", Payload: []byte("who hears me?")}); err != nil {
							t.Error(err)
							return
						}
						_ = conn.Write(t.Context(), websocket.Text, []byte("who hears me?"))
					}
				})
			}
			_, text, err := conn.Read(t.Context())
			var end *websocket.CloseError
			if !errors.As(err, &end) || end.Code != websocket.Abnormal || !end.Local || !strings.Contains(end.Reason, "of a ping") {
				t.Errorf("the client reads %q and %v", text, err)
			}
			eventually(t, "the server drops it", func() bool {
				stats := s.Stats()
				return stats.Ended["silent"] == 1 && stats.Sessions == 0
			})
		})
	}
}

// A cable is a TCP proxy that can be cut: then it carries nothing, and keeps
// its connections.
type cable struct {
	net.Listener
	to    string
	dead  chan struct{} // closed by cut
	over  chan struct{} // closed when the test ends
	conns sync.WaitGroup
}

func layCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: to, dead: make(chan struct{}), over: make(chan struct{})}
	c.conns.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			c.conns.Go(func() { c.carry(near, far) })
			c.conns.Go(func() { c.carry(far, near) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(c.over)
		c.conns.Wait()
	})
	return c
}

func (c *cable) addr() string { return c.Addr().String() }

// cut is called once.
func (c *cable) cut() { close(c.dead) }

func (c *cable) carry(from, to net.Conn) {
	defer to.Close()
	defer from.Close()
	interrupt := make(chan struct{})
	c.conns.Go(func() {
		select {
		case <-c.dead:
		case <-c.over:
		case <-interrupt:
			return
		}
		_ = from.SetReadDeadline(time.Unix(1, 0))
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-c.dead:
			<-c.over
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	close(interrupt)
}
