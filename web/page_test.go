package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/internal/partner"
	"fanfare/web"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// stage is a channel that does to the page what a real one does on bad days
// only. Its methods may be called from any goroutine.
type stage struct {
	*httptest.Server
	mu      sync.Mutex
	epoch   string
	first   int // offset of history[0]
	history []message
	sockets map[*websocket.Conn]chan string

	closed   bool                // to everyone, and says why
	refusing bool                // new sockets
	deaf     bool                // what clients send is lost
	opened   chan map[string]any // query settings of each socket, in order
}

type message struct {
	Position string `json:"position"`
	Time     string `json:"time"`
	Sender   string `json:"sender,omitempty"`
	Type     string `json:"type"`
	Data     any    `json:"data"`
}

func newStage(t *testing.T) *stage {
	s := &stage{epoch: "one", first: 1, sockets: map[*websocket.Conn]chan string{}, opened: make(chan map[string]any, 100)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.cut()
		s.Close()
	})
	return s
}

func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != "":
		s.live(w, r)
	case r.Header.Get("Accept") == "application/json":
		s.page(w, r)
	default:
		web.Serve(w, r, strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/under"), "/"))
	}
}

// after returns the messages after a position, and whether some before them are gone.
func (s *stage) after(since string) ([]message, bool) {
	epoch, offset, _ := strings.Cut(since, "-")
	n, err := strconv.Atoi(offset)
	if epoch != s.epoch || err != nil {
		return s.history, true
	}
	from := min(max(n+1-s.first, 0), len(s.history))
	return s.history[from:], n+1 < s.first
}

func (s *stage) page(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, `{"error":{"code":"closed","message":"the hall is closed until noon"}}`)
		return
	}
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	answer := struct {
		Position string    `json:"position"`
		Gap      bool      `json:"gap"`
		More     bool      `json:"more"`
		Messages []message `json:"messages"`
	}{Position: fmt.Sprintf("%s-%d", s.epoch, s.first+len(s.history)-1), Messages: []message{}}
	found := s.history
	if since := r.FormValue("since"); since != "" {
		found, answer.Gap = s.after(since)
		answer.More = len(found) > limit
		found = found[:min(limit, len(found))]
	} else {
		found = found[max(0, len(found)-limit):]
	}
	if answer.Messages = append(answer.Messages, found...); len(found) > 0 {
		answer.Position = found[len(found)-1].Position
	}
	json.NewEncoder(w).Encode(answer)
}

func (s *stage) live(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	refusing := s.refusing
	s.mu.Unlock()
	if refusing {
		http.Error(w, "closed for today", http.StatusServiceUnavailable)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	name := r.FormValue("name")
	out := make(chan string, 10000)
	s.mu.Lock()
	missed, _ := s.after(r.FormValue("since"))
	for _, m := range missed {
		out <- plain(m)
	}
	s.sockets[c] = out
	s.mu.Unlock()
	s.opened <- map[string]any{"name": name, "since": r.FormValue("since"), "token": r.FormValue("token")}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case text := <-out:
				c.Write(ctx, websocket.MessageText, []byte(text))
			}
		}
	}()
	for {
		_, text, err := c.Read(ctx)
		if err != nil {
			break
		}
		s.mu.Lock()
		deaf := s.deaf
		s.mu.Unlock()
		if !deaf {
			s.say(name, string(text))
		}
	}
	s.mu.Lock()
	delete(s.sockets, c)
	s.mu.Unlock()
}

// plain is a message's frame in the plain conversation.
func plain(m message) string {
	if raw, ok := m.Data.(json.RawMessage); ok {
		return string(raw)
	}
	if m.Sender != "" {
		return fmt.Sprintf("[12:00:00] %s: %s", m.Sender, m.Data)
	}
	return fmt.Sprintf("[12:00:00] %s", m.Data)
}

// say publishes; whisper publishes what no socket hears.
func (s *stage) say(sender, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.add(sender, text)
	for _, out := range s.sockets {
		out <- plain(m)
	}
}

func (s *stage) whisper(sender, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(sender, text)
}

func (s *stage) add(sender, text string) message {
	m := message{
		Position: fmt.Sprintf("%s-%d", s.epoch, s.first+len(s.history)),
		Time:     time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		Sender:   sender, Type: "text", Data: text,
	}
	if strings.HasPrefix(text, "{") {
		m.Type, m.Data = "json", json.RawMessage(text)
	}
	s.history = append(s.history, m)
	return m
}

// notice sends what is no message.
func (s *stage) notice(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, out := range s.sockets {
		out <- "[12:00:00] * " + text
	}
}

// forget keeps only the newest messages.
func (s *stage) forget(keep int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := max(0, len(s.history)-keep)
	s.first += gone
	s.history = slices.Clone(s.history[gone:])
}

// restart loses all history, as a server that keeps it in memory does.
func (s *stage) restart(epoch string) {
	s.mu.Lock()
	s.epoch, s.first, s.history = epoch, 1, nil
	s.mu.Unlock()
	s.cut()
}

// set changes a switch of the stage.
func (s *stage) set(what *bool, value bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*what = value
}

// cut ends all connections without a word.
func (s *stage) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sockets {
		delete(s.sockets, c)
		c.CloseNow()
	}
}

// tab is a browser's tab.
type tab struct {
	context.Context
	t *testing.T
}

// browser starts Chromium and returns a function that opens a page in a new tab.
func browser(t *testing.T) func(t *testing.T, url string) tab {
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
	return func(t *testing.T, url string) tab {
		ctx, cancel := chromedp.NewContext(ctx)
		t.Cleanup(cancel)
		b := tab{ctx, t}
		b.do(chromedp.Navigate(url))
		return b
	}
}

func (b tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// say types a text and sends it.
func (b tab) say(text string) {
	b.t.Helper()
	b.do(chromedp.SendKeys(chromedp.CSS("#text"), text), chromedp.Click(chromedp.CSS("#send")))
}

// until waits for a JavaScript condition.
func (b tab) until(condition string) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		// An error means a page that is just being left: ask the next one.
		met, err := chromedp.Run(b, chromedp.Evaluate[bool]("!!("+condition+")"))
		if met {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s (%v); the page shows\n%s", condition, err, strings.Join(b.rows(), "\n"))
		}
		b.do(chromedp.Sleep(10 * time.Millisecond))
	}
}

// online waits until the page is connected.
func (b tab) online() {
	b.t.Helper()
	b.until(`document.querySelector('#state').className === 'open'`)
}

// rows returns what stands in the log, without times and days: "alice: text", "> alice: text" for
// the reader's own, "-- text" for a divider.
func (b tab) rows() []string {
	b.t.Helper()
	rows, err := chromedp.Run(b, chromedp.Evaluate[[]string](`(() => {
		const text = (row, part) => row.querySelector(part)?.textContent ?? ''
		return [...document.querySelectorAll('#rows > *')].map(row =>
			row.className === 'rule' ? '-- ' + row.textContent
			: row.classList.contains('note') ? '* ' + row.textContent
			: (row.classList.contains('mine') ? '> ' : '') + text(row, '.who') + ': ' + text(row, '.text'))
	})()`))
	if err != nil {
		b.t.Fatal(err)
	}
	if len(rows) > 0 && strings.HasPrefix(rows[0], "-- ") && strings.Contains(rows[0], ", ") {
		rows = rows[1:]
	}
	return rows
}

// shows waits until the last row is there and compares all of them.
func (b tab) shows(want ...string) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := b.rows()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the page shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		b.do(chromedp.Sleep(10 * time.Millisecond))
	}
}

func TestPage(t *testing.T) {
	open := browser(t)

	// In a quiet tab one connection lasts: looked at again when the others are through.
	quiet, began := newStage(t), time.Now()
	bystander := open(t, quiet.URL+"/chat?name=alice")
	bystander.online()
	bystander.say("hello")
	bystander.shows("> alice: hello")

	t.Run("missed while away", func(t *testing.T) {
		s := newStage(t)
		s.say("bob", "before")
		b := open(t, s.URL+"/chat?name=alice&token=secret")
		b.online()
		if first := <-s.opened; first["name"] != "alice" || first["since"] != "one-1" || first["token"] != "secret" {
			t.Errorf("the first socket asks for %v", first)
		}
		s.say("bob", "live")
		b.say("mine")
		b.shows("bob: before", "bob: live", "> alice: mine")
		s.set(&s.refusing, true)
		s.cut()
		b.until(`document.querySelector('#state').className === 'down'`)
		for i := range 450 {
			s.say("bob", strconv.Itoa(i))
		}
		s.say("bob", "live")
		b.say("queued")
		b.until(`document.querySelector('#outbox').textContent.includes('Waits for the connection')`)
		s.set(&s.refusing, false)
		b.online()
		b.until(`document.querySelector('#outbox').childElementCount === 0`)
		rows := b.rows()
		if len(rows) != 3+450+2 || rows[2] != "> alice: mine" || rows[3] != "bob: 0" || rows[452] != "bob: 449" || rows[453] != "bob: live" || rows[454] != "> alice: queued" {
			t.Errorf("after coming back %d rows, want 455, each once and in order:\n%s", len(rows), strings.Join(rows, "\n"))
		}
	})

	t.Run("history lost", func(t *testing.T) {
		s := newStage(t)
		s.say("bob", "hello")
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		s.say("bob", "again")
		b.shows("bob: hello", "bob: again")
		s.restart("two")
		s.say("bob", "again")
		b.shows("bob: hello", "bob: again", "-- Some messages are no longer kept", "bob: again")
		b.online()
		// This time it happens between the page's two requests, and only the socket can tell.
		s.mu.Lock()
		s.epoch, s.first, s.history = "three", 1, nil
		s.mu.Unlock()
		s.notice("history does not reach back to where you were; messages may be missing here")
		b.until(`document.querySelectorAll('.rule').length === 3`)
		s.say("bob", "once more")
		b.shows("bob: hello", "bob: again", "-- Some messages are no longer kept", "bob: again", "-- Some messages are no longer kept", "bob: once more")
	})

	t.Run("history shorter than the absence", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		for _, text := range []string{"a", "b", "c"} {
			s.say("bob", text)
		}
		b.shows("bob: a", "bob: b", "bob: c")
		// c is still kept: what the page saw and what is kept join.
		s.forget(1)
		s.cut()
		s.say("bob", "d")
		b.shows("bob: a", "bob: b", "bob: c", "bob: d")
		b.online()
		s.set(&s.refusing, true)
		s.cut()
		b.until(`document.querySelector('#state').className === 'down'`)
		s.say("bob", "e")
		s.say("bob", "f")
		s.forget(1)
		s.set(&s.refusing, false)
		b.shows("bob: a", "bob: b", "bob: c", "bob: d", "-- Some messages are no longer kept", "bob: f")
	})

	t.Run("skipped by the server", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		s.say("bob", "1")
		s.whisper("bob", "2")
		s.whisper("bob", "3")
		s.notice("2 messages skipped")
		s.say("bob", "4")
		b.shows("bob: 1", "bob: 2", "bob: 3", "bob: 4")
	})

	t.Run("sent and never heard of", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		s.set(&s.deaf, true)
		b.say("is anybody there")
		b.until(`document.querySelector('#outbox').textContent.includes('is anybody there')`)
		s.set(&s.deaf, false)
		s.cut()
		b.until(`document.querySelector('#outbox').textContent.includes('not known')`)
		b.shows()
		b.do(chromedp.Click(chromedp.CSS("#outbox .fate button")))
		b.shows("> alice: is anybody there")
		b.until(`document.querySelector('#outbox').childElementCount === 0`)
	})

	t.Run("who spoke, told by history", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		s.say("", "alice: it was not me")
		s.say("carol", `{"type":"chat","content":"typed"}`)
		b.shows("> alice: it was not me", ": typed")
		// A hundred live messages, and the page asks history.
		for range 100 {
			s.say("bob", "x")
		}
		b.until(`document.querySelector('#rows .who').textContent === 'anonymous'`)
		if rows := b.rows(); len(rows) != 102 || rows[0] != "anonymous: alice: it was not me" || rows[1] != "carol: typed" {
			t.Errorf("%d rows, first %q: want 102, the first two by anonymous and carol", len(rows), rows[:2])
		}
	})

	t.Run("nothing is HTML", func(t *testing.T) {
		s := newStage(t)
		const evil, script = `<img src=x onerror="window.hacked=1">`, `<script>window.hacked=1</script>`
		s.say(evil, evil+script)
		s.say("bob", `{"type":"chat","content":"<b onclick=hacked()>bold</b>"}`)
		s.say("bob", `{"type":"<i>x</i>","price":1}`)
		b := open(t, s.URL+"/%3Cscript%3Ewindow.hacked=1%3C%2Fscript%3E?name=%3Cb%3Ealice")
		b.online()
		s.say(evil, script)
		b.say("<b>mine</b>")
		b.shows(evil+": "+evil+script, "bob: <b onclick=hacked()>bold</b>", `bob: {"type":"<i>x</i>","price":1}`, evil+": "+script, "> <b>alice: <b>mine</b>")
		b.until(`!window.hacked && document.querySelector('#title').textContent === '<script>window.hacked=1</script>' &&
			document.title === '<script>window.hacked=1</script> · Fanfare' && !document.querySelector('main img, main script, main b, main i, header script')`)
	})

	t.Run("a flood", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		for i := range 4500 {
			s.say("bob", strconv.Itoa(i))
		}
		b.until(`document.querySelector('#rows').lastChild?.querySelector('.text').textContent === '4499'`)
		b.until(`document.querySelector('#rows').childElementCount <= 2000`)
		s.set(&s.refusing, true)
		s.cut()
		b.until(`document.querySelector('#state').className === 'down'`)
		s.set(&s.refusing, false)
		s.say("bob", "after")
		b.online()
		b.until(`document.querySelector('#rows').lastChild.querySelector('.text').textContent === 'after'`)
		rows := b.rows()
		for i := 1; i < min(100, len(rows)-1); i++ {
			if want := fmt.Sprintf("bob: %d", 4500-i); rows[len(rows)-1-i] != want {
				t.Fatalf("row %d from the end is %q, want %q", i, rows[len(rows)-1-i], want)
			}
		}
	})

	t.Run("reading further up", func(t *testing.T) {
		s := newStage(t)
		for i := range 100 {
			s.say("bob", strconv.Itoa(i))
		}
		b := open(t, s.URL+"/chat?name=alice")
		b.online()
		const distance = `(log => log.scrollHeight - log.clientHeight - log.scrollTop)(document.querySelector('#log'))`
		b.until(distance + ` < 2 && document.querySelector('#newest').hidden`)
		// Again and again: the page does not believe what scrolls right after its window got its size.
		b.until(`(document.querySelector('#log').scrollTop = 50, !document.querySelector('#newest').hidden)`)
		s.say("bob", "news")
		b.until(`document.querySelector('#newest').textContent === '↓ 1 new message' && document.querySelector('#log').scrollTop === 50`)
		b.do(chromedp.Click(chromedp.CSS("#newest")))
		b.until(distance + ` < 2 && document.querySelector('#newest').hidden`)
	})

	t.Run("closed, and woken later", func(t *testing.T) {
		s := newStage(t)
		s.say("bob", "hello")
		s.set(&s.closed, true)
		b := open(t, s.URL+"/chat?name=alice")
		b.until(`document.querySelector('#why').textContent === 'The server answers 503: the hall is closed until noon.'`)
		s.set(&s.closed, false)
		b.do(chromedp.Click(chromedp.CSS("#now")))
		b.online()
		b.until(`document.querySelector('#trouble').hidden`)
		b.shows("bob: hello")
		<-s.opened
		// An open socket proves nothing after the network was away: another one takes over, and nothing is seen of it.
		b.do(chromedp.Evaluate[chromedp.Void](`dispatchEvent(new Event('online'))`))
		<-s.opened
		b.online()
		s.say("bob", "still there")
		b.shows("bob: hello", "bob: still there")
	})

	t.Run("names and commands", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/it's;$(x)%20here?name=%20a%09"+strings.Repeat("ü", 100))
		b.online()
		if first := <-s.opened; first["name"] != "a "+strings.Repeat("ü", 62) {
			t.Errorf("the name is %q, want it without control characters and 64 characters long", first["name"])
		}
		// What is copied into a shell is one word for it.
		b.until(`document.querySelector('[data-command=say] code').textContent === "curl -d Hello '" + location.origin + "/it%27s;$(x)%20here'"`)
		b.until(`document.querySelector('[data-command=connect] code').textContent.startsWith("fanfare connect 'ws://")`)
	})

	t.Run("another channel under a prefix", func(t *testing.T) {
		s := newStage(t)
		b := open(t, s.URL+"/under/chat/general?name=alice")
		b.online()
		b.do(chromedp.Click(chromedp.CSS("#about")), chromedp.SendKeys(chromedp.CSS("#other"), "chat/größe & co?\r"))
		b.until(`document.querySelector('#title').textContent === 'chat/größe & co?' && location.pathname.startsWith('/under/chat/gr')`)
		b.until(`document.querySelector('#recent a').pathname === '/under/chat/general'`)
	})

	// A message that came back is not waited for: past the page's patience of 8 s nothing happens.
	bystander.do(chromedp.Sleep(time.Until(began.Add(11 * time.Second))))
	bystander.shows("> alice: hello")
	if n := len(quiet.opened); n != 1 {
		t.Errorf("a quiet page opened %d sockets, want 1", n)
	}
}
