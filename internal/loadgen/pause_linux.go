package loadgen

import (
	"syscall"
	"time"
)

// pause sleeps to within some 50 µs; [time.Sleep] comes back up to a
// millisecond late, which would be in every latency.
func pause(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // interrupted: whoever called looks at the clock again
}
