package stream

import (
	"crypto/tls"
	"net"
	"syscall"
)

// tcpNotsentLowat is TCP_NOTSENT_LOWAT, which package syscall does not name
// (linux/tcp.h).
const tcpNotsentLowat = 25

// notsentLowat bounds what the kernel holds for a peer that does not read,
// beyond what is on its way: a slow reader is to cost little there too, and
// room is left to say why it is closed.
const notsentLowat = 32 << 10

// tuneTCP sets the options of a TCP connection. Failing is fine: they make
// things better, not right. TCP_NODELAY is Go's default.
func tuneTCP(nc net.Conn) { setLowat(nc, notsentLowat) }

// makeRoom lets the kernel take more bytes than a peer that does not read
// would otherwise be kept.
func makeRoom(nc net.Conn) { setLowat(nc, 64<<20) }

func setLowat(nc net.Conn, n int) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, n)
		})
	}
}
