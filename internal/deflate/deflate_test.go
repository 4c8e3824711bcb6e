package deflate

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	stdlib "compress/flate"

	"fanfare/internal/frame"
)

// The examples of RFC 7692, section 7.2.3: all of them are "Hello", most of them twice.
func TestExamples(t *testing.T) {
	again := NewWindow(0)
	for _, tt := range []struct {
		name   string
		packed string
		window *Window
		want   string
	}{
		{"7.2.3.1", "\xf2\x48\xcd\xc9\xc9\x07\x00", nil, "Hello"},
		{"7.2.3.2, first", "\xf2\x48\xcd\xc9\xc9\x07\x00", again, "Hello"},
		{"7.2.3.2, second", "\xf2\x00\x11\x00\x00", again, "Hello"},
		{"7.2.3.3, no compression", "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", nil, "Hello"},
		{"7.2.3.4, BFINAL", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", nil, "Hello"},
		{"7.2.3.5, two blocks", "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", nil, "Hello"},
		{"7.2.3.6, empty", "\x00", nil, ""},
		{"two ends, the second refers to the first", "\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x00\x11\x00\x00", nil, "HelloHello"},
	} {
		got, err := Inflate([]byte(tt.packed), 100, tt.window)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	if b := Append(nil, nil, 0, nil); string(b) != "\x00" {
		t.Errorf("the empty message is % x, want 00 (section 7.2.3.6)", b)
	}
}

// words is text that gets about half as long.
func words(rng *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = strconv.AppendInt(append(b, `{"price":`...), rng.Int64N(1e6), 10)
		b = append(b, "},\n"...)
	}
	return b[:n]
}

// Messages of all sizes, in one or many pieces, over windows of all sizes, with
// and without context takeover, come back as they were, here and by another implementation.
func TestRoundTrips(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for bits := minBits; bits <= maxBits; bits++ {
		for _, takeover := range []bool{false, true} {
			var out, in *Window
			if takeover {
				out, in = NewWindow(bits), NewWindow(bits)
			}
			var history []byte
			for i, n := range []int{0, 1, 5, 200, 256, 257, 1000, 5000, 32 << 10, 40000, 150000, 300, 0, 70000} {
				message := words(rng, n)
				if i%3 == 2 {
					for j := range message {
						message[j] = byte(rng.Uint32())
					}
				}
				var packed []byte
				if i%2 == 0 {
					packed = Append(nil, message, bits, out)
				} else {
					w := NewWriter(bits, out)
					for rest := message; len(rest) > 0; {
						k := min(len(rest), 1+rng.IntN(30000))
						packed = w.Append(packed, rest[:k])
						rest = rest[k:]
					}
					packed = w.Append(packed, nil)
					w.Close()
				}
				wantStdlib(t, packed, message, history)
				got, err := Inflate(packed, int64(n), in)
				if err != nil || !bytes.Equal(got, message) {
					t.Fatalf("seed %d: %d bits, takeover %v, message %d of %d bytes: %v", seed, bits, takeover, i, n, err)
				}
				if takeover {
					history = append(history, message...)
					history = history[max(0, len(history)-1<<bits):]
					if len(in.last) > 1<<bits || len(out.last) > 1<<bits || !bytes.Equal(in.last, out.last) {
						t.Fatalf("seed %d: %d bits: the windows hold %d and %d bytes", seed, bits, len(out.last), len(in.last))
					}
				}
			}
		}
	}
}

// wantStdlib inflates with the standard library, which knows only the window that it may.
func wantStdlib(t *testing.T, packed, message, window []byte) {
	t.Helper()
	r := stdlib.NewReaderDict(strings.NewReader(string(packed)+tail+"\x01"+tail), window)
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%d bytes with a window of %d bytes came back as %d, %v", len(message), len(window), len(got), err)
	}
}

// zlib, told the window's size, holds us to it.
func TestWindowIsKeptTo(t *testing.T) {
	const program = `
import sys, zlib
bits, n = int(sys.argv[1]), int(sys.argv[2])
z = zlib.decompressobj(-bits)
sys.stdout.buffer.write(z.decompress(sys.stdin.buffer.read(n) + b"\x00\x00\xff\xff"))
`
	rng := rand.New(rand.NewPCG(1, 2))
	message := bytes.Repeat(words(rng, 40000), 3)
	for bits := minBits + 1; bits <= maxBits; bits++ { // zlib has no 8 there
		packed := Append(nil, message, bits, nil)
		python := exec.Command("python3", "-c", program, strconv.Itoa(bits), strconv.Itoa(len(packed)))
		python.Stdin, python.Stderr = bytes.NewReader(packed), os.Stderr
		if got, err := python.Output(); err != nil || !bytes.Equal(got, message) {
			t.Errorf("%d bits: %v, %d of %d bytes", bits, err, len(got), len(message))
		}
	}
}

// bomb is n zeros, deflated at about 1,000:1.
func bomb(n int) []byte {
	const part = 1 << 20
	var b []byte
	for mega := zeros(part); n >= part; n -= part {
		b = append(append(b, mega...), tail...) // each part begins at a byte
	}
	return append(b, zeros(n)...)
}

func zeros(n int) []byte {
	var b bytes.Buffer
	w, _ := stdlib.NewWriter(&b, stdlib.BestCompression)
	_, _ = w.Write(make([]byte, n))
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte(tail))
}

func wantCode(t *testing.T, broken *frame.Error, code frame.Code, says string) {
	t.Helper()
	if broken == nil || broken.Code != code || !strings.Contains(broken.Reason, says) {
		t.Errorf("%v, want %d with word of %q", broken, code, says)
	}
}

// A message may inflate to the limit and not to a byte more, however little it came as.
func TestBounds(t *testing.T) {
	const limit = 1 << 20
	for n, ok := range map[int]bool{limit - 1: true, limit: true, limit + 1: false, 32 << 20: false, 256 << 20: false} {
		got, err := Inflate(bomb(n), limit, nil)
		if ok && (err != nil || len(got) != n) {
			t.Errorf("%d zeros: %d, %v", n, len(got), err)
		}
		if !ok {
			wantCode(t, err, frame.MessageTooBig, "1048576 bytes")
		}
	}
	// Where the limit is large, the ratio bounds what is beyond 16 MiB.
	if got, err := Inflate(bomb(16<<20), 64<<20, nil); err != nil || len(got) != 16<<20 {
		t.Errorf("16 MiB of zeros: %d, %v", len(got), err)
	}
	_, err := Inflate(bomb(32<<20), 64<<20, nil)
	wantCode(t, err, frame.MessageTooBig, "100 times")
	rng := rand.New(rand.NewPCG(3, 4))
	honest := words(rng, 8<<20)
	if got, err := Inflate(Append(nil, honest, 0, nil), 8<<20, nil); err != nil || !bytes.Equal(got, honest) {
		t.Error("8 MiB of text:", err)
	}
	for range 100 { // empty ones
		if _, err := Inflate([]byte{0}, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be inflated is refused, and the next message is none the worse for it.
func TestBroken(t *testing.T) {
	good := Append(nil, []byte("good morning, good morning"), 0, nil)
	for name, bad := range map[string]string{
		"nothing": "\xff\xff", "a reserved block": "\x06", "cut": string(good[:len(good)/2]), "a wrong length": "\x00\x05\x00\x00\x00Hello",
		"too far back": "\xf2\x00\x11\x00\x00", "many ends": strings.Repeat("\x03\x00", 100000),
	} {
		_, err := Inflate([]byte(bad), 1<<20, nil)
		wantCode(t, err, frame.InvalidPayload, "deflated message")
		if got, err := Inflate(good, 100, nil); err != nil || string(got) != "good morning, good morning" {
			t.Errorf("behind %s: %q, %v", name, got, err)
		}
	}
}

// A bomb costs no more memory than the limit allows, whatever it would have become.
func TestBombMemory(t *testing.T) {
	const limit = 1 << 20
	b := bomb(256 << 20)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Inflate(b, limit, nil)
	runtime.ReadMemStats(&after)
	wantCode(t, err, frame.MessageTooBig, "")
	// The last of the buffers that grew is limit, all those before it together about
	// as much, and under the race detector nothing is ever borrowed.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 5*limit {
		t.Errorf("%d bytes for a bomb, limit %d", grown, limit)
	}
}

func TestFrames(t *testing.T) {
	long := bytes.Repeat([]byte("tick "), 20000)
	var frames []byte
	frames = frame.Append(frames, frame.Text, []byte("short"))
	frames = frame.Append(frames, frame.Text, long[:300])
	frames = frame.Append(frames, frame.Pong, []byte("p-1"))
	frames = frame.Append(frames, frame.Binary, long)
	frames = frame.Append(frames, frame.Close, nil)
	random := make([]byte, 1000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	frames = frame.Append(frames, frame.Binary, random)
	out := Frames([]byte("x"), frames, 256, 9)
	if out[0] != 'x' {
		t.Fatal("what was there is gone")
	}
	got := &seen{t: t}
	if err := new(frame.Parser).Push(out[1:], &frame.Rules{Limit: 1 << 20, Compressed: true}, got); err != nil {
		t.Fatal(err)
	}
	want := "text short|compressed text " + string(long[:300]) + "|pong p-1|compressed binary " + string(long) + "|close |binary " + string(random) + "|"
	if got.b.String() != want {
		t.Errorf("%.300q", got.b.String())
	}
}

type seen struct {
	t *testing.T
	b strings.Builder
}

func (s *seen) Frame(f frame.Frame) error {
	p := f.Payload
	if f.Rsv1 {
		var err *frame.Error
		if p, err = Inflate(p, 1<<20, nil); err != nil {
			s.t.Error(err)
		}
		s.b.WriteString("compressed ")
	}
	s.b.WriteString(f.Opcode.String() + " " + string(p) + "|")
	return nil
}

// Whatever comes, no more than the limit comes out, and it is what the standard library says.
func FuzzInflate(f *testing.F) {
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), uint16(100))
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), uint16(4))
	f.Add(Append(nil, bytes.Repeat([]byte("abc"), 500), 0, nil), uint16(1500))
	f.Fuzz(func(t *testing.T, p []byte, limit uint16) {
		got, err := Inflate(p, int64(limit), nil)
		if err != nil {
			return
		}
		if len(got) > int(limit) {
			t.Fatalf("%d bytes, limit %d", len(got), limit)
		}
		want, _ := io.ReadAll(stdlib.NewReader(strings.NewReader(string(p) + tail + "\x01" + tail)))
		if !bytes.HasPrefix(got, want) { // it stops at the first end
			t.Fatalf("%q, the standard library says %q", got, want)
		}
	})
}

// What is deflated comes back.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("to and fro, to and fro"), []byte("fro"), byte(9))
	f.Fuzz(func(t *testing.T, first, second []byte, b byte) {
		bits := minBits + int(b)%(maxBits-minBits+1)
		out, in := NewWindow(bits), NewWindow(bits)
		for _, message := range [][]byte{first, second, first} {
			got, err := Inflate(Append(nil, message, bits, out), int64(len(message)), in)
			if err != nil || !bytes.Equal(got, message) {
				t.Fatalf("%q came back as %q, %v", message, got, err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	message := words(rand.New(rand.NewPCG(1, 1)), 1024)
	var packed []byte
	b.ReportAllocs()
	for b.Loop() {
		packed = Append(packed[:0], message, 0, nil)
	}
	b.ReportMetric(float64(len(packed)), "bytes")
}

func BenchmarkInflate(b *testing.B) {
	packed := Append(nil, words(rand.New(rand.NewPCG(1, 1)), 1024), 0, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Inflate(packed, 1024, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBomb(b *testing.B) {
	packed := bomb(32 << 20)
	for b.Loop() {
		_, _ = Inflate(packed, 1<<20, nil)
	}
}
