package feed_test

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fanfare/broker"
	"fanfare/internal/feed"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random programs; 0: another one each time")

func TestMain(m *testing.M) {
	flag.Parse()
	set := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for name, value := range map[string]string{"rapid.checks": "250", "rapid.steps": "50"} {
		if !set[name] {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

// random returns a source of random numbers and prints its seed.
func random(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// numbers is a form that writes each message as its offset, in eight bytes.
var numbers = &feed.Form{Encode: func(dst []byte, m *broker.Message) []byte {
	return binary.BigEndian.AppendUint64(dst, m.Position.Offset)
}}

// offsets reads what numbers wrote.
func offsets(b []byte) []uint64 {
	var all []uint64
	for ; len(b) > 0; b = b[8:] {
		all = append(all, binary.BigEndian.Uint64(b))
	}
	return all
}

// message returns the message after the place prev, with a payload of size bytes.
func message(prev broker.Position, key string, size int) *broker.Message {
	pos := prev
	pos.Offset++
	return &broker.Message{Channel: "news", Position: pos, Prev: prev.Offset, Time: time.Now(), Key: key, Payload: make([]byte, size)}
}

// unlimited is a lag that nobody reaches.
const unlimited = 1 << 50

var start = broker.Position{Epoch: 7}

// fill appends n messages of size bytes to f.
func fill(f *feed.Feed, n, size int) {
	for range n {
		f.Append(message(f.Position(), "", size))
	}
}

// take takes everything there is, and fails on a gap or an error.
func take(t testing.TB, r *feed.Cursor, j *feed.Joiner, limit int) []byte {
	t.Helper()
	var all []byte
	for r.Pending() {
		b, err := r.Take(j, limit)
		if err != nil || b.Gap != (feed.Gap{}) {
			t.Fatalf("Take: gap %+v, error %v", b.Gap, err)
		}
		all = append(all, b.Bytes...)
	}
	return all
}
