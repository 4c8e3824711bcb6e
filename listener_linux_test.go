package fanfare

import (
	"runtime"
	"testing"
)

// An idle reader of server-sent events is two objects, and no goroutine.
func TestIdleListenerBudget(t *testing.T) {
	t.Setenv("FANFARE_TRANSPORT", "reactor")
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := bare(t, s)
	const n = 2000
	join := func(n int) {
		before := int(s.present.Load())
		flockAs(t, addr, n, "HTTP/1.1 200", "Accept: text/event-stream")
		soon(t, "they are in", func() bool { return s.Stats().Sessions == before+n })
	}
	join(100) // what is there once
	goroutines := runtime.NumGoroutine()
	before := settled()
	join(n)
	soon(t, "net/http's goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	after := settled()
	bytes := int64(after.HeapAlloc-before.HeapAlloc) / n
	objects := float64(after.HeapObjects-before.HeapObjects) / n
	t.Logf("%d bytes in %.2f objects for each idle listener", bytes, objects)
	if bytes > 320 {
		t.Errorf("an idle listener costs %d bytes of the heap, 320 were meant at most", bytes)
	}
	if objects > 2.2 {
		t.Errorf("an idle listener costs %.2f objects, 2 were meant: the listener and the connection", objects)
	}
}
