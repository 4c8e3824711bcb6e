package stream

import (
	"crypto/tls"
	"net"
	"syscall"

	"fanfare/internal/netend"
)

func boundUnsent(nc net.Conn) { control(nc, netend.BoundUnsent) }

func makeRoom(nc net.Conn, n int) { control(nc, func(fd int) { netend.MakeRoom(fd, n) }) }

// control calls f with the descriptor of a socket; for what is none it does nothing.
func control(nc net.Conn, f func(fd int)) {
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
