package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// desk is a model with somebody before it.
type desk struct {
	*model
	t    *testing.T
	sent []string
	fail error
}

func newDesk(t *testing.T, width, height int) *desk {
	d := &desk{t: t}
	d.model = newModel(Options{Target: "ws://localhost:8765/chat", Name: "alice", Send: func(line string) error {
		if d.fail != nil {
			return d.fail
		}
		d.sent = append(d.sent, line)
		return nil
	}}, func() tea.Msg { return nil })
	d.now = func() time.Time { return noon }
	d.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return d
}

// hear brings messages as one batch.
func (d *desk) hear(texts ...string) {
	var b batch
	for _, text := range texts {
		b = append(b, newEntry(noon, text))
	}
	d.Update(b)
}

// typed presses a key per character.
func (d *desk) typed(s string) {
	for _, r := range s {
		d.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
}

// press presses named keys and returns the last one's command.
func (d *desk) press(keys ...rune) (cmd tea.Cmd) {
	for _, k := range keys {
		_, cmd = d.Update(tea.KeyPressMsg{Code: k})
	}
	return cmd
}

func (d *desk) ctrl(r rune) tea.Cmd {
	_, cmd := d.Update(tea.KeyPressMsg{Code: r, Mod: tea.ModCtrl})
	return cmd
}

// rows is the screen without colours, checked to fit.
func (d *desk) rows() []string {
	d.t.Helper()
	rows := strings.Split(ansi.Strip(d.View().Content), "\n")
	if len(rows) > d.height {
		d.t.Errorf("%d rows in a window of %d", len(rows), d.height)
	}
	for _, row := range rows {
		if w := d.method.StringWidth(row); w > d.width {
			d.t.Errorf("row %q is %d cells wide in a window of %d", row, w, d.width)
		}
	}
	if c := d.View().Cursor; c.X >= d.width || c.Y != len(rows)-1 {
		d.t.Errorf("cursor at %d,%d in a window of %d×%d", c.X, c.Y, d.width, d.height)
	}
	return rows
}

func (d *desk) want(row int, text string) {
	d.t.Helper()
	rows := d.rows()
	if row < 0 {
		row += len(rows)
	}
	if got := strings.TrimRight(rows[row], " "); got != text {
		d.t.Errorf("row %d is %q, want %q; the screen:\n%s", row, got, text, strings.Join(rows, "\n"))
	}
}

func quits(cmd tea.Cmd) bool {
	if cmd == nil {
		return false
	}
	_, ok := cmd().(tea.QuitMsg)
	return ok
}

func TestWhatArrivesStandsInColumns(t *testing.T) {
	d := newDesk(t, 44, 9)
	d.hear("[17:03:12] bob: hi", "[17:03:15] alice: hello, this is a line that wraps", "[17:03:16] nobody in particular", `{"type":"chat"}`, "[17:03:17] * 3 messages skipped", "[17:03:18] bob: * waves")
	d.want(0, "17:03:12    bob  hi")
	d.want(1, "17:03:15  alice  hello, this is a line that")
	d.want(2, "                 wraps")
	d.want(3, "17:03:16         nobody in particular")
	d.want(4, `12:00:00         {"type":"chat"}`)
	d.want(5, "17:03:17      ·  3 messages skipped")
	d.want(6, "17:03:18    bob  * waves")
}

// What is known to be somebody's, and where it was said, stands in columns too;
// what it holds does not drive the terminal.
func TestWhoSaidItWhere(t *testing.T) {
	d := newDesk(t, 60, 8)
	s := New(Options{})
	s.Said(noon, "", "bob", "[09:08:07] eve: not her")
	s.Said(noon, "chat/general", "alice\x1b[2J", "hello")
	s.Said(noon, "a/channel/with/a/very/long/name", "", "somebody\nsays")
	s.Notice(noon, "carol joined")
	s.Here("2 here: alice, bob")
	s.Status(Status{State: Connected})
	d.Update(s.next())
	got := strings.Join(d.rows()[:7], "\n")
	want := strings.Join([]string{
		"",
		"12:00:00        bob  [09:08:07] eve: not her",
		"12:00:00  alice␛[2J  chat/general  hello",
		"12:00:00             a/channel/with/a/very/l…  somebody",
		"                     says",
		"12:00:00          ·  carol joined",
		"● connected   2 here: alice, bob · ws://localhost:87…  alice",
	}, "\n")
	if got != want {
		t.Errorf("the screen is\n%s\nwant\n%s", got, want)
	}
}

func TestWhatArrivesDoesNotTearTheLine(t *testing.T) {
	d := newDesk(t, 40, 5)
	d.typed("half a sen")
	before := d.View().Cursor.Position
	for i := range 20 {
		d.hear(fmt.Sprintf("[12:00:%02d] bob: noise", i))
		d.want(-1, "> half a sen")
	}
	if after := d.View().Cursor.Position; after != before {
		t.Errorf("the cursor moved from %v to %v", before, after)
	}
	d.typed("tence")
	d.press(tea.KeyEnter)
	if len(d.sent) != 1 || d.sent[0] != "half a sentence" {
		t.Errorf("sent %q", d.sent)
	}
}

func TestAStrangerDoesNotDriveTheTerminal(t *testing.T) {
	d := newDesk(t, 70, 8)
	d.hear("\x1b[2J\x1b]0;owned\a", "[12:00:01] e\x1b[31mve: hi\n[12:00:02] bob: I never said this", "a\rb\r\n")
	d.Update(batch{Status{State: Waiting, Next: noon.Add(2500 * time.Millisecond), Reason: "closed: \x1b[2J\nbye"}})
	d.want(2, "12:00:00            ␛[2J␛]0;owned␇")
	d.want(3, "12:00:01  e␛[31mve  hi")
	d.want(4, "                    [12:00:02] bob: I never said this") // in the text's column: no stamp of its own
	d.want(5, "12:00:00            a␍b")
	d.want(6, "● reconnecting in 3 s   closed: ␛[2J␊bye                         alice")
}

func TestLinesTypedBefore(t *testing.T) {
	d := newDesk(t, 60, 5)
	for _, line := range []string{"one", "two", "two"} {
		d.typed(line)
		d.press(tea.KeyEnter)
	}
	d.typed("draft")
	for _, step := range []struct {
		key  rune
		want string
	}{
		{tea.KeyUp, "two"}, {tea.KeyUp, "one"}, {tea.KeyUp, "one"},
		{tea.KeyDown, "two"}, {tea.KeyDown, "draft"}, {tea.KeyDown, "draft"},
	} {
		d.press(step.key)
		if got := d.line.value(); got != step.want {
			t.Fatalf("the line is %q, want %q", got, step.want)
		}
	}
	d.press(tea.KeyUp)
	d.typed("!")
	d.press(tea.KeyEnter)
	if got := strings.Join(d.sent, " "); got != "one two two two!" {
		t.Errorf("sent %q", got)
	}
}

func TestLeaving(t *testing.T) {
	for name, leave := range map[string]func(*desk) tea.Cmd{
		"exit":   func(d *desk) tea.Cmd { d.typed("exit "); return d.press(tea.KeyEnter) },
		"Ctrl-D": func(d *desk) tea.Cmd { return d.ctrl('d') },
		"Ctrl-C": func(d *desk) tea.Cmd { d.typed("half a line"); return d.ctrl('c') },
	} {
		if d := newDesk(t, 60, 5); !quits(leave(d)) || d.sent != nil {
			t.Errorf("%s did not leave, or sent %q", name, d.sent)
		}
	}
	d := newDesk(t, 60, 5)
	d.typed("ab")
	d.press(tea.KeyLeft)
	if quits(d.ctrl('d')) || d.line.value() != "a" {
		t.Errorf("Ctrl-D within a line should delete to the right: %q", d.line.value())
	}
	d.press(tea.KeyEnter)
	d.typed("exit the building")
	if quits(d.press(tea.KeyEnter)) || len(d.sent) != 2 {
		t.Errorf("a line that begins with exit is a message; sent %q", d.sent)
	}
}

func TestWideCharactersUnderTheCursor(t *testing.T) {
	for name, method := range map[string]ansi.Method{"clusters": ansi.GraphemeWidth, "characters": ansi.WcWidth} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, 40, 5)
			if method == ansi.GraphemeWidth {
				d.Update(tea.ModeReportMsg{Mode: ansi.ModeUnicodeCore, Value: ansi.ModeReset})
			}
			d.typed("你好")
			if x := d.View().Cursor.X; x != 2+4 {
				t.Errorf("after two Chinese characters the cursor is at %d, want 6", x)
			}
			d.press(tea.KeyLeft)
			if x := d.View().Cursor.X; x != 2+2 {
				t.Errorf("one to the left the cursor is at %d, want 4", x)
			}
			d.press(tea.KeyRight)
			d.typed("👩‍👩‍👧")
			d.press(tea.KeyLeft)
			if x := d.View().Cursor.X; x != 2+4 {
				t.Errorf("left of the family the cursor is at %d, want 6", x)
			}
			d.press(tea.KeyRight, tea.KeyBackspace)
			if got := d.line.value(); got != "你好" {
				t.Errorf("a backspace left %q, want 你好", got)
			}
			d.typed("🇨🇭e\u0301")
			d.press(tea.KeyLeft, tea.KeyLeft, tea.KeyDelete)
			if got := d.line.value(); got != "你好e\u0301" {
				t.Errorf("a delete left %q", got)
			}
		})
	}
}

func TestALineLongerThanTheWindow(t *testing.T) {
	d := newDesk(t, 20, 4)
	for range 20 {
		for _, r := range "abc你" {
			d.typed(string(r))
			d.rows()
		}
	}
	d.want(-1, "> 你abc你abc你abc你") // 17 cells, and one for the cursor
	d.press(tea.KeyHome)
	d.want(-1, "> abc你abc你abc你abc")
	d.press(tea.KeyEnd)
	for d.line.value() != "" {
		d.press(tea.KeyBackspace)
		d.rows()
	}
}

func TestPasteOfSeveralLinesIsOneLine(t *testing.T) {
	d := newDesk(t, 60, 5)
	d.Update(tea.PasteMsg{Content: "{\n\t\"a\": 1\n}\x1b"})
	d.press(tea.KeyEnter)
	if len(d.sent) != 1 || strings.ContainsAny(d.sent[0], "\n\x1b") {
		t.Errorf("sent %q", d.sent)
	}
}

func TestScrollingBack(t *testing.T) {
	d := newDesk(t, 50, 7) // five rows of conversation
	for i := range 20 {
		d.hear(fmt.Sprintf("[12:00:%02d] line", i))
	}
	d.want(4, "12:00:19  line")
	d.press(tea.KeyPgUp)
	d.want(4, "12:00:15  line")
	d.hear("[12:00:20] line", "[12:00:21] a line so long that it needs two rows of this window")
	d.want(4, "12:00:15  line") // stays in place
	if status := d.rows()[5]; !strings.HasSuffix(status, "↓ 2 new, Esc") {
		t.Errorf("the status does not tell of new messages: %q", status)
	}
	for range 10 {
		d.press(tea.KeyPgUp)
	}
	d.want(0, "12:00:00  line")
	d.press(tea.KeyPgDown)
	d.want(0, "12:00:04  line")
	d.press(tea.KeyEscape)
	d.want(2, "12:00:20  line")
	if status := d.rows()[5]; strings.Contains(status, "new") {
		t.Errorf("the status still tells of new messages: %q", status)
	}
}

func TestLinesThatWait(t *testing.T) {
	d := newDesk(t, 60, 10)
	d.hear("[12:00:00] bob: hi")
	d.Update(batch{waiting{"first", "second\x1b"}})
	d.want(-4, "⋯ first")
	d.want(-3, "⋯ second␛")
	d.want(-5, "12:00:00  bob  hi")
	d.Update(batch{make(waiting, 1000)})
	d.want(-3, "⋯ and 996 more wait to be sent")
	d.Update(batch{waiting(nil)})
	d.want(-3, "12:00:00  bob  hi")
}

func TestALineThatCannotBeSentStays(t *testing.T) {
	d := newDesk(t, 70, 5)
	d.fail = errors.New("1,000 lines wait already")
	d.typed("one more")
	d.press(tea.KeyEnter)
	d.want(-1, "> one more")
	d.want(-2, "● not sent   1,000 lines wait already                            alice")
	d.fail = nil
	d.press(tea.KeyEnter)
	if len(d.sent) != 1 {
		t.Errorf("sent %q", d.sent)
	}
}

func TestStatus(t *testing.T) {
	d := newDesk(t, 60, 5)
	d.want(-2, "● connecting   ws://localhost:8765/chat                alice")
	d.Update(batch{Status{State: Connected}})
	d.want(-2, "● connected   ws://localhost:8765/chat                 alice")
	d.Update(batch{Status{State: Waiting, Next: noon.Add(900 * time.Millisecond), Reason: "connection lost"}})
	d.want(-2, "● reconnecting in 1 s   connection lost                alice")
	old := tick(d.statusNo)
	if _, cmd := d.Update(old); cmd == nil {
		t.Error("the countdown stopped")
	}
	d.Update(batch{Status{State: Connected}})
	if _, cmd := d.Update(old); cmd != nil {
		t.Error("an old countdown goes on")
	}
}

func TestEveryWindow(t *testing.T) {
	d := newDesk(t, 80, 24)
	d.hear("[12:00:00] bob: hi there, 你好你好 👩‍👩‍👧", "[12:00:00] somebody with a very very long name indeed: x", strings.Repeat("long ", 5000), "two\nlines")
	d.Update(batch{waiting{"a", "b", "c", "d", "e", "f"}})
	d.typed("你好 and some more text")
	for w := 1; w < 90; w++ {
		for _, h := range []int{1, 2, 3, 4, 9, 24} {
			d.Update(tea.WindowSizeMsg{Width: w, Height: h})
			if w >= 8 { // below, a wide character and its ellipsis need not fit
				d.rows()
			} else {
				d.View()
			}
			d.press(tea.KeyPgUp, tea.KeyPgUp, tea.KeyPgDown)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	d := newDesk(t, 80, 24)
	for range 20 {
		d.hear(make([]string, 1000)...)
	}
	if n := len(d.said.entries); n != maxEntries {
		t.Errorf("%d entries are kept, want %d", n, maxEntries)
	}
	big := strings.Repeat("x", 1<<20)
	for range 3000 {
		d.hear(big)
	}
	if d.said.bytes > maxKept {
		t.Errorf("%d bytes are kept, limit %d", d.said.bytes, maxKept)
	}
	if e := d.said.entries[len(d.said.entries)-1]; !strings.HasSuffix(e.text, " … (1,032,192 more bytes)") {
		t.Errorf("a long message is cut without a word: %q", e.text[len(e.text)-40:])
	}
}

// reader is a terminal's output that a test can wait on.
type reader struct {
	mu   sync.Mutex
	seen bytes.Buffer
	more chan struct{}
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
	return r.seen.Write(p)
}

func (r *reader) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		seen := r.seen.String()
		r.mu.Unlock()
		if strings.Contains(ansi.Strip(seen), text) {
			return
		}
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("%q never came to the screen; it got %q", text, seen)
		}
	}
}

func TestTheWholeProgram(t *testing.T) {
	keys, keyboard := io.Pipe()
	defer keyboard.Close()
	out := &reader{more: make(chan struct{}, 1)}
	sent := make(chan string, 1)
	s := New(Options{
		Target: "ws://localhost:8765/", Input: keys, Output: out, Width: 60, Height: 10,
		Environ: []string{"TERM=xterm-256color"},
		Send:    func(line string) error { sent <- line; return nil },
	})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()

	s.Status(Status{State: Connected})
	out.await(t, "connected")
	s.Text(noon, "[12:00:00] bob: 你好, all")
	s.Binary(noon, 12345)
	out.await(t, "<binary, 12,345 bytes>")
	io.WriteString(keyboard, "hello\r")
	select {
	case line := <-sent:
		if line != "hello" {
			t.Errorf("sent %q", line)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the line was not sent")
	}
	io.WriteString(keyboard, "exit\r")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("exit did not end the screen")
	}
	// After the screen is gone, the conversation stays.
	after := out.seen.String()
	after = after[strings.LastIndex(after, "\x1b[?1049l"):]
	if !strings.Contains(ansi.Strip(after), "bob  你好, all") {
		t.Errorf("the conversation is gone from the terminal: %q", after)
	}
	for range maxBatch + 10 { // nobody takes what is posted now, and nobody may wait
		s.Text(noon, "late")
	}
}

func TestAFloodWaitsForTheScreen(t *testing.T) {
	s := New(Options{})
	for range maxBatch {
		s.Text(noon, "x")
	}
	s.Status(Status{State: Connected}) // may come from within the model, and never waits
	s.Waiting([]string{"a"})
	s.Waiting([]string{"a", "b"})
	posted := make(chan struct{})
	go func() { s.Text(noon, "one more"); close(posted) }()
	select {
	case <-posted:
		t.Fatal("a full batch took one more")
	case <-time.After(20 * time.Millisecond):
	}
	if n := len(s.next().(batch)); n != maxBatch+2 {
		t.Errorf("the batch has %d events, want %d", n, maxBatch+2)
	}
	<-posted
}
