package main

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/partner"

	"github.com/chromedp/chromedp"
)

const patience = 30 * time.Second

// TestPage is alice and bob at the same board.
func TestPage(t *testing.T) {
	live, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(handler(live))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := live.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	open := browser(t)

	alice := open(srv.URL)
	alice.until(`state.textContent === 'connected' && count.textContent === 'You are alone.'`)
	bob := open(srv.URL)
	bob.until(`count.textContent === '2 are drawing.'`)
	alice.until(`count.textContent === '2 are drawing.'`)

	alice.draw(100, 150, 300, 250)
	bob.until(painted + ` > 1000`)
	bob.do(chromedp.SetValue(chromedp.CSS("#color"), "#c02020"))
	bob.draw(300, 150, 100, 250)
	alice.until(painted + ` > 2000`)
	both := alice.drawing()
	bob.until(`board.toDataURL() === ` + both)

	// Who comes later, and who comes again, sees the same.
	bob.do(chromedp.Reload())
	bob.until(`board.toDataURL() === ` + both)
	carol := open(srv.URL)
	carol.until(`board.toDataURL() === ` + both)
	alice.until(`count.textContent === '3 are drawing.'`)

	if dir := os.Getenv("FANFARE_SCREENSHOTS"); dir != "" {
		shot, err := chromedp.Run(carol, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "board.png"), shot, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// painted is how many pixels of the board are, in JavaScript.
const painted = `board.getContext('2d').getImageData(0, 0, board.width, board.height).data.filter((v, i) => i % 4 === 3 && v > 0).length`

// A tab is one of a browser's.
type tab struct {
	context.Context
	t *testing.T
}

// browser starts Chromium and returns a function that opens a page in a new tab.
func browser(t *testing.T) func(url string) tab {
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
	return func(url string) tab {
		ctx, cancel := chromedp.NewContext(ctx)
		t.Cleanup(cancel)
		open := tab{ctx, t}
		open.do(chromedp.Navigate(url))
		return open
	}
}

func (p tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// draw draws a line with the mouse.
func (p tab) draw(x1, y1, x2, y2 float64) {
	p.t.Helper()
	p.do(chromedp.MouseEvent(chromedp.MousePressed, x1, y1, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseMoved, (x1+x2)/2, (y1+y2)/2, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseMoved, x2, y2, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseReleased, x2, y2, chromedp.ButtonLeft))
}

// drawing returns what is on the board, as JavaScript.
func (p tab) drawing() string {
	p.t.Helper()
	drawing, err := chromedp.Run(p, chromedp.Evaluate[string](`JSON.stringify(board.toDataURL())`))
	if err != nil {
		p.t.Fatal(err)
	}
	return drawing
}

// until waits for a JavaScript condition.
func (p tab) until(condition string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		met, err := chromedp.Run(p, chromedp.Evaluate[bool]("!!("+condition+")"))
		if met {
			return
		}
		if time.Now().After(deadline) {
			text, _ := chromedp.Run(p, chromedp.Evaluate[string](`document.querySelector('header').textContent`))
			p.t.Fatalf("waited in vain for %.100s (%v); the page shows %s", condition, err, text)
		}
		p.do(chromedp.Sleep(10 * time.Millisecond))
	}
}
