//go:build unix

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// whenUnread calls gone once nobody will ever read what is written to f, if f
// is a pipe or a socket: `| head -1` should end us at once, not when the next
// message comes. It waits in a goroutine that ends with the process.
func whenUnread(f *os.File, gone func()) {
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	fd := int32(f.Fd())
	go func() {
		for {
			// No event is asked for, so only the reader's end is told (POLLERR,
			// POLLHUP).
			n, err := unix.Poll([]unix.PollFd{{Fd: fd}}, -1)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return
			case n > 0:
				gone()
				return
			}
		}
	}()
}
