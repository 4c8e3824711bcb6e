package loadgen

import "syscall"

// bindWithoutPort lets the kernel choose the port when the other end is known, so
// that each destination has all ports of a source address. It is a matter of
// more connections only: where it is not to be had, go on.
func bindWithoutPort(_, _ string, socket syscall.RawConn) error {
	const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT of ip(7)
	return socket.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
	})
}
