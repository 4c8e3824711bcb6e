package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

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
while the connection is away wait (1,000 at most) and are sent when it is
back.

On a pipe each line of standard input is sent as a text message, and each
message that arrives is a line on standard output, byte for byte (if standard
output is a terminal, control characters are made visible). At the end of the
input it waits until the server has read everything and for --linger nothing
more has come, and closes in order. A line that cannot be sent (too long, not
UTF-8) is reported and left out, and the exit code is then 1.

A lost connection is made again, after a pause that grows from half a second
to 30 seconds at most, chosen at random below that. From a Fanfare server you
then get what you missed. A line that the server had not confirmed is sent
again, so it may arrive twice. On a pipe, the very first attempt must succeed.`,
		Example: `  fanfare connect
  fanfare connect chat/general --name alice
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
			cfg := linkConfig{url: u, since: flags.since, options: flags.options(), linger: linger}
			if isTerminal(std.in) && isTerminal(std.out) {
				return connectScreen(cfg, flags.name, int64(flags.maxMessage), std)
			}
			return connectPipe(cfg, int64(flags.maxMessage), std)
		},
	}
	flags.register(cmd)
	flags.registerListening(cmd)
	cmd.Flags().DurationVar(&linger, "linger", 300*time.Millisecond, "at the end of the input, go on listening until nothing came for so long (5s in all)")
	return cmd
}

// connectPipe sends standard input and prints what arrives.
func connectPipe(cfg linkConfig, limit int64, std stdio) error {
	signal.Ignore(syscall.SIGPIPE) // so that writing to a closed pipe is an error that we can end on
	ctx, stop := untilInterrupted(nil)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := newPrinter(std.out, cancel)
	cfg.onMessage = out.message
	cfg.onState = sayStates(cfg.url, std)
	l := newLink(cfg)
	read := make(chan error, 1)
	go func() {
		err := sendLines(ctx, l, std.in, limit, std)
		read <- err // before finish, so that it is there when run returns
		l.finish()
	}()
	if err := l.run(ctx); err != nil || out.unread.Load() {
		return err
	}
	if doubtful, unsent := l.unconfirmed(); doubtful+unsent > 0 && ctx.Err() != nil {
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

// connectScreen shows the interactive screen.
func connectScreen(cfg linkConfig, name string, limit int64, std stdio) error {
	ctx, stop := untilInterrupted(nil)
	defer stop()
	var l *link
	number := 0
	screen := terminal.New(terminal.Options{
		Input: std.in, Output: std.out,
		Target: visible(cfg.url),
		Name:   name,
		Send: func(line string) error {
			switch {
			case int64(len(line)) > limit:
				return fmt.Errorf("it has %d bytes, and --max-message allows %d", len(line), limit)
			case !utf8.ValidString(line):
				return errors.New("it is not UTF-8")
			}
			number++
			return l.trySend(&outgoing{typ: websocket.Text, data: []byte(line), number: number})
		},
	})
	cfg.patient = true
	cfg.linger = 0
	echoes := false // written and read by the link's goroutines, and only while it is connected
	cfg.onMessage = func(typ websocket.MessageType, data []byte) error {
		if typ == websocket.Binary {
			screen.Binary(time.Now(), len(data))
		} else {
			screen.Text(time.Now(), string(data))
		}
		return nil
	}
	cfg.onState = func(s linkState) {
		switch {
		case s.connected:
			echoes = s.fanfare
			screen.Status(terminal.Status{State: terminal.Connected})
		case s.wait > 0:
			screen.Status(terminal.Status{State: terminal.Waiting, Next: time.Now().Add(s.wait), Reason: s.reason})
		default:
			screen.Status(terminal.Status{State: terminal.Connecting})
		}
	}
	cfg.onSent = func(m *outgoing) {
		if !echoes { // a Fanfare server sends to everyone on the channel, the sender included
			screen.Sent(time.Now(), string(m.data))
		}
	}
	var inOrder sync.Mutex // so that the newest word about the queue is the last one
	cfg.onQueue = func() {
		inOrder.Lock()
		defer inOrder.Unlock()
		screen.Waiting(l.waiting())
	}
	l = newLink(cfg)

	linkCtx, cut := context.WithCancel(ctx)
	defer cut()
	ended := make(chan error, 1)
	go func() {
		err := l.run(linkCtx)
		ended <- err
		screen.Leave()
	}()
	screenErr := screen.Run(ctx)
	l.finish()
	if !l.isOnline() {
		cut()
	}
	var err error
	select {
	case err = <-ended:
	case <-time.After(leaving):
		cut()
		err = <-ended
	}
	if err == nil {
		err = screenErr
	}
	if doubtful, unsent := l.unconfirmed(); err == nil && doubtful+unsent > 0 {
		err = fmt.Errorf("not sent: %s", several(doubtful+unsent, "line"))
	}
	return err
}
