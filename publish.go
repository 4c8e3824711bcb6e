package fanfare

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"

	"fanfare/auth"
	"fanfare/broker"
)

// A Message is one publication.
type Message = broker.Message

// A Position is a place in a channel: right after the message that carries it.
type Position = broker.Position

// maxKey is the longest key of a message in bytes.
const maxKey = 255

// maxID is the longest id of a publication in bytes.
const maxID = 128

// Publish publishes a message, of which Channel, Payload, Binary, Sender, Key and
// ID count, and waits until the broker acknowledged it or ctx is done; in the
// latter case it may have been published all the same. The message is copied.
// Errors are [*Error] for what breaks a rule, [ErrServerClosed], or the
// broker's. It may be called from any goroutine.
func (s *Server) Publish(ctx context.Context, m *Message) (Position, error) {
	own := *m
	own.Payload = bytes.Clone(m.Payload)
	// The strings too: history keeps them, and they may be pieces of something
	// bigger, such as a request line.
	own.Channel, own.Sender = strings.Clone(m.Channel), strings.Clone(m.Sender)
	own.Key, own.ID = strings.Clone(m.Key), strings.Clone(m.ID)
	return s.publishAndWait(ctx, &own, nil)
}

// publishAndWait publishes what somebody says, whom nil is the program. It owns m.
func (s *Server) publishAndWait(ctx context.Context, m *Message, who *speaker) (Position, error) {
	type result struct {
		pos Position
		err error
	}
	answer := make(chan result, 1)
	s.publishFor(who, m, func(pos Position, err error) { answer <- result{pos, err} })
	select {
	case r := <-answer:
		return r.pos, r.err
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
}

// publishFor publishes what somebody says who is no session, unless he may not any
// more: his access may have been revoked since he was let in, and rights may
// have been taken away.
func (s *Server) publishFor(who *speaker, m *Message, done func(Position, error)) {
	if trust := s.trust(); who != nil && trust != nil {
		defer s.revoked.enter()()
		err := s.revoked.stands(who)
		if err == nil {
			err = who.may(auth.Publish, m.Channel)
		}
		if err != nil {
			done(Position{}, err)
			return
		}
	}
	from := postFace
	if who == nil {
		from = programFace
	}
	s.publish(m, from, done)
}

// publish is the only door for publications: whoever publishes comes through
// here. It owns m from now on; from is how it came. It does not wait; done is called exactly once,
// maybe on another goroutine, and must not block.
func (s *Server) publish(m *Message, from face, done func(Position, error)) {
	s.pending.Add(1) // before the look at closing, so that Shutdown sees us or we see it
	if err := s.mayPublish(m); err != nil {
		s.pending.Add(-1)
		done(Position{}, err)
		return
	}
	if s.stats.published[from].add(len(m.Payload))%sampled == 1 {
		done = s.metrics.timed(done)
	}
	s.broker.Publish(m, func(pos Position, err error) {
		if err != nil {
			s.metrics.failed(publishOperation, err)
		}
		done(pos, err)
		s.pending.Add(-1)
	})
}

// allow returns nil if somebody from outside may publish m: by the rules, and then
// by the program's hook, which so is asked about nothing that breaks a rule. What it made of m
// publish looks at again.
func (s *Server) allow(ctx context.Context, m *Message) error {
	if err := s.mayReach(m.Channel); err != nil {
		return err
	}
	if s.cfg.Hooks.Publish == nil {
		return nil
	}
	if err := s.mayPublish(m); err != nil {
		return err
	}
	return s.cfg.Hooks.mayPublish(ctx, m)
}

func (s *Server) mayPublish(m *Message) error {
	if s.closing.Load() {
		return ErrServerClosed
	}
	if err := CheckChannel(m.Channel); err != nil {
		return err
	}
	if err := s.modest(m.Channel); err != nil {
		return err
	}
	switch {
	case len(m.Payload) > s.cfg.MaxMessage:
		s.reached(byMessageSize, "channel", m.Channel, "bytes", len(m.Payload))
		return errorf("too_big", "the message has %d bytes, and a message may have %d", len(m.Payload), s.cfg.MaxMessage)
	case !m.Binary && !utf8.Valid(m.Payload):
		return errorf("bad_text", "a text message must be UTF-8; publish other bytes as a binary message")
	}
	if len(m.ID) > maxID {
		return errorf("bad_id", "the id has %d bytes, and may have %d", len(m.ID), maxID)
	}
	if err := checkKey(m.Key); err != nil {
		return err
	}
	return checkName(m.Sender)
}

// checkKey returns nil if key can be a message's.
func checkKey(key string) error {
	if len(key) > maxKey || !utf8.ValidString(key) {
		return errorf("bad_key", "a key is UTF-8 of %d bytes at most", maxKey)
	}
	return nil
}
