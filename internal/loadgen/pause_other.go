//go:build !linux

package loadgen

import "time"

func pause(d time.Duration) { time.Sleep(d) }
