package main

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"
)

// held returns how much memory the heap has from the system, in bytes. What the
// system says itself has the race detector's in it, which stays.
func held() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys - m.HeapReleased)
}

var garbage []byte // so that it is allocated

// After a busy time the memory goes back, without anybody asking.
func TestMemoryIsGivenBack(t *testing.T) {
	runtime.GC()
	before := held()
	// What is in use lets Go keep as much again, which it never gives back by itself.
	used := make([][]byte, 64<<10)
	for i := range used {
		used[i] = bytes.Repeat([]byte{1}, 1<<10)
	}
	for range 256 << 10 {
		garbage = bytes.Repeat([]byte{1}, 1<<10)
	}
	if grown := held() - before; grown < 80<<20 {
		t.Fatalf("the heap grew by %d bytes only: this tests nothing", grown)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		giveBack(ctx, 20*time.Millisecond)
		close(ended)
	}()
	defer func() { cancel(); <-ended }()
	for deadline := time.Now().Add(20 * time.Second); held()-before > 75<<20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("64 MiB are in use, and the heap has %d more than before", held()-before)
		}
	}
	runtime.KeepAlive(used)
}
