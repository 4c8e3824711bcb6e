//go:build !386 && !s390x

package reactor

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recv reads from a socket what is there, without waiting.
func recv(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// send writes to a socket what it has room for, without waiting.
func send(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// ready asks an epoll instance what is ready now, without waiting.
func ready(epoll int, events []unix.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0 // interrupted; the next turn asks again
	}
	return int(n)
}

// take returns a descriptor of our own for a TCP connection and closes nc, which
// leaves the connection as it is. On an error nc is as it was.
func take(nc *net.TCPConn) (fd int, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(theirs uintptr) {
		fd, err = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0)
	})
	if controlErr != nil {
		return -1, controlErr
	}
	if err != nil {
		return -1, os.NewSyscallError("dup", err)
	}
	_ = nc.Close() // what it says concerns a descriptor that is gone
	return fd, nil
}

// unacked returns how many bytes that were written the peer's system has not taken.
func unacked(fd int) uint32 {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// notsentLowat bounds what the kernel holds for a peer that does not read,
// beyond what is on its way: a slow reader is to cost little there too, and
// room is left to say why it is closed.
const notsentLowat = 32 << 10

// tune sets the options of a connection. Failing is fine: they make things
// better, not right. TCP_NODELAY is Go's default.
func tune(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notsentLowat) }

// makeRoom lets the kernel take n bytes more than a peer that does not read
// would otherwise be kept, if the system allows as much. The kernel keeps them
// for a closed connection, too, and goes on offering them to the peer, for a
// minute or so.
func makeRoom(fd, n int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 64<<20)
	// The kernel doubles what is asked for here, for what it spends itself
	// (socket(7)). A buffer that has grown larger than we may ask for is left alone.
	have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if want := min(have/2+n+notsentLowat, maxSendBuffer()); err == nil && have < 2*want {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, want)
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
