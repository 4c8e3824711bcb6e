//go:build unix

package descriptors

import (
	"math"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Limit is how many descriptors this process may have, its soft limit; 0 if
// that is not known.
func Limit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32)) // more than anybody has, or no limit
}

// Open opens what the others need, a descriptor of our own, and keeps it. They do
// so too; but then there may be none to be had.
func Open() { own() }

// own is a descriptor of ours: one to duplicate, and the place where Linux tells
// how many there are.
var own = sync.OnceValue(open)

type opened struct {
	fd     int
	counts bool
}

func open() opened {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if runtime.GOOS == "linux" {
		if fd, err := unix.Open("/proc/self/fd", flags, 0); err == nil {
			return opened{fd, count(fd) > 0} // 0 before Linux 6.2
		}
	}
	fd, err := unix.Open("/", flags, 0)
	if err != nil {
		fd = -1
	}
	return opened{fd, false}
}

// InUse is how many descriptors this process has: exactly on Linux since 6.2,
// elsewhere at least.
func InUse() int {
	if own := own(); own.counts {
		return count(own.fd)
	}
	return lowest()
}

// count is the size of /proc/self/fd, which is how many entries it has.
func count(fd int) int {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0
	}
	return int(st.Size)
}

// lowest is the lowest number that no descriptor has. A system always gives
// that one out, so all below are in use, and those above, after many have come
// and gone, perhaps. Who goes by it lets now and then somebody in too many, and
// never refuses anybody without need.
func lowest() int {
	n, err := unix.FcntlInt(uintptr(own().fd), unix.F_DUPFD_CLOEXEC, 0)
	switch err {
	case nil:
		_ = unix.Close(n)
		return n
	case unix.EMFILE:
		return Limit()
	}
	return 0 // not even one of our own is open: nothing can be said
}
