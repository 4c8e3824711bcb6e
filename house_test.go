package fanfare_test

import (
	"bytes"
	"go/ast"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A skipped test proves nothing and looks green. The one good reason, a
// partner that is not installed, is in internal/partner, where CI=true turns it
// into a failure.
func TestNothingIsSkipped(t *testing.T) {
	for room, files := range rooms(t) {
		if room == "internal/partner" {
			continue
		}
		for name, file := range files {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				selector, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				on, ok := selector.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch selector.Sel.Name {
				case "Skip", "Skipf", "SkipNow":
					switch on.Name {
					case "t", "tb", "b", "f":
						t.Errorf("%s skips a test by %s.%s: look the program up through internal/partner, or let the test fail", name, on.Name, selector.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// What is committed must mean the same on every machine.
func TestNoMachineInTheTree(t *testing.T) {
	machine := []struct {
		hints []string // in small letters: one of them is in what matches
		*regexp.Regexp
	}{
		// A directory of somebody's own: nobody else has it.
		{[]string{"/work/", "/home/", "/root/", "/users/"}, regexp.MustCompile(`(^|[^\w.~/-])/(work|home|root|Users)/[\w.-]+`)},
		// The registry that somebody's tools were pointed at.
		{[]string{".org", "/repository", "/artifactory", "/goproxy", "/pypi", "/npm"}, regexp.MustCompile(`(?i)\b(proxy\.golang|sum\.golang|registry\.npmjs|files\.pythonhosted)\.org\b|\b(localhost|[a-z0-9.-]+):\d+/(repository|artifactory|goproxy|pypi|npm)\b`)},
	}
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v; this test reads what is committed and needs a git work tree", err)
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if !slices.Contains(names, "go.mod") {
		t.Fatal("git knows no go.mod here: this test must run at the module's top, in a clone")
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if bytes.IndexByte(content, 0) >= 0 {
			continue // an image, not a text
		}
		for i, line := range bytes.Split(content, []byte("\n")) {
			small := bytes.ToLower(line)
			for _, re := range machine {
				if !slices.ContainsFunc(re.hints, func(h string) bool { return bytes.Contains(small, []byte(h)) }) {
					continue
				}
				if found := re.Find(line); found != nil {
					t.Errorf("%s:%d names %q, which is on one machine only: use a relative path, t.TempDir or a setting", name, i+1, found)
				}
			}
		}
	}
}
