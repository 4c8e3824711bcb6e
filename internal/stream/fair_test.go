package stream_test

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/internal/transport"
	"fanfare/internal/transport/transporttest"
)

// A gusher is a connection on which there is always more to read.
type gusher struct {
	net.Conn
	open chan struct{} // nothing comes before it is closed
	over atomic.Bool
}

func (g *gusher) Read(b []byte) (int, error) {
	<-g.open
	if g.over.Load() {
		return 0, io.EOF
	}
	return len(b), nil
}

func (g *gusher) Write(b []byte) (int, error)        { return len(b), nil }
func (g *gusher) Close() error                       { g.over.Store(true); return nil }
func (g *gusher) SetDeadline(t time.Time) error      { g.over.Store(true); return nil }
func (g *gusher) SetReadDeadline(t time.Time) error  { g.over.Store(true); return nil }
func (g *gusher) SetWriteDeadline(t time.Time) error { return nil }

// drinker is its session.
type drinker struct{ receive func() }

func (d drinker) Receive([]byte) bool            { d.receive(); return true }
func (d drinker) Next() ([]byte, transport.Then) { return nil, transport.Wait }
func (d drinker) LastWords(error) []byte         { return nil }
func (d drinker) Tick()                          {}
func (d drinker) Gone(error)                     {}

// Connections that flood take turns: none keeps the processor while others
// have something to read.
func TestFloodsTakeTurns(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const floods, turns = 4, 400
	tr := open(t, transporttest.Slow)
	open, done := make(chan struct{}), make(chan struct{})
	var reads [floods]atomic.Int32
	var total atomic.Int64
	for i := range floods {
		c, err := tr.Accept(&gusher{open: open}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Start(drinker{func() {
			switch n := total.Add(1); {
			case n < turns:
				reads[i].Add(1)
			case n == turns:
				close(done)
			}
		}})
	}
	close(open)
	<-done
	for i := range reads {
		if n := reads[i].Load(); n < turns/floods/2 {
			t.Errorf("of %d reads, connection %d had %d", turns, i, n)
		}
	}
}
