//go:build unix

package loadgen

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// readsRaw says that sockets can be read with receiveRaw.
const readsRaw = true

// buffers are as many as there are readers at work at once.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// receiveRaw is receive for sockets: one system call where net.Conn takes two,
// because it does not read again after a read that came back with less than the
// buffer holds. Go's poller tells of each arrival, so nothing is missed but
// an end that came together with the last bytes; a server's close frame says
// that it is time to look for that.
func (c *conn) receiveRaw(plain syscall.Conn) error {
	socket, err := plain.SyscallConn()
	if err != nil {
		return err
	}
	var ended error
	err = socket.Read(func(fd uintptr) bool {
		b := buffers.Get().(*[64 << 10]byte)
		defer buffers.Put(b)
		for {
			n, err := syscall.Read(int(fd), b[:])
			switch {
			case errors.Is(err, syscall.EINTR):
				continue
			case errors.Is(err, syscall.EAGAIN):
				return false
			case err != nil:
				ended = err
			case n == 0:
				ended = io.EOF
			default:
				ended = c.take(b[:n])
			}
			if ended != nil {
				return true
			}
			if n < len(b) && c.goodbye == nil {
				return false
			}
		}
	})
	if err == nil {
		err = ended
	}
	return err
}
