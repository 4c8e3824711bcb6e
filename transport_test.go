package fanfare_test

import (
	"runtime"
	"strings"
	"testing"

	"fanfare"
)

// FANFARE_TRANSPORT chooses by hand, and refuses what it does not know.
func TestTransportByHand(t *testing.T) {
	const n = 50
	join := func(choice string) (before int) {
		t.Setenv("FANFARE_TRANSPORT", choice)
		s := perform(t, fanfare.Config{})
		before = runtime.NumGoroutine()
		for range n {
			s.join("/")
		}
		return before
	}
	// A goroutine or two of what was before may end meanwhile.
	if before := join("stream"); runtime.NumGoroutine() < before+n-5 {
		t.Errorf("stream: %d connections have no goroutine each: %d before, %d now", n, before, runtime.NumGoroutine())
	}
	if runtime.GOOS == "linux" {
		for _, choice := range []string{"reactor", ""} {
			before := join(choice)
			eventually(t, "no connection has a goroutine", func() bool { return runtime.NumGoroutine() < before+5 })
		}
	}
	t.Setenv("FANFARE_TRANSPORT", "carrier pigeon")
	if _, err := fanfare.New(fanfare.Config{}); err == nil || !strings.Contains(err.Error(), "reactor or stream") {
		t.Errorf("%v: want an error that names the transports", err)
	}
}
