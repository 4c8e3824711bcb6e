package web_test

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/internal/chromiumtest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// A house is a Fanfare server, at / and below /live, behind a line that can be
// cut. It can be replaced by one that knows nothing of the past.
type house struct {
	t      *testing.T
	cfg    fanfare.Config
	line   *chromiumtest.Line
	now    atomic.Pointer[fanfare.Server]
	closed atomic.Bool // to everyone, and says why
}

func newHouse(t *testing.T, cfg fanfare.Config) *house {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	h := &house{t: t, cfg: cfg}
	h.start()
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", h))
	mux.Handle("/", h)
	site := httptest.NewServer(mux)
	t.Cleanup(site.Close)
	t.Cleanup(h.stop)
	h.line = chromiumtest.NewLine(t, site.Listener.Addr().String())
	return h
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.closed.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, `{"error":{"code":"closed","message":"the hall is closed until noon"}}`)
		return
	}
	h.now.Load().ServeHTTP(w, r)
}

func (h *house) start() {
	srv, err := fanfare.New(h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.now.Store(srv)
}

func (h *house) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.now.Load().Shutdown(ctx); err != nil {
		h.t.Errorf("shutting down: %v", err)
	}
}

func (h *house) replace() {
	h.stop()
	h.start()
}

// say publishes.
func (h *house) say(channel, sender, text string) {
	h.t.Helper()
	if _, err := h.now.Load().Publish(context.Background(), &fanfare.Message{Channel: channel, Sender: sender, Payload: []byte(text)}); err != nil {
		h.t.Fatal(err)
	}
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

const away = `document.querySelector('#state').className !== 'open'`

func TestPage(t *testing.T) {
	open := chromiumtest.Start(t)

	// Alice and Bob, each with a tab, and one server.
	t.Run("a conversation", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		alice := open(t, h.line.URL+"/live/chat/general") // mounted under a prefix
		bob := open(t, h.line.URL+"/chat/general")        // the same server, not under one

		// They name themselves; each tab keeps its own name though both share the browser's storage.
		for _, who := range []struct {
			tab  chromiumtest.Tab
			name string
		}{{alice, "alice"}, {bob, "bob"}} {
			who.tab.Online()
			who.tab.Do(chromedp.Click(chromedp.CSS("#name")), chromedp.SetValue(chromedp.CSS("#new-name"), who.name),
				chromedp.Click(chromedp.CSS("#naming .solid")))
			who.tab.Until(`document.querySelector('#name').textContent === '` + who.name + `'`)
			who.tab.Online()
		}
		alice.Until(`document.querySelector('#here span').textContent === '2 here'`)

		alice.Say("Hello 🎺")
		bob.Shows("alice: Hello 🎺")
		bob.Say("大家好")
		alice.Shows("> alice: Hello 🎺", "bob: 大家好")
		bob.Shows("alice: Hello 🎺", "> bob: 大家好")

		// What others write stays text.
		const evil, script = `<img src=x onerror="hacked=1">`, `<script>hacked=1</script>`
		h.say("chat/general", evil, script)
		h.say("chat/general", "", `{"type":"chat","content":"<b>typed</b>"}`)
		alice.Say(evil)
		before := []string{"alice: Hello 🎺", "bob: 大家好", evil + ": " + script, "anonymous: <b>typed</b>", "alice: " + evil}
		for name, tab := range map[string]chromiumtest.Tab{"alice": alice, "bob": bob} {
			tab.Shows(asSeenBy(name, before)...)
			tab.Until(`!window.hacked && !document.querySelector('main img, main script, main b')`)
		}

		// The line is cut. Bob misses messages, and alice writes one meanwhile.
		h.line.Cut()
		alice.Until(away)
		bob.Until(away + ` && document.querySelector('#here').hidden`)
		for i := range 230 {
			h.say("chat/general", "carol", strconv.Itoa(i))
			before = append(before, "carol: "+strconv.Itoa(i))
		}
		alice.Say("I am in a tunnel")
		alice.Until(`document.querySelector('#outbox').textContent.includes('I am in a tunnel') && document.querySelector('#outbox').textContent.includes('Waits for the connection')`)
		h.line.Mend()
		before = append(before, "alice: I am in a tunnel")
		alice.Shows(asSeenBy("alice", before)...)
		bob.Shows(asSeenBy("bob", before)...)
		alice.Until(`!document.querySelector('#outbox').childElementCount`)

		// The server is replaced by one that knows nothing of the past: the page
		// keeps what it has, says what happened, and goes on.
		h.replace()
		bob.Until(`document.querySelector('#rows').textContent.includes('no longer kept')`)
		bob.Online()
		bob.Say("I am in a tunnel")
		bob.Shows(append(asSeenBy("bob", before), "-- Some messages are no longer kept", "> bob: I am in a tunnel")...)

		photograph(t, bob)
	})

	t.Run("history shorter than the absence", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{History: 5})
		b := open(t, h.line.URL+"/chat?name=alice")
		b.Online()
		h.say("chat", "bob", "a")
		b.Shows("bob: a")
		h.line.Cut()
		b.Until(away)
		want := []string{"bob: a", "-- Some messages are no longer kept"}
		for i := range 20 {
			h.say("chat", "bob", strconv.Itoa(i))
			if i >= 15 {
				want = append(want, "bob: "+strconv.Itoa(i))
			}
		}
		h.line.Mend()
		b.Until(`document.querySelector('#rows').textContent.includes('19')`)
		// How many are missing is said where it is known.
		rows := b.Rows()
		if len(rows) > 1 && strings.HasSuffix(rows[1], "messages are no longer kept") {
			rows[1] = want[1]
		}
		if !slices.Equal(rows, want) {
			t.Errorf("the page shows\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
		}
	})

	t.Run("refreshed while a message waits", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		b := open(t, h.line.URL+"/chat?name=alice")
		b.Online()
		b.Say("first")
		b.Shows("> alice: first")
		// The page comes back, the connection does not: the page's own files are read again over a connection that is there.
		b.Run(`(Real => { window.WebSocket = class { constructor() { this.readyState = 3; setTimeout(() => this.onclose?.({ code: 1006, reason: '' })) } close() { } } })()`)
		h.line.Cut()
		h.line.Mend()
		b.Until(away)
		b.Say("second")
		b.Say("third")
		b.Until(`document.querySelectorAll('#outbox .fate').length === 2`)
		// The browser asks whether to leave what is not sent; yes.
		dialogs := chromedp.Events(b, page.JavascriptDialogOpening)
		go func() {
			for _, err := range dialogs {
				if err != nil {
					return
				}
				_, _ = chromedp.Call(b, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
			}
		}()
		b.Do(chromedp.Reload())
		b.Shows("> alice: first", "> alice: second", "> alice: third")
		b.Until(`!document.querySelector('#outbox').childElementCount`)
	})

	t.Run("too long, and discarded", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{MaxMessage: 100})
		b := open(t, h.line.URL+"/chat")
		b.Online()
		b.Say(strings.Repeat("long ", 40))
		b.Until(`document.querySelector('#outbox').textContent.includes('Not sent: the message has')`)
		b.Say("short")
		b.Shows("> anonymous: short")
		b.Do(chromedp.Click(chromedp.CSS("#outbox .fate button")))
		b.Until(`!document.querySelector('#outbox').childElementCount`)
		h.line.Cut()
		b.Until(away)
		b.Say("on second thought")
		b.Do(chromedp.Click(chromedp.CSS("#outbox .fate button")))
		b.Until(`!document.querySelector('#outbox').childElementCount`)
		h.line.Mend()
		b.Online()
		b.Say("this")
		b.Shows("> anonymous: short", "> anonymous: this")
	})

	t.Run("what is said is shown as it was meant", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		b := open(t, h.line.URL+"/chat?name=alice")
		b.Online()
		if _, err := h.now.Load().Publish(context.Background(), &fanfare.Message{Channel: "chat", Sender: "bob", Payload: []byte{1, 2, 3}, Binary: true}); err != nil {
			t.Fatal(err)
		}
		h.say("chat", "bob", `{"price":1}`)
		h.say("chat", "", `"[quoted]"`)
		for _, text := range []string{`{"type":"chat","content":"typed"}`, `42`, `007`, `1.0`, `"42"`, `null`, `[1, 2]`} {
			b.Say(text)
		}
		b.Shows("bob: binary, 3 bytes", `bob: {"price":1}`, `anonymous: [quoted]`,
			"> alice: typed", "> alice: 42", "> alice: 007", "> alice: 1.0", "> alice: 42", "> alice: null", "> alice: [1,2]")
	})

	t.Run("nothing is HTML", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		const evil, script, channel = `<img src=x onerror="window.hacked=1">`, `<script>window.hacked=1</script>`, `<script>window.hacked=1<`
		h.say(channel+"/script>", evil, evil+script)
		h.say(channel+"/script>", "bob", `{"type":"<i>x</i>","price":1}`)
		b := open(t, h.line.URL+"/%3Cscript%3Ewindow.hacked=1%3C%2Fscript%3E?name=%3Cb%3Ealice")
		b.Online()
		h.say(channel+"/script>", evil, script)
		b.Say("<b>mine</b>")
		b.Shows(evil+": "+evil+script, `bob: {"type":"<i>x</i>","price":1}`, evil+": "+script, "> <b>alice: <b>mine</b>")
		b.Do(chromedp.Click(chromedp.CSS("#here")))
		b.Until(`document.querySelector('#members').textContent === '<b>aliceyou'`)
		b.Until(`!window.hacked && document.querySelector('#title').textContent === '<script>window.hacked=1</script>' &&
			document.title === '<script>window.hacked=1</script> · Fanfare' && !document.querySelector('main img, main script, main b, main i, header script, #people b')`)
	})

	t.Run("who is here", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		alice := open(t, h.line.URL+"/chat?name=alice")
		alice.Online()
		alice.Until(`document.querySelector('#here span').textContent === '1 here'`)
		// Who comes right after alice was there before her, perhaps; but that was a minute ago.
		alice.Run(`Date.now = (now => () => now() + 60_000)(Date.now); 0`)
		bob := open(t, h.line.URL+"/chat?name=bob")
		bob.Online()
		alice.Until(`document.querySelector('#here span').textContent === '2 here' && document.querySelector('#hush').textContent === 'bob joined'`)
		alice.Do(chromedp.Click(chromedp.CSS("#here")))
		alice.Until(`[...document.querySelectorAll('#members bdi')].map(b => b.textContent).sort().join() === 'alice,bob'`)
		bob.Run(`location.href = '/other'`)
		alice.Until(`document.querySelector('#here span').textContent === '1 here' && document.querySelectorAll('#members li').length === 1`)
		alice.Until(`document.querySelector('#hush').textContent === 'bob left'`)
	})

	t.Run("a pattern's page", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		h.say("chat/general", "bob", "hello")
		h.say("chat/a/b", "", "deep")
		h.say("other", "bob", "elsewhere")
		b := open(t, h.line.URL+"/live/chat/**?name=bob")
		b.Online()
		h.say("chat/a/b", "bob", "live")
		b.Shows("bob in chat/general: hello", "anonymous in chat/a/b: deep", "bob in chat/a/b: live")
		b.Until(`document.querySelector('#composer').hidden && !document.querySelector('#reading').hidden && document.querySelector('#here').hidden`)
		b.Do(chromedp.Click(chromedp.CSS("#rows .who a")))
		b.Until(`location.pathname === '/live/chat/general' && document.querySelector('#title').textContent === 'chat/general'`)
		b.Shows("bob: hello")
		for wrong, why := range map[string]string{"a/b*": "stands alone", "**/a": "stands alone", "-/x": "the first is not", "a//b": "one or more words"} {
			b.Run(fmt.Sprintf(`document.querySelector('#other').value = %q; document.querySelector('#go').requestSubmit(); 0`, wrong))
			b.Until(`document.querySelector('#go-wrong').textContent.includes('` + why + `')`)
		}
		b.Run(`document.querySelector('#other').value = 'chat/*'; document.querySelector('#go').requestSubmit(); 0`)
		b.Until(`location.pathname === '/live/chat/*'`)
		b.Shows("bob in chat/general: hello")
	})

	t.Run("a flood", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{History: 10000})
		b := open(t, h.line.URL+"/chat?name=alice")
		b.Online()
		for i := range 4500 {
			h.say("chat", "bob", strconv.Itoa(i))
		}
		b.Until(`document.querySelector('#rows').lastChild?.querySelector('.text').textContent === '4499'`)
		h.line.Cut()
		b.Until(away)
		h.say("chat", "bob", "after")
		h.line.Mend()
		b.Until(`document.querySelector('#rows').lastChild.querySelector('.text').textContent === 'after'`)
		rows := b.Rows()
		if len(rows) < 1990 || len(rows) > 2000 {
			t.Errorf("%d rows, want the newest 2,000 at most", len(rows))
		}
		for i := 1; i < len(rows)-1; i++ {
			if want := fmt.Sprintf("bob: %d", 4500-i); rows[len(rows)-1-i] != want {
				t.Fatalf("row %d from the end is %q, want %q", i, rows[len(rows)-1-i], want)
			}
		}
	})

	t.Run("reading further up", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		for i := range 100 {
			h.say("chat", "bob", strconv.Itoa(i))
		}
		b := open(t, h.line.URL+"/chat?name=alice")
		b.Online()
		const distance = `(log => log.scrollHeight - log.clientHeight - log.scrollTop)(document.querySelector('#log'))`
		b.Until(`document.querySelector('#rows').childElementCount > 100 && ` + distance + ` < 2 && document.querySelector('#newest').hidden`)
		// Again and again: the page does not believe what scrolls right after its window got its size.
		b.Until(`(document.querySelector('#log').scrollTop = 50, !document.querySelector('#newest').hidden)`)
		h.say("chat", "bob", "news")
		b.Until(`document.querySelector('#newest').textContent === '↓ 1 new message' && document.querySelector('#log').scrollTop === 50`)
		b.Do(chromedp.Click(chromedp.CSS("#newest")))
		b.Until(distance + ` < 2 && document.querySelector('#newest').hidden`)
	})

	t.Run("closed, and open again", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		h.say("chat", "bob", "hello")
		b := open(t, h.line.URL+"/chat?name=alice&since=0")
		b.Shows("bob: hello")
		b.Online()
		h.closed.Store(true)
		h.line.Cut()
		h.line.Mend()
		b.Until(`document.querySelector('#why').textContent === 'The server answers 503: the hall is closed until noon.'`)
		h.closed.Store(false)
		b.Run(`document.querySelector('#now').click()`) // it may have come back by itself just now, and hidden it
		b.Online()
		b.Until(`document.querySelector('#trouble').hidden`)
		h.say("chat", "bob", "still there")
		b.Shows("bob: hello", "bob: still there")
	})

	t.Run("names and commands", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		b := open(t, h.line.URL+"/it's;$(x)%20here?name=%20a%09"+strings.Repeat("ü", 100))
		b.Online()
		b.Say("who am I")
		// The name is without control characters and 64 characters long.
		b.Shows("> a " + strings.Repeat("ü", 62) + ": who am I")
		// What is copied into a shell is one word for it.
		b.Until(`document.querySelector('[data-command=say] code').textContent === "curl -d Hello '" + location.origin + "/it%27s;$(x)%20here'"`)
		b.Until(`document.querySelector('[data-command=connect] code').textContent.startsWith("fanfare connect 'ws://")`)
	})

	t.Run("another channel under a prefix", func(t *testing.T) {
		h := newHouse(t, fanfare.Config{})
		b := open(t, h.line.URL+"/live/")
		b.Until(`document.querySelector('#title').textContent === 'lobby'`)
		b.Online()
		b.Do(chromedp.Click(chromedp.CSS("#about")), chromedp.SendKeys(chromedp.CSS("#other"), "chat/größe & co?\r"))
		b.Until(`document.querySelector('#title').textContent === 'chat/größe & co?' && location.pathname.startsWith('/live/chat/gr')`)
		b.Online()
		b.Until(`document.querySelector('#recent a').pathname === '/live/'`)
	})
}

// A server that asks who one is: the page asks for a token, and says what is wrong
// with one. It is in no URL, and gone after signing out.
func TestSignIn(t *testing.T) {
	open := chromiumtest.Start(t)
	tokens := auth.Func(func(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
		if c.Request != nil && strings.Contains(c.Request.URL.String(), "letmein") {
			t.Error("a token in a URL")
		}
		switch c.Token {
		case "":
			return nil, nil
		case "letmein/alice=": // no header takes this one
			return &auth.Identity{Subject: "alice"}, nil
		case "letmein-bob":
			return &auth.Identity{Subject: "bob", Allow: map[auth.Right][]string{auth.Subscribe: {"chat"}, auth.Publish: nil, auth.History: nil, auth.Presence: nil}}, nil
		}
		return nil, &auth.Error{Code: "bad_token", Message: "this token opens nothing here"}
	})
	rules := append(auth.Rules{{Channels: []string{"news"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Subscribe}}}, auth.Default...)
	for name, rules := range map[string]auth.Rules{"nothing is open": nil, "something is open": rules} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: tokens, Rules: rules}})
			h.say("chat", "carol", "hello")
			b := open(t, h.line.URL+"/chat")
			enter := func(token string) {
				b.Until(`!document.querySelector('#sign').hidden && document.querySelector('#composer').hidden && document.querySelector('#trouble').hidden`)
				b.Do(chromedp.SendKeys(chromedp.CSS("#token"), token+"\r"))
			}
			const wrong = `!document.querySelector('#denied').hidden && document.querySelector('#denied').textContent`
			b.Until(`!document.querySelector('#sign').hidden && document.querySelector('#denied').hidden && document.querySelector('#state').textContent === 'Not signed in'`)
			photographSigning(t, b, "phone-signin")
			enter("letmein-forged")
			b.Until(wrong + ` === 'This token opens nothing here.'`)
			photographSigning(t, b, "phone-denied")
			enter("letmein/alice=")
			b.Online()
			b.Shows("carol: hello")
			b.Say("it is me")
			b.Shows("carol: hello", "> alice: it is me")
			b.Until(`document.querySelector('#name').textContent === 'alice' && !location.href.includes('letmein') && document.querySelector('#here').textContent.trim() === '1 here'`)
			b.Run(`location.reload()`)
			b.Online()
			b.Shows("carol: hello", "> alice: it is me")
			if n, err := h.now.Load().Revoke(t.Context(), fanfare.Revocation{Subject: "alice"}); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			b.Until(wrong)
			enter("letmein-bob") // who may hear what is new, and nothing else
			b.Online()
			const past = "-- Some messages are not yours to read" // this tab was further back
			b.Shows(past)
			h.say("chat", "carol", "still here")
			b.Shows(past, "carol: still here")
			b.Do(chromedp.Click(chromedp.CSS("#name")), chromedp.Click(chromedp.CSS("#leave")))
			b.Until(`!document.querySelector('#sign').hidden && document.querySelector('#denied').hidden`)

			b = open(t, h.line.URL+"/chat?name=x&token=letmein-bob")
			b.Online()
			b.Until(`location.search === '?name=x'`)
		})
	}
}

// photographSigning looks at the page that asks for a token, on a phone, by day and by night.
func photographSigning(t *testing.T, tab chromiumtest.Tab, name string) {
	t.Helper()
	dir := os.Getenv("FANFARE_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for _, scheme := range []string{"light", "dark"} {
		tab.Do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch),
			chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				return err
			}))
		tab.Until(`innerWidth === 390 && document.documentElement.scrollWidth <= 390 &&
			[...document.querySelectorAll('#sign *')].every(node => node.getBoundingClientRect().right <= 390) &&
			parseFloat(getComputedStyle(document.querySelector('#token')).fontSize) >= 16`)
		shot, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+"-"+scheme+".png"), shot, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// photograph looks at the page on a phone, by day and by night. The pictures go to
// $FANFARE_SCREENSHOTS if it is set.
func photograph(t *testing.T, tab chromiumtest.Tab) {
	t.Helper()
	dir := os.Getenv("FANFARE_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for _, scheme := range []string{"light", "dark"} {
		tab.Do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch),
			chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
				})
				return err
			}))
		// The newest message stays in sight, nothing sticks out, and nothing
		// that one types into is smaller than 16 px, which iOS would zoom into.
		tab.Until(`innerWidth === 390 && document.documentElement.scrollWidth <= 390 &&
			document.querySelector('#composer').getBoundingClientRect().bottom <= innerHeight &&
			document.querySelector('#rows').lastChild.getBoundingClientRect().bottom <= document.querySelector('#composer').getBoundingClientRect().top &&
			[...document.querySelectorAll('#rows > *, header > *')].every(row => row.getBoundingClientRect().right <= 390) &&
			parseFloat(getComputedStyle(document.querySelector('#text')).fontSize) >= 16`)
		shot, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			t.Fatal(err)
		}
		// The ground beside the first row: light by day, dark by night.
		red, _, _, _ := picture.At(2, 200).RGBA()
		if light := red > 0x8000; light != (scheme == "light") {
			t.Errorf("in the %s scheme the page's ground has red %#x of 0xffff", scheme, red)
		}
		if err := os.WriteFile(filepath.Join(dir, "phone-"+scheme+".png"), shot, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
