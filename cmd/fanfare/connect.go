package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fanfare/client"
	"fanfare/websocket"
)

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
		Args: arguments(cobra.MaximumNArgs(1), "give one URL, or none for "+home+moreTargets),
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
