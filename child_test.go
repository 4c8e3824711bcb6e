package fanfare_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"

	"go.uber.org/goleak"
)

// bestTransport is the one that this system takes by itself.
var bestTransport = map[bool]string{true: "reactor", false: "stream"}[runtime.GOOS == "linux"]

// transports are those that this system has, or the one that FANFARE_TRANSPORT
// names: make test runs everything once for each.
var transports = func() []string {
	chosen := os.Getenv("FANFARE_TRANSPORT")
	switch {
	case chosen != "":
		return []string{chosen}
	case bestTransport != "stream":
		return []string{"stream", bestTransport}
	}
	return []string{"stream"}
}()

// An outpost is a server in a process of its own, so that what it holds can be
// counted exactly: descriptors, goroutines and heap are nobody else's. It is this
// test binary, started anew; what is asked of it goes over its standard input.
type outpost struct {
	t       testing.TB
	addr    string
	process *exec.Cmd

	mu  sync.Mutex // guards the following
	ask io.Writer
	out *json.Decoder
}

// Holdings are what an outpost holds, after the garbage was collected.
type holdings struct {
	Files, Goroutines int
	Heap, HeapObjects int64
	Resident          int64 // bytes
	fanfare.Stats
}

func (h holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d bytes in %d objects, %d KiB resident, %d sessions, %d channels, ended: %v, missed: %v",
		h.Files, h.Goroutines, h.Heap, h.HeapObjects, h.Resident>>10, h.Sessions, h.Channels, h.Ended, h.Missed)
}

// outposts are the servers that there are outposts of.
var outposts = map[string]fanfare.Config{
	"churn":    churnConfig,
	"trickle":  {History: 1 << 20, HistoryBytes: 16 << 20, MaxLag: 128 << 10, WriteTimeout: time.Second, Heartbeat: time.Minute},
	"forget":   {History: 1 << 20, HistoryBytes: 256 << 10, MaxLag: 128 << 10, WriteTimeout: time.Minute, Heartbeat: time.Minute},
	"unplug":   unplugConfig,
	"stampede": {},
	"attack":   attackConfig,
	"limited":  {Limits: fanfare.Limits{Messages: 1000, Requests: 100, Handshakes: 10, Connections: 1000}},
	"defaults": {Limits: fanfare.Limits{Messages: 5000, Requests: 1000, Handshakes: 100, Connections: 1000}}, // also for this machine's own addresses
}

var unplugConfig = fanfare.Config{Heartbeat: time.Second, HeartbeatTimeout: 3 * time.Second, WriteTimeout: time.Second, History: 16, HistoryAge: time.Second}

// outpostName in the environment makes this test binary the server of an outpost.
const outpostName = "FANFARE_TEST_OUTPOST"

// open starts an outpost over a transport. When the test ends, the outpost shuts
// down, and must find nothing left and no data race.
func open(t testing.TB, transport, name string) *outpost {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := &outpost{t: t, process: exec.Command(self)}
	o.process.Env = append(os.Environ(), outpostName+"="+name, "FANFARE_TRANSPORT="+transport)
	var complaints bytes.Buffer
	o.process.Stderr = &complaints
	in, err := o.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := o.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		late := time.AfterFunc(patience, func() { _ = o.process.Process.Kill() })
		defer late.Stop()
		if err := o.process.Wait(); err != nil {
			t.Errorf("the outpost ended with %v\n%s", err, &complaints)
		}
	})
	o.ask, o.out = in, json.NewDecoder(out)
	if err := o.out.Decode(&o.addr); err != nil {
		t.Fatalf("the outpost does not open: %v", err)
	}
	return o
}

// serveOutpost is the life of an outpost's process.
func serveOutpost(name string) error {
	cfg, ok := outposts[name]
	if !ok {
		return fmt.Errorf("there is no outpost %q", name)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	server, err := fanfare.New(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: server, ReadHeaderTimeout: late, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go web.Serve(l)
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(l.Addr().String()); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "count":
			err = out.Encode(count(server))
		case "stacks":
			stacks := make([]byte, 4<<20)
			err = out.Encode(string(stacks[:runtime.Stack(stacks, true)]))
		}
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	return errors.Join(server.Shutdown(ctx), web.Close(), goleak.Find())
}

func count(server *fanfare.Server) holdings {
	for range 3 { // finalizers run after the first, and what pools had is gone after the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	h := holdings{Goroutines: runtime.NumGoroutine(), Heap: int64(m.HeapAlloc), HeapObjects: int64(m.HeapObjects), Stats: server.Stats()}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		h.Files = len(files)
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident int64
		fmt.Sscan(string(statm), &size, &resident)
		h.Resident = resident * int64(os.Getpagesize())
	}
	return h
}

func (o *outpost) query(what string, answer any) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := fmt.Fprintln(o.ask, what); err != nil {
		o.t.Fatalf("the outpost hears nothing: %v", err)
	}
	if err := o.out.Decode(answer); err != nil {
		o.t.Fatalf("the outpost says nothing: %v", err)
	}
}

// holds counts what the outpost holds now.
func (o *outpost) holds() (h holdings) {
	o.t.Helper()
	o.query("count", &h)
	return h
}

// left says what there is in the outpost, for whoever looks for a leak.
func (o *outpost) left() string {
	o.t.Helper()
	var all strings.Builder
	fmt.Fprintln(&all, o.holds())
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", o.process.Process.Pid))
	for _, link := range links {
		to, _ := os.Readlink(link)
		fmt.Fprintf(&all, "%s %s\n", filepath.Base(link), to)
	}
	var stacks string
	o.query("stacks", &stacks)
	all.WriteString(stacks)
	return all.String()
}

// settled waits until nobody is here any more and nothing changes, and counts.
// It is called when everybody who came has closed its connection.
func (o *outpost) settled() holdings {
	o.t.Helper()
	const calm = 2 * time.Second // whatever is still ending does so sooner
	h, since := o.holds(), time.Now()
	eventually(o.t, "the outpost is empty and calm", func() bool {
		time.Sleep(100 * time.Millisecond)
		now := o.holds()
		if now.Files != h.Files || now.Goroutines != h.Goroutines || now.Sessions+now.Channels > 0 {
			since = time.Now()
		}
		h = now
		return time.Since(since) > calm
	})
	return h
}

// deserted waits until descriptors and goroutines are what they were, exactly,
// and the heap is within tolerance of what it was.
func (o *outpost) deserted(before holdings, tolerance int64) {
	o.t.Helper()
	var now holdings
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		now = o.holds()
		if now.Sessions+now.Channels == 0 && now.Files == before.Files && now.Goroutines == before.Goroutines && now.Heap <= before.Heap+tolerance {
			break
		}
		if time.Now().After(end) {
			o.t.Errorf("what the outpost held: %v\nwhat is left: %s", before, o.left())
			return
		}
	}
	o.t.Logf("before: %v", before)
	o.t.Logf("after:  %v", now)
}

// join connects a person, until the test ends.
func (o *outpost) join(path string, headers ...string) *person {
	o.t.Helper()
	p, resp, err := meet(o.t, o.addr, path, headers...)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { p.conn.Close() })
	if resp.StatusCode != http.StatusSwitchingProtocols {
		o.t.Fatalf("joining %s: %s", path, resp.Status)
	}
	return p
}
