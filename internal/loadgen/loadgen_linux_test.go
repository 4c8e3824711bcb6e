package loadgen

import (
	"context"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// The server is this process: what it uses is more than nothing.
func TestServerProcess(t *testing.T) {
	t.Parallel()
	u := ours(t, httptest.NewServer)
	c := quick(u, Throughput)
	c.PID = os.Getpid()
	r := measured(t, c)
	flawless(t, r.Traffic, 20)
	if s := r.Traffic.Server; s == nil || s.RSS < 1<<20 || s.CPU <= 0 || s.Cores <= 0 {
		t.Errorf("the server used %+v", s)
	}
	c = quick(u, Idle)
	c.Connections, c.Duration, c.PID = 50, 100*time.Millisecond, os.Getpid()
	r = measured(t, c)
	if m := r.Memory; m == nil || m.Few != 5 || m.Connections != 50 || m.RSS < 1<<20 || r.Err() != nil {
		t.Errorf("idle: %+v, %v", r.Memory, r.Err())
	}
	if err := r.Plot(nil); err == nil {
		t.Error("idle has something to plot")
	}
	c.PID = 1 << 30
	if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), "there is no process 1073741824") {
		t.Errorf("a process that is not there: %v", err)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	h := &hub{}
	c := quick(h.start(t), Connect)
	c.Sources = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	if r := measured(t, c); r.Err() != nil {
		t.Error(r.Err())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sources) != 2 || !h.sources["127.0.0.2"] || !h.sources["127.0.0.3"] {
		t.Errorf("the connections came from %v", h.sources)
	}
}
