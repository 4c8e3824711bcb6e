package netend

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// The system is told of a TCP connection, TLS or not, and of what is none nothing
// happens.
func TestGiveUp(t *testing.T) {
	for name, connect := range map[string]pair{"TCP": tcp, "TLS": over(tcp)} {
		ours, _ := connect(t)
		GiveUp(ours, 12345*time.Millisecond)
		got := -1
		Control(ours, func(fd int) { got, _ = syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout) })
		if got != 12345 {
			t.Errorf("%s: %d ms", name, got)
		}
	}
	for _, connect := range []pair{pipe, unix, wrapped} {
		ours, _ := connect(t)
		GiveUp(ours, time.Second)
	}
	Control(hidden{}, func(int) { t.Error("a connection without a socket has a descriptor") })
	var none net.Conn
	Control(none, func(int) { t.Error("nothing has a descriptor") })
}
