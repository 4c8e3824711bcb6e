// Package descriptors knows how many file descriptors this process has left, so
// that a shortage ends in a clear answer and not in failures at random. Every
// connection is a descriptor; so is every file, and a health check needs one too.
// The last few are therefore kept: no WebSocket is let in when [Scarce], and
// where even the last is taken a [Listener] answers 503.
//
// Nobody has to raise the soft limit to the hard one: Go's package syscall does
// so before main, to one less where it was lower (a test here holds it to that).
//
// All functions may be called from any goroutine. On systems that are not Unix
// nothing is ever scarce.
package descriptors

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Code is what machines read when somebody is refused for want of descriptors.
const Code = "full"

// RetryAfter is after how many seconds who got a 503 may come back.
const RetryAfter = 2

// Reason is the same for people.
func Reason() string {
	return fmt.Sprintf("the server is full: it may have %d file descriptors, and the few that are left are kept for short requests; "+
		"come back in a moment. Whoever runs it can raise the limit (ulimit -n, or LimitNOFILE= of a systemd unit)", Limit())
}

// reserve is how many of so many descriptors no WebSocket gets.
func reserve(limit int) int { return min(64, limit/8) }

// Room is how many more WebSockets there is room for; 0 if no limit is known.
func Room() int { return max(0, room(Limit(), InUse())) }

func room(limit, used int) int { return limit - reserve(limit) - used }

// known is the limit at the last look; 0: nobody has looked.
var known atomic.Int64

// Scarce reports whether the connection that asks, its descriptor included, is
// one too many to stay. It is a system call, and two when it is. So a limit that
// was raised from outside counts at once; one that was lowered, when what is
// left of the old one is scarce.
func Scarce() bool {
	used := InUse()
	if limit := int(known.Load()); limit > 0 && room(limit, used) >= 0 {
		return false
	}
	limit := Limit()
	known.Store(int64(limit))
	return limit > 0 && room(limit, used) < 0
}

// quiet is how long a warning stands for those that would follow it.
const quiet = 10 * time.Second

// The descriptors are the process's, and so is the warning.
var alarm struct {
	sync.Mutex
	count int // since the process began
	last  time.Time
}

// Refused counts a connection that was refused for want of descriptors, and
// warns of it, at most every ten seconds.
func Refused(log *slog.Logger) {
	alarm.Lock()
	alarm.count++
	count, now := alarm.count, time.Now()
	due := alarm.last.IsZero() || now.Sub(alarm.last) >= quiet
	if due {
		alarm.last = now
	}
	alarm.Unlock()
	if due {
		log.Warn("out of file descriptors: newcomers are refused; raise the limit (ulimit -n, LimitNOFILE=)",
			"limit", Limit(), "so_far", count)
	}
}
