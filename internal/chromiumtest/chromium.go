// Package chromiumtest is a Chromium for tests: tabs that open pages, wait for
// what stands there, and take part in a channel through its page.
package chromiumtest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare/internal/partner"

	"github.com/chromedp/chromedp"
)

// patience is how long a tab waits for what should happen at once.
const patience = 20 * time.Second

// Start starts a Chromium, which lives as long as the test and for three
// minutes at most, and returns a function that opens a page in a new tab. more are options
// besides the usual ones.
func Start(t *testing.T, more ...chromedp.ExecAllocatorOption) (open func(t *testing.T, url string) Tab) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(partner.Chromium(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	options = append(options, more...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal("Chromium does not start: ", err)
	}
	return func(t *testing.T, url string) Tab {
		t.Helper()
		ctx, cancel := chromedp.NewContext(ctx)
		t.Cleanup(cancel)
		tab := Tab{ctx, t}
		tab.Do(chromedp.Navigate(url))
		return tab
	}
}

// A Tab is one page in the browser. Its methods fail the test that opened it.
type Tab struct {
	context.Context
	t *testing.T
}

// Do takes steps, one after the other.
func (b Tab) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// Run runs a script, whose value nobody wants; a promise is waited for.
func (b Tab) Run(script string) {
	b.t.Helper()
	b.Do(chromedp.Evaluate[chromedp.Void](script, chromedp.EvalAwaitPromise))
}

// Value returns the value of a script, or what its promise becomes.
func Value[T any](b Tab, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

// Until waits for a condition, a script, to hold.
func (b Tab) Until(condition string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; b.Do(chromedp.Sleep(10 * time.Millisecond)) {
		// An error means a page that is just being left: ask the next one.
		met, err := chromedp.Run(b, chromedp.Evaluate[bool]("!!("+condition+")"))
		if met {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s (%v); the page shows\n%s", condition, err, strings.Join(b.Rows(), "\n"))
		}
	}
}

// Online waits until a channel's page is connected.
func (b Tab) Online() {
	b.t.Helper()
	b.Until(`document.querySelector('#state').className === 'open'`)
}

// Say types a text into a channel's page and sends it.
func (b Tab) Say(text string) {
	b.t.Helper()
	b.Do(chromedp.SendKeys(chromedp.CSS("#text"), text), chromedp.Click(chromedp.CSS("#send")))
}

// Rows returns what stands in a channel's page, without days and times:
// "alice: text", "> alice: text" for the reader's own, "-- text" for a divider.
func (b Tab) Rows() []string {
	b.t.Helper()
	return Value[[]string](b, `[...document.querySelectorAll('#rows > :not(.day)')].map(row => row.classList.contains('rule') ? '-- ' + row.textContent
		: (row.classList.contains('mine') ? '> ' : '') + row.querySelector('.who').textContent + ': ' + row.querySelector('.text').textContent)`)
}

// Shows waits until exactly these rows stand in a channel's page.
func (b Tab) Shows(want ...string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; b.Do(chromedp.Sleep(10 * time.Millisecond)) {
		got := b.Rows()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the page shows\n%s\n\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
