package fanfare_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// house is the arrow of imports: which of our rooms a room may import, and
// which modules from outside. Test files may import more. A new package gets
// its line here first; "." is the package fanfare itself.
var house = map[string]struct{ ours, outside string }{
	"internal/frame":       {"", ""},
	"internal/limit":       {"", "golang.org/x/time"},
	"internal/deflate":     {"internal/frame", "github.com/klauspost/compress"},
	"internal/handshake":   {"", ""},
	"internal/netend":      {"", ""},
	"internal/tally":       {"", ""},
	"internal/transport":   {"internal/tally", ""},
	"internal/stream":      {"internal/netend internal/transport", ""},
	"internal/reactor":     {"internal/netend internal/tally internal/transport", "golang.org/x/sys"},
	"internal/descriptors": {"internal/netend", "golang.org/x/sys"},
	"broker":               {"", ""},
	"broker/brokertest":    {"broker", ""},
	"internal/feed":        {"broker", ""},
	"protocol":             {"broker", ""},
	"auth":                 {"broker", "github.com/MicahParks/jwkset github.com/golang-jwt/jwt golang.org/x/time"},
	"browser":              {"", ""},
	"web":                  {"", ""},

	"internal/transport/transporttest": {"internal/transport", ""},
	"internal/chromiumtest":            {"internal/partner", "github.com/chromedp/chromedp"},

	".": {"auth broker browser internal/deflate internal/descriptors internal/feed internal/frame internal/handshake internal/limit internal/netend internal/reactor internal/stream internal/tally internal/transport protocol web", "github.com/prometheus/client_golang"},

	"client":            {"broker protocol websocket", ""},
	"websocket":         {"internal/deflate internal/frame internal/handshake internal/netend", "golang.org/x/net"},
	"internal/terminal": {"", "charm.land/bubbletea/v2 charm.land/bubbles/v2 charm.land/lipgloss/v2 github.com/charmbracelet/x/ansi"},

	"internal/loadgen": {"internal/deflate internal/frame internal/handshake", "github.com/HdrHistogram/hdrhistogram-go"},

	"cmd/fanfare":         {". auth broker client protocol websocket internal/descriptors internal/handshake internal/loadgen internal/terminal", "github.com/goccy/go-yaml github.com/pires/go-proxyproto github.com/spf13/cobra github.com/spf13/pflag golang.org/x/crypto golang.org/x/sys golang.org/x/term"},
	"examples/auth":       {". auth", ""},
	"examples/bot":        {"client", ""},
	"examples/curl":       {"", ""}, // a test only
	"examples/embed":      {".", ""},
	"examples/page":       {".", ""},
	"examples/python":     {"", ""}, // a test only
	"fanfaretest":         {". auth", ""},
	"internal/echoserver": {"websocket", ""},
	"internal/echoclient": {"websocket", ""},
	"internal/partner":    {"", ""},
	"internal/mounts":     {"", ""}, // tests only, and a module of its own, for what they import
	"internal/acmetest":   {"", ""}, // tests only, and a module of its own, for what they import

	// Also a module of its own: what Fanfare is measured beside.
	"bench/measure":       {"", ""},
	"bench/peers/coder":   {"", "github.com/coder/websocket"},
	"bench/peers/gorilla": {"", "github.com/gorilla/websocket"},
	"bench/peers/gws":     {"", "github.com/lxzan/gws"},
}

func TestImports(t *testing.T) {
	for room, files := range rooms(t) {
		may, known := house[room]
		if !known {
			t.Errorf("package %s has no line in the table of imports_test.go: add one that says what it may import", room)
			continue
		}
		ours, outside := strings.Fields(may.ours), strings.Fields(may.outside)
		used := make(map[string]bool)
		for name, file := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, spec := range file.Imports {
				imported, _ := strconv.Unquote(spec.Path.Value)
				switch first, _, _ := strings.Cut(imported, "/"); {
				case first == "fanfare":
					neighbour := "." + strings.TrimPrefix(imported, "fanfare")
					neighbour = path.Clean(neighbour)
					used[neighbour] = true
					if !slices.Contains(ours, neighbour) {
						t.Errorf("%s imports our %s, and imports_test.go allows it only: %s", name, neighbour, list(ours))
					}
				case strings.Contains(first, "."):
					for _, module := range outside {
						used[module] = used[module] || within(imported, module)
					}
					if !slices.ContainsFunc(outside, func(module string) bool { return within(imported, module) }) {
						t.Errorf("%s imports %s, and imports_test.go allows from outside only: %s", name, imported, list(outside))
					}
				}
			}
		}
		for _, permission := range append(ours, outside...) {
			if !used[permission] {
				t.Errorf("imports_test.go lets %s import %s, which it does not: take the permission back", room, permission)
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for room, files := range rooms(t) {
		code, said := false, false
		for name, file := range files {
			if !strings.HasSuffix(name, "_test.go") {
				code, said = true, said || file.Doc.Text() != ""
			}
		}
		if code && !said {
			t.Errorf("package %s has no package comment: say what it is for, in a sentence or a page", room)
		}
	}
}

// rooms parses every Go file of the module, whatever its build tags, by the
// directory it lies in ("." for the top) and its path from the top.
func rooms(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	found := map[string]map[string]*ast.File{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if name != "." && (base == "testdata" || base == "node_modules" || base[0] == '.' || base[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(filepath.Dir(name))
		if found[room] == nil {
			found[room] = map[string]*ast.File{}
		}
		found[room][filepath.ToSlash(name)] = file
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found["internal/frame"] == nil {
		dir, _ := os.Getwd()
		t.Fatalf("internal/frame is not under %s: this test must run at the module's top", dir)
	}
	return found
}

// within reports whether a package belongs to a module, or is below a path.
func within(pkg, module string) bool {
	return pkg == module || strings.HasPrefix(pkg, module+"/")
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
