package fanfare_test

import (
	"bufio"
	"context"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/partner"
)

// The README's clients are run as they stand there, against a server of this
// test's instead of localhost:8765.

func TestReadmePython(t *testing.T) {
	url, _ := readmeServer(t)
	script := readmeBlock(t, "python", url)
	cmd, in, out := start(t, partner.Python(t), nil, script, "client.py")
	if _, err := in.Write([]byte("你好 from Python\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, out, `^\[\d\d:\d\d:\d\d\] python: 你好 from Python$`)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal("after the end of its input:", err)
	}
}

func TestReadmeJavaScript(t *testing.T) {
	url, srv := readmeServer(t)
	node, path := partner.Node(t)
	// The README says what to put first where WebSocket is not built in.
	script := "const WebSocket = require(\"ws\")\n" + readmeBlock(t, "js", url)
	cmd, _, out := start(t, node, []string{"NODE_PATH=" + path}, script, "client.js")
	expect(t, out, `^\[\d\d:\d\d:\d\d\] script: Hello from JavaScript$`)
	expect(t, out, `^{"type":"chat","content":"你好 👋"}$`)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	expect(t, out, `^closed: 1001 `)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// readmeServer starts a server and returns its host and port.
func readmeServer(t *testing.T) (string, *fanfare.Server) {
	t.Helper()
	srv, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	outside := httptest.NewServer(srv)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		outside.Close()
	})
	return strings.TrimPrefix(outside.URL, "http://"), srv
}

// readmeBlock returns the README's only block in a language, with host for
// localhost:8765.
func readmeBlock(t *testing.T, language, host string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```\n").FindAllSubmatch(readme, -1)
	if len(blocks) != 1 {
		t.Fatalf("README.md has %d blocks of %s, not one", len(blocks), language)
	}
	return strings.ReplaceAll(string(blocks[0][1]), "localhost:8765", host)
}

// start runs a script from a file, with pipes for its input and its output.
func start(t *testing.T, program string, env []string, script, name string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, file)
	cmd.Env = append(cmd.Environ(), append(env, "PYTHONUNBUFFERED=1", "PYTHONUTF8=1")...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewScanner(out)
}

// expect reads one line and holds it against a pattern.
func expect(t *testing.T, out *bufio.Scanner, pattern string) {
	t.Helper()
	if !out.Scan() {
		t.Fatalf("the output ended where %s was expected: %v", pattern, out.Err())
	}
	if !regexp.MustCompile(pattern).MatchString(out.Text()) {
		t.Fatalf("got the line %q, want %s", out.Text(), pattern)
	}
}
