package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fanfare/websocket"
)

func publishCommand(std stdio) *cobra.Command {
	var flags dialFlags
	var binary bool
	cmd := &cobra.Command{
		Use:   "publish URL [MESSAGE | -]",
		Short: "Say one message, or each line of standard input, into a channel",
		Long: `Send MESSAGE to a channel and end. With - (or when standard input is a pipe
and there is no MESSAGE) each line of standard input is a message.
` + targetHelp + `

It ends when the server has confirmed that it read everything and the
connection was closed in order. A connection that breaks before that is not
made again: the exit code is 5, and standard error says how much is in doubt.`,
		Example: `  fanfare publish chat/general "Dinner is ready"
  fanfare publish chat/general '{"type":"chat","content":"Hello"}' --name alice
  seq 1 100 | fanfare publish numbers -
  fanfare publish images --binary < photo.jpg`,
		Args: arguments(cobra.RangeArgs(1, 2), "give a URL and a message; put a message of several words in quotes"),
		RunE: func(_ *cobra.Command, args []string) error {
			u, err := flags.target(args[0])
			if err != nil {
				return err
			}
			limit := int64(flags.maxMessage)
			fromInput := len(args) == 1 || args[1] == "-"
			var one *outgoing
			switch {
			case len(args) == 1 && isTerminal(std.in):
				return usage(errors.New("there is nothing to publish: give a MESSAGE, or - to write lines"))
			case !fromInput:
				one = &outgoing{typ: websocket.Text, data: []byte(args[1]), number: 1}
			case binary:
				data, err := io.ReadAll(io.LimitReader(std.in, limit+1))
				if err != nil {
					return fmt.Errorf("reading standard input: %w", err)
				}
				one = &outgoing{data: data, number: 1}
			}
			if one != nil {
				if binary {
					one.typ = websocket.Binary
				}
				switch {
				case int64(len(one.data)) > limit:
					return fmt.Errorf("the message was not sent: it is larger than the %d bytes that --max-message allows", limit)
				case one.typ == websocket.Text && !utf8.Valid(one.data):
					return errors.New("the message was not sent: it is not UTF-8, as a text must be; --binary sends any bytes")
				}
			}

			ctx, stop := untilInterrupted(nil)
			defer stop()
			l := newLink(linkConfig{
				url: u, options: flags.options(), once: true,
				onMessage: func(websocket.MessageType, []byte) error { return nil }, // what others say is not ours to print
			})
			read := make(chan error, 1)
			go func() {
				var err error
				if one != nil {
					err = l.send(ctx, one)
				} else {
					err = sendLines(ctx, l, std.in, limit, std)
				}
				read <- err // before finish, so that it is there when run returns
				l.finish()
			}()
			err = l.run(ctx)
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
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&binary, "binary", false, "send a binary message: MESSAGE, or all of standard input as one")
	return cmd
}
