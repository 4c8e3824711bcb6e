package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fanfare/websocket"
)

func subscribeCommand(std stdio) *cobra.Command {
	var flags dialFlags
	var asJSON bool
	var count int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "subscribe [URL]",
		Short: "Print what is said in a channel, a message a line",
		Long: `Print every message of a channel, one a line, until interrupted, until --count
messages have come, until --timeout has passed or until the server says
goodbye.
` + targetHelp + `

Messages are printed byte for byte, and a line break after each; on a
terminal, control characters are made visible. Everything else, such as a
connection that is lost and comes back, is said on standard error.

With a Fanfare server nothing is missed while the connection is away. With it
--channel subscribes to more channels, and to patterns such as chat/**; then
each line has its channel and a tab before it. A URL that names no channel, such
as ws://localhost:8765/, or none at all, is then the server itself. --history
and --since begin with what was said before, --presence tells on standard error
who is there, who comes and who goes.

With --json each message is an object on one line, from a Fanfare server as it
is on every face of its URLs:

  {"type":"message","channel":"chat/general","position":"1763800000000-42",
   "predecessor":"1763800000000-41","time":"2026-11-22T16:00:00.123Z",
   "sender":"alice","data":{"type":"chat","content":"hi"}}

data is JSON if the message is, a string if it is another text, and base64 with
"encoding":"base64" if it is binary. Of other servers' messages less is known:

  {"type":"text","data":"hi","time":"2026-11-22T17:03:12.345Z"}
  {"type":"json","data":{"type":"chat","content":"hi"},"time":…}   a text that is a JSON object
  {"type":"binary","data":"AAEC","time":…}                        base64

where time is when the message arrived here.

The exit code is 0 when --count messages came, 1 when the --timeout or the
server's goodbye came before the last of them. Without --count both are a
normal end, 0. It is 4 when there was no connection before the --timeout.`,
		Example: `  fanfare subscribe chat/general
  fanfare subscribe chat/general --json | jq .data
  fanfare subscribe chat/general --history 20 --count 20
  fanfare subscribe --channel 'sensors/*/temperature' --channel 'alerts/**'
  fanfare subscribe jobs/42 --count 1 --timeout 30s`,
		Args: arguments(cobra.MaximumNArgs(1), "give one URL, or a channel such as chat/general"+moreTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args)+len(flags.channels) == 0 {
				return usage(errors.New("it is not said what to subscribe to: give a URL, or a channel such as chat/general"))
			}
			u, err := flags.target(strings.Join(args, ""))
			switch {
			case err != nil:
				return err
			case cmd.Flags().Changed("count") && count <= 0:
				return usage(fmt.Errorf("--count is %d: it must be 1 or more", count))
			case cmd.Flags().Changed("timeout") && timeout <= 0:
				return usage(fmt.Errorf("--timeout is %v: it must be longer than nothing", timeout))
			}
			signal.Ignore(syscall.SIGPIPE) // see connectPipe
			ctx, stop := untilInterrupted(nil)
			defer stop()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, timeIsUp(timeout))
				defer cancel()
			}
			return subscribe(ctx, &flags, u, asJSON, count, std)
		},
	}
	flags.register(cmd)
	flags.registerListening(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each message as a JSON object")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after so many messages (default: never)")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "end after this time, such as 30s (default: never)")
	return cmd
}

// timeIsUp is the cause for which --timeout ends a context.
type timeIsUp time.Duration

func (t timeIsUp) Error() string { return fmt.Sprintf("--timeout %v has passed", time.Duration(t)) }

// subscribe prints messages until count have come (0: for ever), the server
// says goodbye or ctx ends.
func subscribe(ctx context.Context, f *dialFlags, u *url.URL, asJSON bool, count int, std stdio) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := newPrinter(std.out, cancel)
	got := 0
	counted := func() error {
		if got++; got == count {
			return errStop
		}
		return nil
	}
	s, err := f.meet(ctx, u, false, func(linkState) {})
	switch {
	case err != nil:
		return err
	case s.client != nil:
		err = f.listen(ctx, s, u, asJSON, out, std, counted)
	default:
		err = newLink(linkConfig{
			url: s.again, first: s.conn, options: f.options(), pause: f.pause, onState: sayStates(u, std),
			onMessage: func(typ websocket.MessageType, data []byte) error {
				var err error
				if asJSON {
					err = out.line(jsonLine(typ, data, time.Now()))
				} else {
					err = out.message(typ, data)
				}
				if err != nil {
					return err
				}
				return counted()
			},
		}).run(ctx)
	}
	if err != nil || count == 0 || got == count || out.unread.Load() {
		return err
	}
	var limit timeIsUp
	if errors.As(context.Cause(ctx), &limit) {
		return fmt.Errorf("%d of %d messages came within %v", got, count, time.Duration(limit))
	}
	return fmt.Errorf("%d of %d messages came", got, count)
}

// listen prints what comes from a Fanfare server.
func (f *dialFlags) listen(ctx context.Context, s *server, u *url.URL, asJSON bool, out *printer, std stdio, counted func() error) error {
	defer s.client.Close()
	names := f.names(u, s.home)
	h, err := f.hear(ctx, s.client, u, names)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	listening, end := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		follow(listening, s.client, u, sayStates(u, std))
	}()
	err = h.run(listening, pipeEars(names, asJSON, out, std, counted))
	end()
	<-told
	return err
}

// jsonLine is a message as `subscribe --json` prints it.
func jsonLine(typ websocket.MessageType, data []byte, at time.Time) []byte {
	m := struct {
		Type string `json:"type"`
		Data any    `json:"data"`
		Time string `json:"time"`
	}{"text", string(data), at.Format(time.RFC3339Nano)}
	switch trimmed := bytes.TrimSpace(data); {
	case typ == websocket.Binary:
		m.Type, m.Data = "binary", data
	case len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed):
		m.Type, m.Data = "json", json.RawMessage(trimmed)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil { // cannot happen: strings, and JSON found valid
		return fmt.Appendf(nil, `{"type":"error","data":%q}`, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
