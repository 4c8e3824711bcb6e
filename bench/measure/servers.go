package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A server is a program that broadcasts what each WebSocket client sends to
// all of them.
type server struct {
	name    string
	title   string // in the table
	command func(port int) []string
	env     []string
}

const (
	ours  = "fanfare"
	floor = "limit"
)

// builder compiles what is measured and what measures it.
type builder struct {
	bench   string   // the directory bench of the tree
	bin     string   // where the programs go
	fanfare string   // a binary that is there already, or ""
	goFlags []string // more flags for go build
}

// build returns the servers that can run here, and what is missing for the
// others. Without a C compiler nothing can be measured: that is an error.
func (b builder) build(ctx context.Context) (servers []server, missing []string, err error) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		return nil, nil, errors.New("there is no gcc here, and it builds the load generator: install gcc and libc6-dev")
	}
	if err := os.MkdirAll(b.bin, 0o777); err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"fanload", floor} {
		if _, err := output(ctx, b.bench, nil, cc, "-O2", "-o", filepath.Join(b.bin, name), name+".c"); err != nil {
			return nil, nil, err
		}
	}
	program := func(name string, args ...string) func(int) []string {
		return func(port int) []string {
			return append([]string{filepath.Join(b.bin, name)}, append(args, strconv.Itoa(port))...)
		}
	}
	servers = append(servers, server{name: floor, title: "the floor, `limit.c`", command: program(floor)})

	fanfare, err := b.ours(ctx)
	if err != nil {
		return nil, nil, err
	}
	servers = append(servers, server{name: ours, title: "**Fanfare**", command: func(port int) []string {
		return []string{fanfare, "serve", "--log-level", "warn", "--limit-messages", "none", "--limit-bytes", "none", "--listen", fmt.Sprintf("127.0.0.1:%d", port)}
	}})

	for _, peer := range []struct{ name, module string }{
		{"gws", "github.com/lxzan/gws"},
		{"gorilla", "github.com/gorilla/websocket"},
		{"coder", "github.com/coder/websocket"},
	} {
		if err := b.goBuild(ctx, b.bench, peer.name, "./peers/"+peer.name); err != nil {
			return nil, nil, err
		}
		version, err := output(ctx, b.bench, nil, "go", "list", "-m", "-f", "{{.Version}}", peer.module)
		if err != nil {
			return nil, nil, err
		}
		servers = append(servers, server{name: peer.name, title: strings.TrimPrefix(peer.module, "github.com/") + " " + version, command: program(peer.name)})
	}

	// Where ci/partners.sh installs ws, unless NODE_PATH knows better.
	nodePath := []string{"NODE_PATH=" + os.Getenv("NODE_PATH") + string(filepath.ListSeparator) + filepath.Join(b.bench, "..", "node_modules")}
	version, err := output(ctx, b.bench, nodePath, "node", "-p", `require("ws").WebSocketServer && require("ws/package.json").version + ", Node " + process.versions.node`)
	if err != nil {
		missing = append(missing, "ws, which is not installed: install nodejs and npm, then run ci/partners.sh")
	} else {
		servers = append(servers, server{name: "ws", title: "ws " + version, env: nodePath, command: func(port int) []string {
			return []string{"node", filepath.Join(b.bench, "peers", "node-ws.cjs"), strconv.Itoa(port)}
		}})
	}

	python, version, err := findPython(ctx, b.bench)
	if err != nil {
		missing = append(missing, "websockets, which is not installed: install python3-websockets")
	} else {
		servers = append(servers, server{name: "websockets", title: "websockets " + version, command: func(port int) []string {
			return []string{python, filepath.Join(b.bench, "peers", "python-websockets.py"), strconv.Itoa(port)}
		}})
	}
	return servers, missing, ctx.Err()
}

func (b builder) ours(ctx context.Context) (path string, err error) {
	if b.fanfare != "" {
		if path, err = filepath.Abs(b.fanfare); err == nil {
			_, err = os.Stat(path)
		}
		return path, err
	}
	return filepath.Join(b.bin, ours), b.goBuild(ctx, filepath.Join(b.bench, ".."), ours, "./cmd/fanfare")
}

func (b builder) goBuild(ctx context.Context, dir, name, pkg string) error {
	args := append([]string{"build", "-o", filepath.Join(b.bin, name)}, b.goFlags...)
	_, err := output(ctx, dir, nil, "go", append(args, pkg)...)
	return err
}

// findPython prefers Debian's, whose websockets is the one that most servers have.
func findPython(ctx context.Context, dir string) (python, version string, err error) {
	for _, python = range []string{"/usr/bin/python3", "python3"} {
		version, err = output(ctx, dir, nil, python, "-c", `import platform, websockets.version as w; print(w.version + ", Python " + platform.python_version())`)
		if err == nil {
			return python, version, nil
		}
	}
	return "", "", err
}

// output runs a program to its end in dir and returns what it printed; the
// error carries the last line it complained with.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var complaint tail
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w%s", filepath.Base(name), strings.Join(args[:min(1, len(args))], " "), err, complaint.last())
	}
	return strings.TrimSpace(string(out)), nil
}

// process is a server that runs.
type process struct {
	cmd  *exec.Cmd
	port int
	done chan struct{} // closed when it ended
	said tail
}

// start runs a server on a free port until stop is called or ctx ends, and
// returns when it accepts connections.
func (s server) start(ctx context.Context, pin bool) (*process, error) {
	for try := 0; ; try++ {
		p, err := s.startOnce(ctx, pin)
		// Somebody may have taken the port since it was found free.
		if err == nil || ctx.Err() != nil || try == 2 {
			return p, err
		}
	}
}

func (s server) startOnce(ctx context.Context, pin bool) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &process{port: port, done: make(chan struct{})}
	p.cmd = command(ctx, pin, "0", s.command(port))
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.Stderr = &p.said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in what it said
		close(p.done)
	}()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) && !p.ended() {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return p, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.stop()
	return nil, fmt.Errorf("%s did not begin to listen%s", s.name, p.said.last())
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// usage is what the kernel says of a process.
type usage struct {
	rss   int           // bytes
	cpu   time.Duration // user and system; it counts in steps of 10 ms
	files int           // open ones
}

func (p *process) usage() usage {
	var u usage
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	names, _ := os.ReadDir(proc + "fd")
	u.files = len(names)
	// proc(5): the second word is the name in brackets, 14 and 15 are ticks, 24 pages.
	stat := read(proc + "stat")
	if words := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]); len(words) > 21 {
		number := func(word int) int {
			n, _ := strconv.Atoi(words[word-3])
			return n
		}
		u.cpu = time.Duration(number(14)+number(15)) * 10 * time.Millisecond
		u.rss = number(24) * os.Getpagesize()
	}
	return u
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill() // or it has ended already
	<-p.done
}

// command prepares a program that is killed when ctx ends, or when we do, on
// the given core if pin.
func command(ctx context.Context, pin bool, core string, args []string) *exec.Cmd {
	if pin {
		args = append([]string{"taskset", "-c", core}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// freePort returns a port that is free on every address, since limit.c listens on all.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// enoughDescriptors raises the limit on open files for everything that we
// start, and says which scenario needs more than that.
func enoughDescriptors(scenarios []scenario) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for _, s := range scenarios {
		if need := uint64(s.n) + 100; need > limit.Max {
			return fmt.Errorf("%s needs %d open files, and one process may have %d: raise the limit (ulimit -Hn), take fewer connections (--n) or leave it out (--scenarios)", s.name, need, limit.Max)
		}
	}
	return nil
}

// tail keeps the end of what a program says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-4096):]
	return len(b), nil
}

// last returns ": " and the last line, or nothing.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := strings.TrimSpace(string(t.text))
	if said == "" {
		return ""
	}
	return ": " + said[strings.LastIndexByte(said, '\n')+1:]
}
