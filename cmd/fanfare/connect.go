package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fanfare/client"
	"fanfare/internal/terminal"
	"fanfare/websocket"
)

// How long a client that was told to leave tries to get its last lines out.
const leaving = 3 * time.Second

func connectCommand(std stdio) *cobra.Command {
	var flags dialFlags
	var linger time.Duration
	cmd := &cobra.Command{
		Use:   "connect [URL]",
		Short: "Talk in a channel: on a screen, or line by line on a pipe",
		Long: `Connect to a WebSocket server, Fanfare's or any other. Without a URL it is
ws://localhost:8765/.
` + targetHelp + `

On a terminal it shows a screen: what arrives above, the line you write below.
The arrow keys bring back lines you wrote, PgUp and PgDn scroll, Esc goes back
to the newest. exit, Ctrl-D on an empty line, or Ctrl-C leaves. Lines written
while the connection is away wait and are sent when it is back.

On a pipe each line of standard input is sent as a text message, and each
message that arrives is a line on standard output, byte for byte (if standard
output is a terminal, control characters are made visible). At the end of the
input it waits until the server has read everything and for --linger nothing
more has come, and closes in order. A line that cannot be sent (too long, not
UTF-8, refused) is reported and left out, and the exit code is then 1.

A lost connection is made again, after a pause that grows from half a second
to 30 seconds at most, chosen at random below that. On a pipe, the very first
attempt must succeed.

With a Fanfare server you then get what you missed, and each line is published
once. With it you can also be in several channels: --channel, which may be a
pattern that you only read, such as chat/**. What you write goes to the first
that is a channel; each message is shown with its channel before it, on a pipe
divided by a tab. A URL that names none, such as ws://localhost:8765/, is then
the server itself. --presence tells who is there, and who comes and goes; on a
pipe on standard error, as all that is no message.

Any other server is spoken to as RFC 6455 has it: what is said while the
connection is away is lost, and a line that the server had not confirmed is
sent again, so it may arrive twice. So is a Fanfare server with --subprotocol.`,
		Example: `  fanfare connect
  fanfare connect chat/general --name alice
  fanfare connect chat/general --presence --history 20
  fanfare connect chat/general --channel news --channel 'alerts/**'
  fanfare connect wss://example.com/feed -H "Authorization: Bearer …"
  tail -f app.log | fanfare connect logs/app
  fanfare connect prices < /dev/null --linger 1s`,
		Args: arguments(cobra.MaximumNArgs(1), "give one URL, or none for "+home),
		RunE: func(_ *cobra.Command, args []string) error {
			arg := ""
			if len(args) > 0 {
				arg = args[0]
			}
			u, err := flags.target(arg)
			if err != nil {
				return err
			}
			if isTerminal(std.in) && isTerminal(std.out) {
				return connectScreen(&flags, u, std)
			}
			return connectPipe(&flags, u, linger, std)
		},
	}
	flags.register(cmd)
	flags.registerListening(cmd)
	cmd.Flags().DurationVar(&linger, "linger", 300*time.Millisecond, "at the end of the input, go on listening until nothing came for so long (5s in all)")
	return cmd
}

// connectPipe sends standard input and prints what arrives.
func connectPipe(f *dialFlags, u *url.URL, linger time.Duration, std stdio) error {
	signal.Ignore(syscall.SIGPIPE) // so that writing to a closed pipe is an error that we can end on
	ctx, stop := untilInterrupted(nil)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := newPrinter(std.out, cancel)
	s, err := f.meet(ctx, u, false, func(linkState) {})
	switch {
	case err != nil:
		return err
	case s.client != nil:
		return f.talkOnPipe(ctx, s, u, linger, out, std)
	}
	l := newLink(linkConfig{
		url: s.again, first: s.conn, options: f.options(), pause: f.pause, linger: linger,
		onMessage: out.message, onState: sayStates(u, std),
	})
	read := make(chan error, 1)
	go func() {
		all, left, err := sendLines(std.in, int64(f.maxMessage), std, func(line []byte, number int) error {
			return l.send(ctx, &outgoing{typ: websocket.Text, data: line, number: number})
		})
		if err == nil {
			err = leftOut(all, left)
		}
		read <- err // before finish, so that it is there when run returns
		l.finish()
	}()
	if err := l.run(ctx); err != nil || out.unread.Load() {
		return err
	}
	doubtful, unsent := l.unconfirmed()
	return pipeEnds(ctx, read, doubtful, unsent)
}

// pipeEnds returns what is left to say when a connection ended in order. read
// has the result of reading standard input, if that is over.
func pipeEnds(ctx context.Context, read <-chan error, doubtful, unsent int) error {
	if doubtful+unsent > 0 && ctx.Err() != nil {
		return fmt.Errorf("interrupted: not sent: %s; may not have arrived: %s", several(unsent, "line"), several(doubtful, "line"))
	}
	select {
	case err := <-read:
		if errors.Is(err, errStop) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	default: // standard input goes on, but nobody is there to hear
		return nil
	}
}

// talkOnPipe does on a pipe what there is to do with a Fanfare server.
func (f *dialFlags) talkOnPipe(ctx context.Context, s *server, u *url.URL, linger time.Duration, out *printer, std stdio) error {
	c := s.client
	defer c.Close()
	names := f.names(u, s.home)
	h, err := f.hear(ctx, c, u, names)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	listening, enough := context.WithCancel(ctx)
	defer enough()
	sp := newSpeaker(c, writable(names), client.PublishOptions{}, func(s saying, _ string, refused error) {
		if refused != nil {
			std.say("line %d was not sent: %v", s.number, refused)
		}
	})
	var heard atomic.Int64 // when the last message came
	read := make(chan error, 1)
	go func() {
		all, left, err := sendLines(std.in, int64(f.maxMessage), std, func(line []byte, number int) error { return sp.say(listening, string(line), number) })
		sp.finish()
		<-sp.over
		if err == nil {
			err = leftOut(all, left+sp.refused)
		}
		read <- err
		for began := time.Now(); ; {
			last := time.Unix(0, max(heard.Load(), began.UnixNano()))
			left := min(time.Until(last.Add(linger)), time.Until(began.Add(max(lingerMost, linger))))
			if left <= 0 || !sleep(listening, left) {
				break
			}
		}
		enough()
	}()
	told := make(chan struct{})
	go func() {
		defer close(told)
		follow(listening, c, u, sayStates(u, std))
	}()
	err = h.run(listening, pipeEars(names, false, out, std, func() error {
		heard.Store(time.Now().UnixNano())
		return nil
	}))
	enough()
	<-told
	_ = c.Close() // what it did not get done the speaker knows
	sp.finish()
	<-sp.over
	if err != nil || out.unread.Load() {
		if err != nil && sp.doubtful+sp.unsent > 0 {
			std.say("not sent: %s; may not have arrived: %s", several(sp.unsent, "line"), several(sp.doubtful, "line"))
		}
		return err
	}
	return pipeEnds(ctx, read, sp.doubtful, sp.unsent)
}

// pipeEars print messages, and say the rest on standard error. counted is called
// after each message.
func pipeEars(names []string, asJSON bool, out *printer, std stdio, counted func() error) ears {
	named := len(names) > 1 || isPattern(names[0])
	return ears{
		message: func(m *client.Message) error {
			if err := out.said(m, named, asJSON); err != nil {
				return err
			}
			return counted()
		},
		gap: func(gap *client.GapError) { std.say("%s", missing(gap)) },
		presence: func(sub *client.Subscription, e *client.PresenceEvent) {
			if named {
				std.say("%s: %s", sub.Channel(), presence(e))
			} else {
				std.say("%s", presence(e))
			}
		},
	}
}

// sayStates tells on standard error when a connection is lost and when it is
// back.
func sayStates(u *url.URL, std stdio) func(linkState) {
	lost := false
	return func(s linkState) {
		switch {
		case s.wait > 0:
			lost = true
			std.say("%s; connecting again in %v", s.reason, s.wait.Round(100*time.Millisecond))
		case s.connected && lost:
			lost = false
			std.say("connected to %s again", visible(u))
		}
	}
}

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
