package fanfare_test

import (
	"bytes"
	"context"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/partner"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// TestPageInBrowser is alice and bob, each with a browser's tab, and one server
// behind a line that is cut at times. What the page does when the server itself
// misbehaves is tested in web.
func TestPageInBrowser(t *testing.T) {
	open := chromium(t)
	house := newReplaceable(t)
	line := newLine(t, house.Listener.Addr().String())
	alice := open(line.url + "/live/chat/general") // mounted under a prefix
	bob := open(line.url + "/chat/general")        // the same server, not under one

	// They name themselves; each tab keeps its own name though both share the browser's storage.
	for _, who := range []struct {
		tab  pageTab
		name string
	}{{alice, "alice"}, {bob, "bob"}} {
		who.tab.until(`document.querySelector('#state').className === 'open'`)
		who.tab.do(chromedp.Click(chromedp.CSS("#name")), chromedp.SetValue(chromedp.CSS("#new-name"), who.name),
			chromedp.Click(chromedp.CSS("#naming .solid")))
		who.tab.until(`document.querySelector('#name').textContent === '` + who.name + `'`)
		who.tab.until(`document.querySelector('#state').className === 'open'`)
	}

	alice.say("Hello 🎺")
	bob.shows("alice: Hello 🎺")
	bob.say("大家好")
	alice.shows("> alice: Hello 🎺", "bob: 大家好")
	bob.shows("alice: Hello 🎺", "> bob: 大家好")

	// What others write stays text.
	const evil, script = `<img src=x onerror="hacked=1">`, `<script>hacked=1</script>`
	house.publish(evil, script)
	house.publish("", `{"type":"chat","content":"<b>typed</b>"}`)
	alice.say(evil)
	bob.shows("alice: Hello 🎺", "> bob: 大家好", evil+": "+script, ": <b>typed</b>", "alice: "+evil)
	for _, tab := range []pageTab{alice, bob} {
		tab.until(`!window.hacked && !document.querySelector('main img, main script, main b')`)
	}

	// The line is cut. Bob misses messages, and alice writes one meanwhile.
	line.cut()
	for _, tab := range []pageTab{alice, bob} {
		tab.until(`document.querySelector('#state').className !== 'open'`)
	}
	for i := range 230 {
		house.publish("carol", strconv.Itoa(i))
	}
	alice.say("I am in a tunnel")
	alice.until(`document.querySelector('#outbox').textContent.includes('I am in a tunnel')`)
	line.mend()
	before := []string{"alice: Hello 🎺", "bob: 大家好", evil + ": " + script, "anonymous: <b>typed</b>", "alice: " + evil}
	for i := range 230 {
		before = append(before, "carol: "+strconv.Itoa(i))
	}
	alice.shows(asSeenBy("alice", append(before, "alice: I am in a tunnel"))...)
	bob.shows(asSeenBy("bob", append(before, "alice: I am in a tunnel"))...)

	// The server is replaced by one that knows nothing of the past: the page
	// keeps what it has, says what happened, and goes on.
	house.replace()
	bob.until(`document.querySelector('#rows').textContent.includes('no longer kept')`)
	bob.until(`document.querySelector('#state').className === 'open'`)
	bob.say("I am in a tunnel")
	bob.shows(append(asSeenBy("bob", append(before, "alice: I am in a tunnel")), "-- Some messages are no longer kept", "> bob: I am in a tunnel")...)

	bob.photograph()
}

// asSeenBy marks a reader's own rows.
func asSeenBy(name string, rows []string) []string {
	rows = slices.Clone(rows)
	for i, row := range rows {
		if strings.HasPrefix(row, name+": ") {
			rows[i] = "> " + row
		}
	}
	return rows
}

// replaceable is a Fanfare server that can be shut down and followed by
// another at the same address.
type replaceable struct {
	*httptest.Server
	t   *testing.T
	now atomic.Pointer[fanfare.Server]
}

func newReplaceable(t *testing.T) *replaceable {
	r := &replaceable{t: t}
	r.start()
	mux := http.NewServeMux()
	current := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.now.Load().ServeHTTP(w, req) })
	mux.Handle("/live/", http.StripPrefix("/live", current))
	mux.Handle("/", current)
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	t.Cleanup(r.stop)
	return r
}

func (r *replaceable) start() {
	srv, err := fanfare.New(fanfare.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.now.Store(srv)
}

func (r *replaceable) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.now.Load().Shutdown(ctx); err != nil {
		r.t.Errorf("shutting down: %v", err)
	}
}

func (r *replaceable) replace() {
	r.stop()
	r.start()
}

func (r *replaceable) publish(sender, text string) {
	r.t.Helper()
	_, err := r.now.Load().Publish(context.Background(), &fanfare.Message{Channel: "chat/general", Sender: sender, Payload: []byte(text)})
	if err != nil {
		r.t.Fatal(err)
	}
}

// line carries TCP connections to a server, until it is cut.
type line struct {
	url   string
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func newLine(t *testing.T, server string) *line {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{url: "http://" + listener.Addr().String(), conns: map[net.Conn]bool{}}
	var carriers sync.WaitGroup
	carriers.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			if !l.add(near, far) {
				continue
			}
			carriers.Go(func() { l.carry(near, far) })
			carriers.Go(func() { l.carry(far, near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.cut()
		carriers.Wait()
	})
	return l
}

// add takes a pair of connections, or closes both when the line is down.
func (l *line) add(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		near.Close()
		far.Close()
		return false
	}
	l.conns[near], l.conns[far] = true, true
	return true
}

func (l *line) carry(from, to net.Conn) {
	io.Copy(to, from)
	from.Close()
	to.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, from)
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		c.Close()
	}
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// pageTab is a browser's tab.
type pageTab struct {
	context.Context
	t *testing.T
}

// chromium starts a browser and returns a function that opens a page in a new tab.
func chromium(t *testing.T) func(url string) pageTab {
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(partner.Chromium(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal("Chromium does not start: ", err)
	}
	return func(url string) pageTab {
		ctx, cancel := chromedp.NewContext(ctx)
		t.Cleanup(cancel)
		tab := pageTab{ctx, t}
		tab.do(chromedp.Navigate(url))
		return tab
	}
}

func (p pageTab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// say types a text and sends it.
func (p pageTab) say(text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS("#text"), text), chromedp.Click(chromedp.CSS("#send")))
}

// until waits for a JavaScript condition.
func (p pageTab) until(condition string) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		met, err := chromedp.Run(p, chromedp.Evaluate[bool]("!!("+condition+")"))
		if met {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s (%v); the page shows\n%s", condition, err, strings.Join(p.rows(), "\n"))
		}
		p.do(chromedp.Sleep(10 * time.Millisecond))
	}
}

// rows returns what stands in the log without days and times: "alice: text",
// "> alice: text" for the reader's own, "-- text" for a divider.
func (p pageTab) rows() []string {
	p.t.Helper()
	rows, err := chromedp.Run(p, chromedp.Evaluate[[]string](`[...document.querySelectorAll('#rows > *')].slice(1).map(row =>
		row.className === 'rule' ? '-- ' + row.textContent
		: (row.classList.contains('mine') ? '> ' : '') + (row.querySelector('.who')?.textContent ?? '*') + ': ' + (row.querySelector('.text') ?? row).textContent)`))
	if err != nil {
		p.t.Fatal(err)
	}
	return rows
}

// shows waits until exactly these rows stand in the log.
func (p pageTab) shows(want ...string) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		got := p.rows()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the page shows\n%s\n\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		p.do(chromedp.Sleep(10 * time.Millisecond))
	}
}

// photograph looks at the page on a phone, by day and by night. The pictures go to
// $FANFARE_SCREENSHOTS if it is set.
func (p pageTab) photograph() {
	p.t.Helper()
	dir := os.Getenv("FANFARE_SCREENSHOTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	for _, scheme := range []string{"light", "dark"} {
		p.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch),
			chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				return err
			}))
		// The newest message stays in sight, nothing sticks out, and nothing
		// that one types into is smaller than 16 px, which iOS would zoom into.
		p.until(`innerWidth === 390 && document.documentElement.scrollWidth <= 390 &&
			document.querySelector('#composer').getBoundingClientRect().bottom <= innerHeight &&
			document.querySelector('#rows').lastChild.getBoundingClientRect().bottom <= document.querySelector('#composer').getBoundingClientRect().top &&
			[...document.querySelectorAll('#rows > *')].every(row => row.getBoundingClientRect().right <= 390) &&
			parseFloat(getComputedStyle(document.querySelector('#text')).fontSize) >= 16`)
		shot, err := chromedp.Run(p, chromedp.CaptureScreenshot())
		if err != nil {
			p.t.Fatal(err)
		}
		picture, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			p.t.Fatal(err)
		}
		// The ground beside the first row: light by day, dark by night.
		red, _, _, _ := picture.At(2, 200).RGBA()
		if light := red > 0x8000; light != (scheme == "light") {
			p.t.Errorf("in the %s scheme the page's ground has red %#x of 0xffff", scheme, red)
		}
		if err := os.WriteFile(filepath.Join(dir, "phone-"+scheme+".png"), shot, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

// A message that is too long for the server is not left in doubt.
func TestPageTooLong(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 100})
	alice := chromium(t)(s.url("/chat"))
	alice.until(`document.querySelector('#state').className === 'open'`)
	alice.say(strings.Repeat("long ", 40))
	alice.until(`document.querySelector('#outbox').textContent.includes('Too long: the server did not take it')`)
	alice.until(`document.querySelector('#state').className === 'open'`) // again
	alice.say("short")
	alice.shows("> anonymous: short")
	alice.until(`document.querySelector('#outbox').textContent.includes('Too long') && !document.querySelector('#outbox').textContent.includes('Send again')`)
}
