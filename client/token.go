package client

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"fanfare/protocol"
	"fanfare/websocket"
)

// StaticToken returns an [Options.Token] that always gives the same one. When it
// expires the client ends, because it cannot get another.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// aboutWho reports whether a server's code says that the client's token will not
// do, so that another one may.
func aboutWho(code string) bool {
	switch code {
	case "unauthenticated", "bad_token", "token_expired", "token_not_yet", "token_revoked", "revoked", "forbidden":
		return true
	}
	return false
}

// Close codes that say the same where nothing else could be said.
const (
	closedUnauthenticated websocket.Code = 4401
	closedForbidden       websocket.Code = 4403
)

// header asks for a token and returns the headers with it. A token that was
// refused just now is not said again.
func (c *Client) header() (http.Header, *loss) {
	header := c.o.WebSocket.Header
	if c.o.Token == nil {
		return header, nil
	}
	token, err := c.o.Token(c.life)
	if err != nil {
		return nil, &loss{err: fmt.Errorf("client: there is no token: %w", err)}
	}
	c.mu.Lock()
	same := token == c.token
	c.token = token
	c.mu.Unlock()
	if c.refused != nil && same {
		return nil, &loss{err: c.refused, final: true}
	}
	for _, b := range []byte(token) {
		if b <= ' ' || b > '~' {
			return nil, &loss{err: fmt.Errorf("client: the token that Options.Token gave has the byte %#02x, which no token can have", b), final: true}
		}
	}
	if token == "" {
		return header, nil
	}
	if header = header.Clone(); header == nil {
		header = http.Header{}
	}
	header.Set("Authorization", "Bearer "+token)
	return header, nil
}

// introduce says who we are to a server that insists on it before anything else,
// although we came with a token: something on the way took the header away.
// It returns the server's answer.
func (c *Client) introduce(ctx context.Context, conn *websocket.Conn) (*protocol.Event, *loss) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token == "" {
		return nil, &loss{err: &Error{Code: "unauthenticated", Message: "the server wants to know who this is, and the client has no token"}, who: true}
	}
	command := protocol.Command{Type: protocol.Auth, ID: "auth", Token: token}
	if err := conn.Write(ctx, websocket.Text, command.Append(nil)); err != nil {
		return nil, ended(err)
	}
	for {
		e, lost := hear(ctx, conn)
		switch {
		case lost != nil:
			return nil, lost
		case e.Type == protocol.OKEvent:
			return e, nil
		case e.Type == protocol.ErrorEvent:
			return nil, &loss{err: &Error{Code: e.Code, Message: e.Message, Retry: e.Retry}, who: aboutWho(e.Code)}
		}
	}
}

// renew says a new token whenever the server wants one, in place: what is read goes
// on. It tries until the server has taken one, or the connection ends, with the old
// token at the latest.
func (s *session) renew(ctx context.Context) {
	for {
		select {
		case <-s.expires:
		case <-ctx.Done():
			return
		}
		pause := backoff{first: s.client.o.LeastPause, most: s.client.o.MostPause}
		for done := false; !done; {
			done = s.renewed(ctx)
			select { // even when it is done: a server that wants one after the other gets no storm
			case <-time.After(pause.next()):
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *session) renewed(ctx context.Context) bool {
	c := s.client
	token, err := c.o.Token(ctx)
	c.mu.Lock()
	if err != nil || token == "" || token == c.token {
		c.mu.Unlock()
		return false
	}
	answer := make(chan *protocol.Event, 1)
	s.due = slices.Insert(s.due, 0, utterance{protocol.Command{Type: protocol.Auth, Token: token}, func(e *protocol.Event) { answer <- e }})
	c.wakeWriter()
	c.mu.Unlock()
	select {
	case e := <-answer:
		if e.Type == protocol.ErrorEvent {
			return false
		}
	case <-ctx.Done():
		return false
	}
	c.mu.Lock()
	c.token = token
	c.mu.Unlock()
	return true
}
