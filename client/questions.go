package client

import (
	"context"
	"encoding/json"
	"fmt"

	"fanfare/protocol"
)

// A Page is a part of a channel's history, oldest message first.
type Page struct {
	Messages []*Message
	Position string // where reading goes on: a Since for the next page, or to subscribe from
	Gap      bool   // messages after Since are no longer kept
	More     bool   // the limit left newer messages out
}

// HistoryOptions say which part of history is meant. Nil or zero: the newest 100 messages.
type HistoryOptions struct {
	Since string // only what follows this position; "0": from the oldest kept. Empty: the newest Limit messages
	Limit int    // 1 to 1,000; 0: 100
}

// History returns a part of what is kept of a channel, or of a pattern. It waits for a connection.
func (c *Client) History(ctx context.Context, channel string, o *HistoryOptions) (*Page, error) {
	if o == nil {
		o = &HistoryOptions{}
	}
	command := protocol.Command{Type: protocol.History, Channel: c.orURLs(channel), Since: o.Since}
	if limit := o.Limit; limit != 0 {
		command.Limit = &limit
	}
	answer, err := c.ask(ctx, command, 0)
	if err != nil {
		return nil, err
	}
	return pageOf(answer)
}

func pageOf(answer *protocol.Event) (*Page, error) {
	page := &Page{Position: answer.Position, Gap: answer.Gap, More: answer.More}
	for _, text := range answer.Messages {
		m, err := protocol.ParseMessage(text)
		if err != nil {
			return nil, fmt.Errorf("client: a page of history cannot be understood: %w", err)
		}
		page.Messages = append(page.Messages, &Message{m})
	}
	return page, nil
}

// Request asks the program that the server is part of. data is what
// [encoding/json] makes of it, nothing if nil; the answer is decoded into out,
// unless that is nil. It waits for a connection; but when one is lost after
// the request was sent over it, the error is an [UncertainError], because the
// request may have been handled. The program's errors are an [*Error].
func (c *Client) Request(ctx context.Context, method string, data, out any) error {
	command := protocol.Command{Type: protocol.Request, Method: method}
	if data != nil {
		var err error
		if command.Data, err = marshal(data); err != nil {
			return fmt.Errorf("client: the request's data: %w", err)
		}
	}
	answer, err := c.ask(ctx, command, len(command.Data))
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer.Data, out); err != nil {
		return fmt.Errorf("client: the answer to %s: %w", method, err)
	}
	return nil
}
