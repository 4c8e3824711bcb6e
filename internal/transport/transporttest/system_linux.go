package transporttest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanfare/internal/transport"
)

// ofThisSystem are laws that need to know what the system does.
var ofThisSystem = []law{
	{"Thaw", overTCP, (*kit).thaw},
	{"SlowIsNotStuck", overTCP, (*kit).slowIsNotStuck},
}

// Ethernet connects by TCP with segments as small as an Ethernet's: those of
// the loopback are so large that the kernel gives each new connection megabytes
// of buffer, which hides what happens elsewhere.
func Ethernet(t testing.TB) (ours, peers net.Conn) {
	t.Helper()
	return small(t, 1448, 0)
}

// small connects by TCP with segments of this size and a receive buffer of that, if
// it is not 0, for the peer.
func small(t testing.TB, segment, buffer int) (ours, peers net.Conn) {
	t.Helper()
	option := func(level, name, value int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, raw syscall.RawConn) (err error) {
			if value == 0 {
				return nil
			}
			controlErr := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, name, value) })
			if err == nil {
				err = controlErr
			}
			return err
		}
	}
	lc := &net.ListenConfig{Control: option(syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, segment)}
	d := &net.Dialer{Control: option(syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer)}
	return Dialed(t, lc, d, "tcp", "127.0.0.1:0")
}

// maxSendBuffer is what the system lets a program ask for; 0 if it does not tell.
func maxSendBuffer() int {
	text, _ := os.ReadFile("/proc/sys/net/core/wmem_max")
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func (k *kit) thaw() {
	k.sub("loopback", func(k *kit) { Thaw(k.T, k.fresh, TCP, 1<<20) })
	most := 1 << 20
	if maxSendBuffer() < 4<<20 {
		most = 64 << 10 // the system allows no such buffers
	}
	k.sub("ethernet", func(k *kit) { Thaw(k.T, k.fresh, Ethernet, most) })
}

// Thaw is a peer that is frozen for longer than WriteTimeout. Its connection is
// over by then; when it reads on at last it finds everything that was begun,
// whole, then the last words that tell it why, and then the end. Slices of up to most
// bytes are being written.
func Thaw(t *testing.T, fresh func(transport.Options) transport.Transport, connect Pair, most int) {
	for _, size := range []int{100, 64 << 10, 1 << 20} {
		for _, end := range []string{"timeout", "End"} {
			if size > most {
				continue
			}
			t.Run(fmt.Sprintf("slices of %d, %s", size, end), func(t *testing.T) {
				o := Slow
				want := errTest
				if end == "timeout" {
					o.Tick, o.WriteTimeout = 20*time.Millisecond, 100*time.Millisecond
					want = transport.ErrWriteTimeout
				}
				tr := Open(t, fresh, o)
				ours, peers := connect(t)
				s := Accept(t, tr, ours, nil)
				stalled := s.Floods(size)
				s.Start()
				s.Conn.Wake()
				if end == "End" {
					stalled()
					s.Conn.End(errTest)
				}
				if err := s.IsOver(); err != want {
					t.Fatalf("Gone was told %v, want %v", err, want)
				}
				got, err := io.ReadAll(peers)
				if err != nil {
					t.Fatalf("the thawed peer reads %d bytes and then %v, not the end", len(got), err)
				}
				slices, found := bytes.CutSuffix(got, []byte("bye"))
				if !found {
					t.Fatalf("the thawed peer reads %d bytes, and no last words", len(got))
				}
				if len(slices)%size != 0 || len(bytes.Trim(slices, "s")) != 0 {
					t.Errorf("before its last words the thawed peer reads %d bytes, not whole slices of %d", len(slices), size)
				}
				t.Logf("%d bytes", len(got))
			})
		}
	}
}

// A peer that takes a little all the time is not stuck, though the system calls
// for more only now and then: because little is taken until there is room for a
// segment, or because its own system keeps much for it. Nor is one that takes
// nothing for a while, and then much, again and again.
func (k *kit) slowIsNotStuck() {
	o := Slow
	o.Tick, o.WriteTimeout = 50*time.Millisecond, time.Second
	tr := k.open(o)
	type peer struct {
		net.Conn
		s     *Script
		buf   []byte // what it reads at a time
		every int    // at each how many beats
	}
	connect := func(segment, buffer, size, every int) peer {
		ours, peers := small(k, segment, buffer)
		s := Accept(k, tr, ours, nil)
		stalled := s.Floods(64 << 10)
		s.Start()
		s.Conn.Wake()
		stalled()
		return peer{peers, s, make([]byte, size), every}
	}
	all := []peer{connect(536, 2048, 64, 1), connect(0, 1<<20, 16<<10, 1), connect(0, 64<<10, 2<<20, 30)}
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	began := time.Now()
	for beat := 1; time.Since(began) < 5*o.WriteTimeout/2; beat++ {
		for _, p := range all {
			if beat%p.every != 0 {
				continue
			}
			if n, err := io.ReadFull(p, p.buf); err != nil || bytes.Trim(p.buf, "s") != nil {
				k.Fatalf("a peer that takes %d bytes at a time was cut off (%d, %v): %v", len(p.buf), n, err, p.s.Told())
			}
		}
		<-pace.C
	}
	for _, p := range all {
		if p.s.IsGone() {
			k.Errorf("a session whose peer takes %d bytes at a time is gone", len(p.buf))
		}
	}
	for _, p := range all {
		if err := p.s.IsOver(); err != transport.ErrWriteTimeout { // now it is
			k.Errorf("Gone was told %v, want ErrWriteTimeout", err)
		}
	}
}
