package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// quietFor is how long a quiet time must last.
	quietFor = 15 * time.Second
	// idle is what may be allocated in it, in bytes: thousands of heartbeats do not count.
	idle = 2 << 20
	// worthwhile is how much must have been allocated before, in bytes.
	worthwhile = 4 << 20
)

// giveBack returns memory to the system when a busy time is over, until ctx
// is done. Go keeps as much again as what is in use, for the next busy time; a
// server that waits with many connections would be twice its size for that.
func giveBack(ctx context.Context, quietFor time.Duration) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	allocated := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	tick := time.NewTicker(quietFor)
	defer tick.Stop()
	var given uint64 // allocated when memory was given back
	for last := allocated(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := allocated()
		if now-last < idle && now-given >= worthwhile {
			debug.FreeOSMemory()
			given = now
		}
		last = now
	}
}
