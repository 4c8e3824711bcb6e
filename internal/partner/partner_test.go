package partner

import (
	"os/exec"
	"strings"
	"testing"
)

func TestPython(t *testing.T) {
	out, err := exec.Command(Python(t), "-c", "import websockets; print(websockets.__name__)").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "websockets" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestNode(t *testing.T) {
	node, path := Node(t)
	cmd := exec.Command(node, "-p", `typeof require("ws").WebSocketServer`)
	cmd.Env = append(cmd.Environ(), "NODE_PATH="+path)
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "function" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestCurl(t *testing.T) {
	out, err := exec.Command(Curl(t), "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "curl ") {
		t.Fatalf("got %q, %v", out, err)
	}
}

// alone stands in for a test's TB and notes what absent calls first: a real
// one does not come back from it.
type alone struct {
	testing.TB
	calls []string
}

func (a *alone) Helper()      {}
func (a *alone) Fatal(...any) { a.calls = append(a.calls, "Fatal") }
func (a *alone) Skip(...any)  { a.calls = append(a.calls, "Skip") }

func TestAbsent(t *testing.T) {
	for ci, want := range map[string]string{"": "Skip", "true": "Fatal"} {
		t.Setenv("CI", ci)
		var a alone
		absent(&a, "Node with ws", "nodejs", exec.ErrNotFound)
		if len(a.calls) == 0 || a.calls[0] != want {
			t.Errorf("CI=%q: calls %q, want %s first", ci, a.calls, want)
		}
	}
}
