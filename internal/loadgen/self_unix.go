//go:build unix

package loadgen

import (
	"syscall"
	"time"
)

// ownCPU is what this process has used; 0 where it cannot be known.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
