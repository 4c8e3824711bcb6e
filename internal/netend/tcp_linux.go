package netend

import (
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options of TCP sockets that package syscall does not name (linux/tcp.h).
const (
	tcpUserTimeout  = 18 // TCP_USER_TIMEOUT
	tcpNotsentLowat = 25 // TCP_NOTSENT_LOWAT
)

// Control calls f with the descriptor of a connection's socket, TLS or not; for
// what has none it does nothing.
func Control(nc net.Conn, f func(fd int)) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	socket, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := socket.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// GiveUp has the system end a TCP connection when its peer has not acknowledged
// for d something that was sent, or has had no room for it. The system alone would try for a quarter of an hour. It is
// for peers that never have anything to say. Failing is fine, as with BoundUnsent.
func GiveUp(nc net.Conn, d time.Duration) {
	Control(nc, func(fd int) {
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}

// notsentLowat bounds what the kernel holds for a peer that does not read,
// beyond what is on its way: a slow reader is to cost little there too, and
// room is left to say why it is closed.
const notsentLowat = 32 << 10

// BoundUnsent sets that bound for a TCP connection, by its descriptor. Failing is
// fine: it makes things better, not right.
func BoundUnsent(fd int) { setLowat(fd, notsentLowat) }

// MakeRoom lets the kernel take n bytes more than a peer that does not read
// would otherwise be kept, if the system allows as much. The kernel keeps them
// for a closed connection, too, and goes on offering them to the peer, for a
// minute or so.
func MakeRoom(fd, n int) {
	setLowat(fd, 64<<20)
	// The kernel sizes a send buffer for how fast its connection was, which
	// on a new one is 64 KiB; what is asked for here it doubles, for what it
	// spends itself (socket(7)). A buffer that has grown larger than we may
	// ask for is left alone.
	have, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	if want := min(have/2+n+notsentLowat, maxSendBuffer()); err == nil && have < 2*want {
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, want)
	}
}

// maxSendBuffer is the largest send buffer that a program may ask for. Where
// the system does not tell, as in a container, it is the default of old kernels.
var maxSendBuffer = sync.OnceValue(func() int {
	text, _ := os.ReadFile("/proc/sys/net/core/wmem_max")
	if n, err := strconv.Atoi(string(bytes.TrimSpace(text))); err == nil {
		return n
	}
	return 208 << 10
})

func setLowat(fd, n int) { syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpNotsentLowat, n) }
