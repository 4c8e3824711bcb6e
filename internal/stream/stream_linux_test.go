package stream_test

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

	"fanfare/internal/stream"
)

// ethernet connects by TCP with segments as small as an Ethernet's: those of
// the loopback are so large that the kernel gives each new connection megabytes
// of buffer, which hides what happens elsewhere.
func ethernet(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	lc := &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1448)
		})
		if err == nil {
			err = controlErr
		}
		return err
	}}
	return dialed(t, lc, "tcp", "127.0.0.1:0")
}

// maxSendBuffer is what the system lets a program ask for; 0 if it does not tell.
func maxSendBuffer() int {
	text, _ := os.ReadFile("/proc/sys/net/core/wmem_max")
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// TestThaw is a peer that is frozen for longer than WriteTimeout. Its
// connection is over by then; when it reads on at last it finds everything that
// was begun, whole, then the last words that tell it why, and then the end.
func TestThaw(t *testing.T) {
	o := slow
	for name, connect := range map[string]pair{"loopback": tcp, "ethernet": ethernet, "Unix": unix} {
		for _, size := range []int{100, 64 << 10, 1 << 20} {
			if size > 64<<10 && name != "loopback" && maxSendBuffer() < 4<<20 {
				continue // the system allows no such buffers
			}
			for _, end := range []string{"timeout", "End"} {
				t.Run(fmt.Sprintf("%s, slices of %d, %s", name, size, end), func(t *testing.T) {
					if end == "End" {
						o.WriteTimeout = patience
					} else {
						o.WriteTimeout = 200 * time.Millisecond
					}
					tr := newTransport(t, o)
					ours, peers := connect(t)
					s := accept(t, tr, ours, nil)
					stalled := s.floods(size)
					s.conn.Start(s)
					s.conn.Wake()
					want := stream.ErrWriteTimeout
					if end == "End" {
						want = errTest
						stalled()
						s.conn.End(errTest)
					}
					if err := s.isOver(); err != want {
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
}
