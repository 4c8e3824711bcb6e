package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"fanfare/client"
	"fanfare/internal/terminal"
	"fanfare/websocket"
)

// leaving is how long a client that was told to leave tries to get its last lines
// out.
const leaving = 3 * time.Second

// typed is what a person writes, on its way to whatever takes it.
type typed struct {
	limit  int64
	screen *terminal.Screen // static once it is shown

	mu     sync.Mutex // guards the following
	send   func(line string, number int) error
	early  []string // before there was a send
	number int
}

// line takes a line. It does not block.
func (t *typed) line(line string) error {
	switch {
	case int64(len(line)) > t.limit:
		return fmt.Errorf("it has %d bytes, and --max-message allows %d", len(line), t.limit)
	case !utf8.ValidString(line):
		return errors.New("it is not UTF-8")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.send != nil:
		if err := t.send(line, t.number+1); err != nil {
			return err
		}
	case len(t.early) >= mostSayings:
		return fmt.Errorf("%d lines wait to be sent already: wait until there is a connection", mostSayings)
	default:
		t.early = append(t.early, line)
		t.screen.Waiting(slices.Clone(t.early))
	}
	t.number++
	return nil
}

// to has lines sent from now on, first those that waited for it.
func (t *typed) to(send func(line string, number int) error) {
	var refused []string
	t.mu.Lock()
	for i, line := range t.early {
		if err := send(line, i+1); err != nil {
			refused = append(refused, fmt.Sprintf("not sent: %v: %s", err, line))
		}
	}
	t.early, t.send = nil, send
	t.screen.Waiting(nil)
	t.mu.Unlock()
	for _, text := range refused { // not under mu: the screen may have to come round first
		t.screen.Notice(time.Now(), text)
	}
}

// unsent is how many lines nothing has taken.
func (t *typed) unsent() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.early)
}

// connectScreen shows the interactive screen.
func connectScreen(f *dialFlags, u *url.URL, std stdio) error {
	ctx, stop := untilInterrupted(nil)
	defer stop()
	lines := &typed{limit: int64(f.maxMessage)}
	lines.screen = terminal.New(terminal.Options{
		Input: std.in, Output: std.out,
		Target: strings.Join(append([]string{visible(u)}, f.channels...), " "),
		Name:   f.name,
		Send:   lines.line,
	})
	seated, rise := context.WithCancel(ctx) // while somebody sits before the screen
	defer rise()
	ended := make(chan error, 1)
	go func() {
		err := f.onScreen(seated, u, lines)
		if n := lines.unsent(); err == nil && n > 0 {
			err = fmt.Errorf("not sent: %s", several(n, "line"))
		}
		ended <- err
		lines.screen.Leave()
	}()
	screenErr := lines.screen.Run(ctx)
	rise()
	if err := <-ended; err != nil {
		return err
	}
	return screenErr
}

// onScreen talks with whatever server there is, until seated ends or the server
// has had enough.
func (f *dialFlags) onScreen(seated context.Context, u *url.URL, lines *typed) error {
	screen := lines.screen
	status := func(s linkState) {
		switch {
		case s.connected:
			screen.Status(terminal.Status{State: terminal.Connected})
		case s.wait > 0:
			screen.Status(terminal.Status{State: terminal.Waiting, Next: time.Now().Add(s.wait), Reason: s.reason})
		default:
			screen.Status(terminal.Status{State: terminal.Connecting})
		}
	}
	s, err := f.meet(seated, u, true, status)
	switch {
	case err != nil && seated.Err() != nil:
		return nil
	case err != nil:
		return err
	case s.client != nil:
		return f.talkOnScreen(seated, s, u, lines, status)
	}

	var l *link
	var inOrder sync.Mutex // so that the newest word about the queue is the last one
	l = newLink(linkConfig{
		url: s.again, first: s.conn, options: f.options(), pause: f.pause,
		onState: status,
		onMessage: func(typ websocket.MessageType, data []byte) error {
			if typ == websocket.Binary {
				screen.Binary(time.Now(), len(data))
			} else {
				screen.Text(time.Now(), string(data))
			}
			return nil
		},
		onSent: func(m *outgoing) { screen.Sent(time.Now(), string(m.data)) },
		onQueue: func() {
			inOrder.Lock()
			defer inOrder.Unlock()
			screen.Waiting(l.waiting())
		},
	})
	lines.to(func(line string, number int) error {
		return l.trySend(&outgoing{typ: websocket.Text, data: []byte(line), number: number})
	})
	life, cut := context.WithCancel(context.WithoutCancel(seated))
	defer cut()
	defer context.AfterFunc(seated, func() {
		l.finish()
		if l.isOnline() {
			sleep(life, leaving)
		}
		cut()
	})()
	err = l.run(life)
	if doubtful, unsent := l.unconfirmed(); err == nil && doubtful+unsent > 0 {
		err = fmt.Errorf("not sent: %s", several(doubtful+unsent, "line"))
	}
	return err
}

// talkOnScreen does on a screen what there is to do with a Fanfare server.
func (f *dialFlags) talkOnScreen(seated context.Context, s *server, u *url.URL, lines *typed, status func(linkState)) error {
	c, screen := s.client, lines.screen
	defer c.Close()
	names := f.names(u, s.home)
	named := len(names) > 1 || isPattern(names[0])
	var sp *speaker
	var inOrder sync.Mutex // so that the newest word about the queue is the last one
	queue := func() {
		inOrder.Lock()
		defer inOrder.Unlock()
		if c.State().Phase == client.Connected {
			screen.Waiting(nil) // not for long, so it would only flicker
		} else {
			screen.Waiting(sp.waiting())
		}
	}
	sp = newSpeaker(c, writable(names), client.PublishOptions{}, func(s saying, _ string, refused error) {
		if refused != nil {
			screen.Notice(time.Now(), fmt.Sprintf("not sent: %v: %s", refused, s.text))
		}
	})
	told := make(chan struct{})
	go func() {
		defer close(told)
		follow(seated, c, u, func(s linkState) {
			status(s)
			queue()
		})
	}()
	h, err := f.hear(seated, c, u, names)
	if err == nil {
		lines.to(func(line string, number int) error {
			err := sp.trySay(line, number)
			if err == nil {
				queue()
			}
			return err
		})
		here := make(map[string]string) // by channel
		err = h.run(seated, ears{
			message: func(m *client.Message) error {
				channel, text := "", string(m.Bytes())
				if named {
					channel = m.Channel
				}
				if m.Binary() {
					text = fmt.Sprintf("<binary, %d bytes>", len(text))
				}
				screen.Said(m.Time.Local(), channel, m.Sender, text)
				return nil
			},
			gap: func(gap *client.GapError) { screen.Notice(time.Now(), missing(gap)) },
			presence: func(sub *client.Subscription, e *client.PresenceEvent) {
				members, _ := sub.Members()
				text, at := hereNow(members, sub.Count()), ""
				if named {
					text, at = fmt.Sprintf("%s %d", sub.Channel(), sub.Count()), sub.Channel()+": "
				}
				here[sub.Channel()] = text
				var all []string
				for _, name := range names {
					if here[name] != "" {
						all = append(all, here[name])
					}
				}
				screen.Here(strings.Join(all, " · "))
				if e.Type != "here" {
					screen.Notice(time.Now(), at+presence(e))
				}
			},
		})
	}
	_ = c.Close() // what it did not get done the speaker knows
	<-told
	sp.finish()
	<-sp.over
	switch {
	case err != nil && seated.Err() == nil:
		return err
	case sp.doubtful+sp.unsent > 0:
		return fmt.Errorf("not sent: %s", several(sp.doubtful+sp.unsent, "line"))
	}
	return nil
}
