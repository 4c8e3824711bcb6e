package main

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	highest := backoff{random: func(d time.Duration) time.Duration { return d - 1 }}
	for i, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		if got := highest.next(); got != want-1 {
			t.Errorf("pause %d is %v at most, want %v", i, got, want-1)
		}
	}
	highest.failures = 1 << 40
	if got := highest.next(); got != backoffMost-1 {
		t.Errorf("after very many failures the pause is %v", got)
	}
	highest.reset()
	if got := highest.next(); got != backoffFirst-1 {
		t.Errorf("after a success the pause is %v", got)
	}
	lowest := backoff{random: func(time.Duration) time.Duration { return 0 }}
	if got := lowest.next(); got != backoffLeast {
		t.Errorf("the shortest pause is %v, want %v", got, backoffLeast)
	}
	// The default is random, over the whole range.
	seen := map[bool]bool{}
	for range 200 {
		b := backoff{failures: 10}
		d := b.next()
		if d < backoffLeast || d >= backoffMost {
			t.Fatalf("a pause of %v", d)
		}
		seen[d > backoffMost/2] = true
	}
	if len(seen) != 2 {
		t.Error("200 pauses, all in the same half of the range")
	}
}
