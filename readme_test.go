package fanfare_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/chromiumtest"
	"fanfare/internal/partner"

	"github.com/chromedp/chromedp"
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

// What the README shows of fanfare.v1 is typed, line by line, into the real
// program, and must be answered as it says there, but for sessions, times and the
// epoch of positions.
func TestReadmeTranscript(t *testing.T) {
	url, _ := readmeServer(t)
	transcript := strings.Split(strings.TrimSpace(readmeBlock(t, "console", url)), "\n")
	command, ok := strings.CutPrefix(transcript[0], "$ fanfare ")
	if !ok {
		t.Fatalf("the transcript begins with %s", transcript[0])
	}
	cmd, in, out := run(t, goBuild(t, "./cmd/fanfare"), nil, strings.Fields(command)...)
	epoch := regexp.MustCompile(`"(\d+)-`)
	var its, ours string // what positions begin with in the README, and here
	for rest := transcript[1:]; len(rest) > 0; {
		if typed, ok := strings.CutPrefix(rest[0], "> "); ok {
			if _, err := io.WriteString(in, strings.ReplaceAll(typed, its, ours)+"\n"); err != nil {
				t.Fatal(err)
			}
			rest = rest[1:]
		}
		// What comes until the next line is typed may come in another order.
		var want, got []string
		for len(rest) > 0 && strings.HasPrefix(rest[0], "< ") {
			if !out.Scan() {
				t.Fatalf("the output ended where this was expected: %s\n%v", rest[0], out.Err())
			}
			if its == "" {
				its, ours = epoch.FindString(rest[0]), epoch.FindString(out.Text())
			}
			want = append(want, anybodys(strings.TrimPrefix(rest[0], "< ")))
			got = append(got, anybodys(strings.ReplaceAll(out.Text(), ours, its)))
			rest = rest[1:]
		}
		if len(want) == 0 {
			t.Fatalf("nothing is said to come before %q", rest)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Fatalf("what came was\n%s\nand the README says\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	in.Close()
	if out.Scan() {
		t.Errorf("this came too, of which the README knows nothing:\n%s", out.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// anybodys replaces what is another in each session.
func anybodys(line string) string {
	line = regexp.MustCompile(`"session":"[^"]*"`).ReplaceAllString(line, `"session":"…"`)
	return regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`).ReplaceAllString(line, `"time"`)
}

// The README's Go client is a parrot.
func TestReadmeGoClient(t *testing.T) {
	url, srv := readmeServer(t)
	body, ok := strings.CutPrefix(readmeBlocks(t, "README.md", "go", url)[0], "c, err := client.Dial")
	if !ok {
		t.Fatal("the README's first block of Go is not the client")
	}
	main := filepath.Join(t.TempDir(), "main.go")
	program := `package main

import (
	"context"
	"fmt"

	"fanfare/client"
)

func main() { fmt.Println(talk(context.Background())) }

func talk(ctx context.Context) error {
	c, err := client.Dial` + body + "}\n"
	if err := os.WriteFile(main, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	parrot, _, _ := run(t, goBuild(t, main), nil)
	defer parrot.Wait()
	defer parrot.Process.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sub, err := srv.Subscribe(ctx, "chat/birds", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for heard := ""; heard != "You said: Hello"; {
		// A parrot that is not there yet hears nothing: it is greeted until it answers.
		if _, err := srv.Publish(ctx, &fanfare.Message{Channel: "chat/birds", Payload: []byte("Hello")}); err != nil {
			t.Fatal(err)
		}
		soon, done := context.WithTimeout(ctx, 100*time.Millisecond)
		for m, err := sub.Next(soon); err == nil; m, err = sub.Next(soon) {
			if heard = string(m.Payload); m.Sender == "parrot" {
				break
			}
		}
		done()
		if ctx.Err() != nil {
			t.Fatal("the parrot is silent")
		}
	}
}

// The README's server mounts Fanfare below /live/; it has a port of its own, so
// that it is only looked at here.
func TestReadmeGoServer(t *testing.T) {
	main := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(main, []byte(readmeBlocks(t, "README.md", "go", "")[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", main).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// The README's page publishes.
func TestReadmePage(t *testing.T) {
	url, srv := readmeServer(t)
	page := readmeBlock(t, "html", url)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			srv.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	}))
	defer site.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sub, err := srv.Subscribe(ctx, "chat/general", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	tab := chromiumtest.Start(t)(t, site.URL)
	if m, err := sub.Next(ctx); err != nil || string(m.Payload) != `{"type":"chat","content":"Hello"}` {
		t.Errorf("%+v, %v", m, err)
	}
	tab.Do(chromedp.Navigate("about:blank")) // so that it is gone before the server is
}

// The chat of the browser's README is served from another origin, as it says.
func TestReadmeChat(t *testing.T) {
	host, _ := readmeServer(t, "127.0.0.1:*")
	page := readmeBlocks(t, "browser/README.md", "html", host)[1]
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	}))
	defer site.Close()
	open := chromiumtest.Start(t)
	says := func(tab chromiumtest.Tab, words string) {
		tab.Do(chromedp.SendKeys(chromedp.CSS("#text"), words+"\r"))
	}
	alice := open(t, site.URL+"/chat.html?name=alice")
	bob := open(t, site.URL+"/chat.html?name=bob")
	alice.Until(`people.textContent === 'Here: alice, bob'`)
	says(alice, "Hello")
	bob.Until(`said.innerText === 'alice: Hello'`)
	says(bob, "Hi")
	alice.Do(chromedp.Reload())
	alice.Until(`said.innerText === 'alice: Hello\nbob: Hi' && people.textContent === 'Here: bob, alice'`)
	bob.Do(chromedp.Navigate("about:blank"))
	alice.Until(`people.textContent === 'Here: alice'`)
	alice.Do(chromedp.Navigate("about:blank")) // so that it is gone before the server is
}

// goBuild compiles a program.
func goBuild(t *testing.T, source string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", source, err, out)
	}
	return program
}

// readmeServer starts a server that lets pages of these origins in, and returns its host and port.
func readmeServer(t *testing.T, origins ...string) (string, *fanfare.Server) {
	t.Helper()
	srv, err := fanfare.New(fanfare.Config{Origins: origins})
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
	blocks := readmeBlocks(t, "README.md", language, host)
	if len(blocks) != 1 {
		t.Fatalf("README.md has %d blocks of %s, not one", len(blocks), language)
	}
	return blocks[0]
}

// readmeBlocks returns all of them in a file, of which there are some.
func readmeBlocks(t *testing.T, file, language, host string) (blocks []string) {
	t.Helper()
	readme, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```\n").FindAllSubmatch(readme, -1) {
		blocks = append(blocks, strings.ReplaceAll(string(found[1]), "localhost:8765", host))
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no block of %s", file, language)
	}
	return blocks
}

// start runs a script from a file, with pipes for its input and its output.
func start(t *testing.T, program string, env []string, script, name string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return run(t, program, append(env, "PYTHONUNBUFFERED=1", "PYTHONUTF8=1"), file)
}

// run runs a program, with pipes for its input and its output.
func run(t *testing.T, program string, env []string, args ...string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(cmd.Environ(), env...)
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
	t.Cleanup(func() { // of a test that ended before it waited
		cancel()
		_ = cmd.Wait()
	})
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
