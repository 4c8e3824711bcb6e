package fanfare_test

import (
	"net"
	"testing"
	"time"

	"fanfare"

	"golang.org/x/sys/unix"
)

// vanish has a connection's end take nothing that the network brings any more,
// and so acknowledge nothing, as if its machine were gone.
func vanish(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	var attached error
	err = raw.Control(func(fd uintptr) {
		attached = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
	if err != nil || attached != nil {
		t.Fatal(err, attached)
	}
}

// A listener that is gone without a word is found out by what it does not
// acknowledge: a heartbeat, when nobody speaks.
func TestLiveDeadPeer(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: 200 * time.Millisecond, WriteTimeout: 100 * time.Millisecond})
		alive, dead := s.listen("/grave", asEvents), s.listen("/grave", asLines)
		alive.event()
		dead.event()
		vanish(t, dead.conn)
		vanished := time.Now()
		for s.Stats().Ended["silent"] == 0 {
			if e := alive.event(); e.Type != "heartbeat" { // a clock
				t.Fatalf("%s", e.Append(nil))
			}
		}
		if took := time.Since(vanished); took < 200*time.Millisecond || took > 5*time.Second {
			t.Errorf("found out after %v", took)
		}
		if n := s.Stats().Sessions; n != 1 {
			t.Errorf("%d are left", n)
		}
	})
}
