package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fanfare/client"
	"fanfare/websocket"
)

func publishCommand(std stdio) *cobra.Command {
	var flags dialFlags
	p := publication{away: 30 * time.Second}
	cmd := &cobra.Command{
		Use:   "publish URL [MESSAGE | -]",
		Short: "Say one message, or each line of standard input, into a channel",
		Long: `Send MESSAGE to a channel and end. With - (or when standard input is a pipe
and there is no MESSAGE) each line of standard input is a message.
` + targetHelp + `

A Fanfare server answers each message when it is in the channel's history, and
publish ends when all are answered. A connection that is lost meanwhile is made
again, and each message is published once; after 30 seconds without one the
exit code is 5. If the server refuses a message, its sentence is said and the
exit code is 1. --json prints for each message where it is, and -v says so:

  {"channel":"chat/general","position":"1763800000000-42"}

Whoever does not know whether a run of this command succeeded can repeat it with
the same --id: for five minutes, unless the server's settings say otherwise, it is
one message. With --channel it goes to that channel, or to each of several; a
URL that names none, such as ws://localhost:8765/, is then the server itself.

With any other server it ends when the server has confirmed that it read
everything and the connection was closed in order. A connection that breaks
before that is not made again: the exit code is 5, and standard error says how
much is in doubt.`,
		Example: `  fanfare publish chat/general "Dinner is ready"
  fanfare publish chat/general '{"type":"chat","content":"Hello"}' --name alice
  seq 1 100 | fanfare publish numbers -
  fanfare publish tick/gold 4071.30 --key gold
  fanfare publish orders '{"order":17}' --id order-17 --json
  fanfare publish images --binary < photo.jpg`,
		Args: arguments(cobra.RangeArgs(1, 2), "give a URL and a message; put a message of several words in quotes"),
		RunE: func(_ *cobra.Command, args []string) error {
			u, err := flags.target(args[0])
			if err != nil {
				return err
			}
			if err := p.read(args[0], args[1:], &flags, std); err != nil {
				return err
			}
			ctx, stop := untilInterrupted(nil)
			defer stop()
			s, err := flags.meet(ctx, u, false, func(linkState) {})
			switch {
			case err != nil:
				return err
			case s.client != nil:
				return p.publish(ctx, &flags, s, u, std)
			}
			return p.send(ctx, &flags, s, std)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&p.binary, "binary", false, "send a binary message: MESSAGE, or all of standard input as one")
	cmd.Flags().StringVar(&flags.key, "key", "", "what the message is the newest value of, for slow readers who want the latest (?key= in the URL)")
	cmd.Flags().StringVar(&flags.id, "id", "", "a name for the message, by which the server knows it if it is published again")
	cmd.Flags().BoolVar(&p.json, "json", false, "print where each message is, as a JSON object")
	cmd.Flags().BoolVarP(&p.verbose, "verbose", "v", false, "say where each message is")
	return cmd
}

// A publication is what `publish` publishes.
type publication struct {
	binary  bool
	json    bool
	verbose bool
	whole   bool   // it is one message; otherwise each line of standard input is one
	text    string // of the one
	dash    bool   // standard input was asked for

	away time.Duration // how long it goes on without a connection
}

// read finds out what is to be published, by what stands behind where.
func (p *publication) read(where string, args []string, f *dialFlags, std stdio) error {
	limit := int64(f.maxMessage)
	p.dash = len(args) > 0
	switch fromInput := len(args) == 0 || args[0] == "-"; {
	case len(args) == 0 && isTerminal(std.in):
		return usage(fmt.Errorf("%q is where to publish, and there is nothing to publish: give a MESSAGE after it, or - to write lines", where))
	case !fromInput:
		p.whole, p.text = true, args[0]
	case p.binary:
		data, err := io.ReadAll(io.LimitReader(std.in, limit+1))
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		p.whole, p.text = true, string(data)
	case f.id != "":
		return usage(errors.New("--id is the name of one message, and each line of standard input is one: give a MESSAGE"))
	default:
		return nil
	}
	switch {
	case int64(len(p.text)) > limit:
		return fmt.Errorf("the message was not sent: it is larger than the %d bytes that --max-message allows", limit)
	case !p.binary && !utf8.ValidString(p.text):
		return errors.New("the message was not sent: it is not UTF-8, as a text must be; --binary sends any bytes")
	}
	return nil
}

// each hands over what is to be published, message by message.
func (p *publication) each(f *dialFlags, std stdio, send func(data []byte, number int) error) (all, left int, err error) {
	if p.whole {
		return 1, 0, send([]byte(p.text), 1)
	}
	all, left, err = sendLines(std.in, int64(f.maxMessage), std, send)
	if all == 0 && err == nil && !p.dash {
		std.say("nothing was published: there is no MESSAGE, and nothing came from standard input")
	}
	return all, left, err
}

// publish publishes to a Fanfare server.
func (p *publication) publish(ctx context.Context, f *dialFlags, s *server, u *url.URL, std stdio) error {
	c := s.client
	defer c.Close()
	names := f.names(u, s.home)
	for _, name := range names {
		if isPattern(name) {
			return usage(fmt.Errorf("%s is a pattern, which one can read, but not publish to", name))
		}
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	var sentence, broken error // of a refusal; of printing
	sp := newSpeaker(c, names, client.PublishOptions{Key: f.key, ID: f.id, Binary: p.binary}, func(s saying, position string, refused error) {
		switch {
		case refused != nil && p.whole:
			sentence = fmt.Errorf("not published to %s: %w", s.channel, refused)
		case refused != nil:
			std.say("line %d was not published: %v", s.number, refused)
		case p.json:
			if err := json.NewEncoder(std.out).Encode(published{s.channel, position}); err != nil {
				broken = fmt.Errorf("writing standard output: %w", err)
			}
		}
		if refused == nil && p.verbose {
			std.say("published to %s at %s", s.channel, position)
		}
	})
	over := make(chan error, 1)
	go func() {
		all, left, err := p.each(f, std, func(data []byte, number int) error { return sp.say(ctx, string(data), number) })
		sp.finish()
		<-sp.over
		if err == nil && !p.whole {
			err = leftOut(all, left+sp.refused)
		}
		over <- err
	}()
	told := make(chan struct{})
	go func() {
		defer close(told)
		p.follow(ctx, c, giveUp, u, std)
	}()
	var err error
	select {
	case err = <-over:
	case <-told:
	}
	switch state := c.State(); {
	case state.Phase == client.Closed:
		err = explainEnd(u, state.Err)
	case errors.Is(context.Cause(ctx), errInterrupted):
		err = errors.New("interrupted")
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	_ = c.Close() // what it did not get done the speaker knows
	sp.finish()
	<-sp.over
	giveUp(nil)
	<-told
	if sp.doubtful > 0 {
		std.say("may not have arrived: %s", several(sp.doubtful, "message"))
	}
	if sp.unsent > 0 {
		std.say("not sent: %s", several(sp.unsent, "message"))
	}
	if err == nil && sp.doubtful > 0 {
		err = &exitError{exitClosed, sp.why}
	}
	return cmp.Or(err, sentence, broken)
}

// published is what --json prints for each message.
type published struct {
	Channel  string `json:"channel"`
	Position string `json:"position"`
}

// follow tells how the client is until it or ctx has ended, and gives up when it
// is without a connection for too long.
func (p *publication) follow(ctx context.Context, c *client.Client, giveUp context.CancelCauseFunc, u *url.URL, std stdio) {
	tooLong := time.AfterFunc(p.away, func() {
		giveUp(&exitError{exitClosed, fmt.Errorf("there was no connection for %v", p.away)})
	})
	defer tooLong.Stop()
	away := true
	tell := sayStates(u, std)
	follow(ctx, c, u, func(s linkState) {
		switch {
		case s.connected:
			tooLong.Stop()
		case !away:
			tooLong.Reset(p.away)
		}
		away = !s.connected
		tell(s)
	})
}

// send sends to a server that is no Fanfare server.
func (p *publication) send(ctx context.Context, f *dialFlags, s *server, std stdio) error {
	typ := websocket.Text
	if p.binary {
		typ = websocket.Binary
	}
	l := newLink(linkConfig{
		url: s.again, first: s.conn, options: f.options(), once: true,
		onMessage: func(websocket.MessageType, []byte) error { return nil }, // what others say is not ours to print
	})
	read := make(chan error, 1)
	go func() {
		all, left, err := p.each(f, std, func(data []byte, number int) error {
			return l.send(ctx, &outgoing{typ: typ, data: data, number: number})
		})
		if err == nil {
			err = leftOut(all, left)
		}
		read <- err // before finish, so that it is there when run returns
		l.finish()
	}()
	err := l.run(ctx)
	doubtful, unsent := l.unconfirmed()
	if doubtful > 0 {
		std.say("may not have arrived: %s", several(doubtful, "message"))
	}
	if unsent > 0 {
		std.say("not sent: %s", several(unsent, "message"))
	}
	if err != nil {
		return err
	}
	select {
	case err = <-read:
		if err == nil {
			return nil
		}
		if !errors.Is(err, errStop) && !errors.Is(err, context.Canceled) {
			return err
		}
	default:
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return &exitError{exitClosed, errors.New("the server closed the connection before the end of the input")}
}
