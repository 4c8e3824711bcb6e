// Package partner finds the other people's programs that our tests talk with:
// Python with websockets, Node with ws, Chromium, curl. ci/partners.sh installs them
// and looks in the same places.
//
// A partner that is not there skips the test that asked for it, which is the
// only reason in this tree to skip one; with CI=true it fails the test instead.
package partner

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Python returns a python3 that can import websockets (Debian's
// python3-websockets): the one in PATH, else /usr/bin/python3.
func Python(t testing.TB) string {
	t.Helper()
	path, err := python()
	if err != nil {
		absent(t, "Python with websockets", "python3-websockets", err)
	}
	return path
}

// Node returns a Node.js and the value for NODE_PATH under which
// require("ws") finds npm's ws in it, version 8 or later. NODE_PATH serves
// require only: ES modules do not look there.
func Node(t testing.TB) (node, nodePath string) {
	t.Helper()
	found, err := nodeWithWS()
	if err != nil {
		absent(t, "Node with ws", "nodejs and npm", err)
	}
	return found.node, found.path
}

// Chromium returns a Chromium or Chrome that runs headless.
func Chromium(t testing.TB) string {
	t.Helper()
	path, err := chromium()
	if err != nil {
		absent(t, "Chromium", "chromium", err)
	}
	return path
}

// Curl returns a curl.
func Curl(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		absent(t, "curl", "curl", err)
	}
	return path
}

func absent(t testing.TB, partner, packages string, err error) {
	t.Helper()
	message := fmt.Sprintf("%s is missing, so this test cannot run: %v; install %s and run ci/partners.sh", partner, err, packages)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	t.Skip(message)
}

var python = sync.OnceValues(func() (string, error) {
	var last error
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = try(path, nil, "-c", "import websockets")
		}
		if err == nil {
			return path, nil
		}
		last = err
	}
	return "", last
})

type nodePair struct{ node, path string }

var nodeWithWS = sync.OnceValues(func() (nodePair, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nodePair{}, err
	}
	root, err := moduleRoot()
	if err != nil {
		return nodePair{}, err
	}
	path := filepath.Join(root, "node_modules")
	if outer := os.Getenv("NODE_PATH"); outer != "" {
		path = outer + string(filepath.ListSeparator) + path
	}
	// WebSocketServer is the name that the server has from version 8 on.
	err = try(node, []string{"NODE_PATH=" + path}, "-e", `require("ws").WebSocketServer || process.exit(1)`)
	return nodePair{node, path}, err
})

var chromium = sync.OnceValues(func() (string, error) {
	var last error
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		path, err := exec.LookPath(name)
		if err == nil {
			return path, nil
		}
		last = err
	}
	return "", last
})

// try runs a short program to its end; the error carries the last line it said.
func try(path string, env []string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(string(out))
	return fmt.Errorf("%s: %w: %s", path, err, said[strings.LastIndexByte(said, '\n')+1:])
}

// moduleRoot walks up from the working directory, which for a test is its
// package's directory, to the one with go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}
