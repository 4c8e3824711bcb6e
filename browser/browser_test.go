package browser_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"fanfare/browser"
	"fanfare/internal/partner"
)

// TestNode runs the client's own tests, which play the server's end of its
// connections and hold it to the vectors of the protocol.
func TestNode(t *testing.T) {
	node, _ := partner.Node(t)
	out, err := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=tap", "fanfare.test.js").CombinedOutput()
	if err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "\n# pass 1") { // a hundred and some
		t.Errorf("few tests ran:\n%s", out)
	}
}

func ask(method string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, "/-/fanfare.js", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	browser.Serve(w, r)
	return w.Result()
}

func TestServe(t *testing.T) {
	source, err := os.ReadFile("fanfare.js")
	if err != nil {
		t.Fatal(err)
	}
	for accept, encoding := range map[string]string{
		"": "", "gzip": "gzip", "br, GZIP;q=0.5": "gzip", "deflate": "", "gzip;q=0": "", "gzip; q=0.000, br": "",
	} {
		got := ask("GET", "Accept-Encoding", accept)
		body, err := io.ReadAll(got.Body)
		if err != nil {
			t.Fatal(err)
		}
		for header, want := range map[string]string{
			"Content-Type":                 "text/javascript; charset=utf-8",
			"Content-Encoding":             encoding,
			"X-Content-Type-Options":       "nosniff",
			"Access-Control-Allow-Origin":  "*",
			"Cross-Origin-Resource-Policy": "cross-origin",
			"Cache-Control":                "no-cache",
			"Vary":                         "Accept-Encoding",
		} {
			if got.Header.Get(header) != want {
				t.Errorf("Accept-Encoding %q: %s is %q, want %q", accept, header, got.Header.Get(header), want)
			}
		}
		if encoding == "gzip" {
			// What a page pays for it.
			if len(body) >= 10_000 {
				t.Errorf("the module has %d bytes on the wire, and is to have fewer than 10,000", len(body))
			}
			t.Logf("%d bytes on the wire, of %d", len(body), len(source))
			r, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if got.StatusCode != http.StatusOK || !bytes.Equal(body, source) {
			t.Errorf("Accept-Encoding %q: %s, %d bytes, want the module's %d", accept, got.Status, len(body), len(source))
		}
		tag := got.Header.Get("ETag")
		if again := ask("GET", "Accept-Encoding", accept, "If-None-Match", tag); again.StatusCode != http.StatusNotModified || tag == "" {
			t.Errorf("asked again with the ETag %s: %s, want 304", tag, again.Status)
		}
		if head := ask("HEAD", "Accept-Encoding", accept); head.StatusCode != http.StatusOK || head.Header.Get("ETag") != tag {
			t.Errorf("HEAD: %s, ETag %s, want 200 and %s", head.Status, head.Header.Get("ETag"), tag)
		}
	}
	if ask("GET", "Accept-Encoding", "gzip").Header.Get("ETag") == ask("GET").Header.Get("ETag") {
		t.Error("the packed module and the other have one ETag")
	}
	if post := ask("POST"); post.StatusCode != http.StatusMethodNotAllowed || post.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %s, Allow %q", post.Status, post.Header.Get("Allow"))
	}
}

// The package for npm has what its package.json says, and nothing else.
func TestPackage(t *testing.T) {
	partner.Node(t) // who has it has npm
	out, err := exec.CommandContext(t.Context(), "npm", "pack", "--dry-run", "--json").Output()
	if err != nil {
		t.Fatalf("npm pack: %v", err)
	}
	for _, name := range []string{"fanfare.js", "fanfare.d.ts", "package.json", "README.md"} {
		if !bytes.Contains(out, []byte(`"path": "`+name+`"`)) {
			t.Errorf("%s is not in the package:\n%s", name, out)
		}
	}
	if n := bytes.Count(out, []byte(`"path": `)); n != 4 {
		t.Errorf("%d files are in the package, want 4:\n%s", n, out)
	}
}
