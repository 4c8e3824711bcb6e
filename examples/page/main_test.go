package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/chromiumtest"

	"github.com/chromedp/chromedp"
)

// TestPage is alice and bob at the same board.
func TestPage(t *testing.T) {
	live, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(handler(live))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := live.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	open := chromiumtest.Start(t)

	alice := open(t, srv.URL)
	alice.Until(`state.textContent === 'connected' && count.textContent === 'You are alone.'`)
	bob := open(t, srv.URL)
	bob.Until(`count.textContent === '2 are drawing.'`)
	alice.Until(`count.textContent === '2 are drawing.'`)

	draw(alice, 100, 150, 300, 250)
	bob.Until(painted(300, 250))
	bob.Do(chromedp.SetValue(chromedp.CSS("#color"), "#c02020"))
	draw(bob, 300, 150, 100, 250)
	bob.Until(painted(100, 250))
	// Alice has all that bob has, and so has who comes later or again.
	drawing := fmt.Sprintf("%s === %d", sum, chromiumtest.Value[int](bob, sum))
	alice.Until(drawing)
	alice.Do(chromedp.Reload())
	alice.Until(drawing)
	carol := open(t, srv.URL)
	carol.Until(drawing)
	carol.Until(`count.textContent === '3 are drawing.'`)

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

// painted is JavaScript: something is drawn at a place of the window.
func painted(x, y int) string {
	return fmt.Sprintf(`board.getContext('2d').getImageData((%d - board.getBoundingClientRect().x) / board.getBoundingClientRect().width * board.width,
		(%d - board.getBoundingClientRect().y) / board.getBoundingClientRect().height * board.height, 1, 1).data[3] > 0`, x, y)
}

// sum is JavaScript: a number that another drawing would not have.
const sum = `[...board.toDataURL()].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) | 0, 0)`

// draw draws a line with the mouse.
func draw(tab chromiumtest.Tab, x1, y1, x2, y2 float64) {
	tab.Do(chromedp.MouseEvent(chromedp.MousePressed, x1, y1, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseMoved, (x1+x2)/2, (y1+y2)/2, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseMoved, x2, y2, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseReleased, x2, y2, chromedp.ButtonLeft))
}
