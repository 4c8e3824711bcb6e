//go:build unix

package descriptors

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// A process started with this in its environment says its limit and ends.
const sayLimit = "DESCRIPTORS_SAY_LIMIT"

func TestMain(m *testing.M) {
	if os.Getenv(sayLimit) != "" {
		_, _ = os.Stdout.WriteString(strings.Repeat("x", Limit()))
		return
	}
	goleak.VerifyTestMain(m)
}

// The runtime does it for us. If it stops, serve must.
func TestTheSoftLimitIsRaised(t *testing.T) {
	for limits, want := range map[string]int{
		"ulimit -S -n 64 && ulimit -H -n 300": 299,
		"ulimit -n 300":                       300,
	} {
		cmd := exec.Command("sh", "-c", limits+` && exec "$0"`, os.Args[0])
		cmd.Env = append(os.Environ(), sayLimit+"=1")
		out, err := cmd.Output()
		if err != nil || len(out) != want {
			t.Errorf("after %q the limit is %d, %v; want %d", limits, len(out), err, want)
		}
	}
}

// limited gives this process a soft limit until the test ends.
func limited(t *testing.T, limit int) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { set(before); known.Store(0) })
	after := before
	after.Cur = uint64(limit)
	set(after)
	known.Store(0)
}

// take opens so many files, or, if n is negative, as many as there are
// descriptors. They are closed at the end if nobody did before.
func take(t *testing.T, n int) []*os.File {
	t.Helper()
	var all []*os.File
	for len(all) != n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			if n < 0 {
				break
			}
			t.Fatal(err)
		}
		all = append(all, f)
	}
	t.Cleanup(func() {
		for _, f := range all {
			f.Close()
		}
	})
	return all
}

func TestInUse(t *testing.T) {
	before, low := InUse(), lowest()
	if before <= 0 {
		t.Fatalf("%d descriptors are in use", before)
	}
	files := take(t, 100)
	if got := InUse(); got != before+100 {
		t.Errorf("with 100 files more %d descriptors are in use, want %d", got, before+100)
	}
	if got := lowest(); got < low+100 {
		t.Errorf("with 100 files more the lowest free number is %d, which was %d", got, low)
	}
	for _, f := range files {
		f.Close()
	}
	if got := InUse(); got != before {
		t.Errorf("with the files closed %d descriptors are in use, want %d", got, before)
	}
	if got := lowest(); got != low {
		t.Errorf("with the files closed the lowest free number is %d, want %d", got, low)
	}
}

// What is in use is counted by what the system says, wherever the gaps are. The
// lowest free number is never above that.
func TestGaps(t *testing.T) {
	if !own().counts {
		return // here there is a lower bound only
	}
	before := InUse()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	files := take(t, 300)
	for rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] }); len(files) > 0; files = files[1:] {
		if got := InUse(); got != before+len(files) {
			t.Fatalf("%d descriptors are in use, want %d", got, before+len(files))
		}
		if got := lowest(); got > before+len(files) {
			t.Fatalf("the lowest free number is %d, of %d in use", got, before+len(files))
		}
		files[0].Close()
	}
}

func TestScarce(t *testing.T) {
	limited(t, 256)
	room := Room()
	if want := 256 - 32 - InUse(); room != want {
		t.Fatalf("there is room for %d, want %d", room, want)
	}
	files := take(t, room)
	if Scarce() {
		t.Fatalf("the last of %d there is room for is one too many", room)
	}
	take(t, 1)
	if !Scarce() || Room() != 0 {
		t.Fatalf("with one more than there is room for it is not scarce, or there is room for %d", Room())
	}
	limited(t, 512)
	if Scarce() {
		t.Error("the limit was raised, and it is still scarce")
	}
	limited(t, 256)
	take(t, -1)
	if !Scarce() {
		t.Error("there is none left, and that is not scarce")
	}
	for _, f := range files {
		f.Close()
	}
	if Scarce() {
		t.Error("they were given back, and it is still scarce")
	}
}

func TestWarningsAreFew(t *testing.T) {
	alarm.count, alarm.last = 0, time.Time{}
	var log bytes.Buffer
	for range 1000 {
		Refused(slog.New(slog.NewTextHandler(&log, nil)))
	}
	alarm.last = alarm.last.Add(-quiet)
	Refused(slog.New(slog.NewTextHandler(&log, nil)))
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "so_far=1") || !strings.HasSuffix(lines[1], "so_far=1001") {
		t.Errorf("1001 refusals logged %q", lines)
	}
}

// listening is a Listener, and clients that nobody has accepted yet: the system
// connects them all the same, so they can be there before the shortage is.
func listening(t *testing.T, clients int) (*Listener, []net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(inner, &http.Server{}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { inner.Close(); l.give() })
	all := make([]net.Conn, clients)
	for i := range all {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		all[i] = conn
	}
	return l, all
}

// accept accepts the next client, which must be this one.
func accept(t *testing.T, l *Listener, client net.Conn) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if conn.RemoteAddr().String() != client.LocalAddr().String() {
		t.Fatal("somebody else was accepted")
	}
	return conn
}

// refused reads the refusal, to its end.
func refused(t *testing.T, client net.Conn) {
	t.Helper()
	answer, err := io.ReadAll(client)
	if err != nil {
		t.Errorf("who is turned away reads %q, %v", answer, err)
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		t.Errorf("who is turned away reads %q: %v", answer, err)
		return
	}
	defer resp.Body.Close()
	var refusal struct {
		Error struct{ Code, Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || refusal.Error.Code != "full" || !strings.Contains(refusal.Error.Message, "128") {
		t.Errorf("the refusal is %q, %v", answer, err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "2" || !resp.Close {
		t.Errorf("the refusal is %q", answer)
	}
}

func TestTurnedAway(t *testing.T) {
	limited(t, 128)
	l, clients := listening(t, 4)
	accept(t, l, clients[0])
	files := take(t, -1)

	// One asks a little, one more than we care to read, one nothing. Then there is
	// room again, and somebody comes.
	const question = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
	if _, err := io.WriteString(clients[1], question); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(clients[2], "POST"+question[3:]+strings.Repeat("x", 100<<10)); err != nil {
		t.Fatal(err)
	}
	welcome := make(chan net.Conn)
	go func() {
		defer close(welcome)
		for _, client := range clients[1:] {
			refused(t, client)
		}
		for _, f := range files[:10] {
			_ = f.Close()
		}
		newcomer, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			_ = l.Close()
			return
		}
		welcome <- newcomer
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	newcomer := <-welcome
	defer newcomer.Close()
	if conn.RemoteAddr().String() != newcomer.LocalAddr().String() {
		t.Error("somebody was accepted without a descriptor for him")
	}
}

func TestNothingCanBeDone(t *testing.T) {
	limited(t, 128)
	l, clients := listening(t, 1)
	files := take(t, -1)
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	const shortage = 500 * time.Millisecond
	time.AfterFunc(shortage, func() {
		_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
		_ = files[0].Close()
		_ = files[1].Close()
	})
	accept(t, l, clients[0])
	spent := time.Duration(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano()) * time.Nanosecond
	if spent > shortage/5 {
		t.Errorf("waiting %v for a descriptor took %v of the processor", shortage, spent)
	}
}

// While descriptors are scarce no connection is kept for a further request, and
// one that was kept makes room. Afterwards they are kept again.
func TestScarceDescriptorsAreNotKeptIdle(t *testing.T) {
	limited(t, 128)
	entered, leave := make(chan struct{}), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			entered <- struct{}{}
			<-leave
		}
	})}
	l, clients := listening(t, 4)
	l.server = server
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ask := func(i int, path string) {
		if _, err := io.WriteString(clients[i], "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Error(err)
		}
	}
	answered := func(i int, kept bool) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(clients[i]), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || resp.Close == kept {
			t.Errorf("client %d is answered %s, closing is %v (%v)", i, resp.Status, resp.Close, err)
		}
	}
	ask(0, "/long")
	<-entered
	ask(1, "/")
	answered(1, true)

	files := take(t, Room()+1)
	newcomer := func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		clients = append(clients, conn)
	}
	newcomer()
	ask(4, "/")
	answered(4, false)
	if n, err := clients[1].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one who was kept reads %d bytes, %v; want the end", n, err)
	}
	leave <- struct{}{}
	answered(0, false)

	for _, f := range files {
		_ = f.Close()
	}
	newcomer()
	ask(5, "/")
	answered(5, true)
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
	if l.spare != nil {
		t.Error("a closed Listener keeps a descriptor")
	}
}

func BenchmarkScarce(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if Scarce() {
			b.Fatal("scarce")
		}
	}
}

func BenchmarkLowest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = lowest()
	}
}
