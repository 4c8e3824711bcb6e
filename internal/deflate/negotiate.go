package deflate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Name is the extension's token (RFC 7692, section 7).
const Name = "permessage-deflate"

// The parameters of RFC 7692, section 7.1.
const (
	serverNoTakeover = "server_no_context_takeover"
	clientNoTakeover = "client_no_context_takeover"
	serverBits       = "server_max_window_bits"
	clientBits       = "client_max_window_bits"
)

const (
	minBits = 8  // a window of 256 bytes
	maxBits = 15 // a window of 32 KiB
)

// Params are what both ends agreed on.
type Params struct {
	ServerNoTakeover bool // each message of the server's stands alone
	ClientNoTakeover bool // each message of the client's stands alone
	ServerBits       int  // the server's window is 2^ServerBits bytes; 0: not said, which is 15
	ClientBits       int  // the client's
}

// String is the answer that says so, as it stands in Sec-WebSocket-Extensions.
func (p Params) String() string {
	s := Name
	if p.ServerNoTakeover {
		s += "; " + serverNoTakeover
	}
	if p.ClientNoTakeover {
		s += "; " + clientNoTakeover
	}
	if p.ServerBits != 0 {
		s += "; " + serverBits + "=" + strconv.Itoa(p.ServerBits)
	}
	if p.ClientBits != 0 {
		s += "; " + clientBits + "=" + strconv.Itoa(p.ClientBits)
	}
	return s
}

// Accept chooses from a client's offers, the values of its header
// Sec-WebSocket-Extensions, the first that can be agreed to; ok is false when
// there is none. With takeover the context goes on from message to message
// wherever the client leaves that free, and else nowhere.
//
// An offer with an unknown parameter, one that is there twice, or a value that
// is not permitted is declined (RFC 7692, section 7). The error is for a header
// that is no list of extensions at all, upon which the handshake must fail
// (RFC 6455, section 9.1).
func Accept(header []string, takeover bool) (p Params, ok bool, err error) {
	offers, err := parse(header)
	if err != nil {
		return Params{}, false, err
	}
	for _, offer := range offers {
		if offer.name != Name {
			continue
		}
		asked, err := offer.read(true)
		if err != nil {
			continue
		}
		return Params{
			ServerNoTakeover: asked.ServerNoTakeover || !takeover,
			ClientNoTakeover: asked.ClientNoTakeover || !takeover,
			ServerBits:       asked.ServerBits,
			// The client's window is left to the client: ours to inflate is always the largest.
		}, true, nil
	}
	return Params{}, false, nil
}

// Offer is what a client asks for, with or without context takeover, as it
// stands in Sec-WebSocket-Extensions. The server may choose the client's window.
func Offer(takeover bool) string {
	if takeover {
		return Name + "; " + clientBits
	}
	return Name + "; " + serverNoTakeover + "; " + clientNoTakeover + "; " + clientBits
}

// Check reads a server's answer to an [Offer] with the same takeover; ok is
// false when the server agreed to nothing. Upon an error the connection must
// fail (RFC 7692, section 5.1).
func Check(header []string, takeover bool) (p Params, ok bool, err error) {
	answers, err := parse(header)
	switch {
	case err != nil:
		return Params{}, false, err
	case len(header) == 0:
		return Params{}, false, nil
	case len(answers) == 0:
		return Params{}, false, errMalformed // a list has an element
	case len(answers) > 1 || answers[0].name != Name:
		return Params{}, false, errors.New("the server uses an extension that was not offered")
	}
	p, err = answers[0].read(false)
	if err != nil {
		return Params{}, false, fmt.Errorf("the server's answer to %s: %w", Name, err)
	}
	if !takeover && !p.ServerNoTakeover {
		return Params{}, false, fmt.Errorf("the server's answer to %s leaves out %s, which was asked for", Name, serverNoTakeover)
	}
	p.ClientNoTakeover = p.ClientNoTakeover || !takeover
	return p, true, nil
}

// An extension is one element of the header.
type extension struct {
	name   string
	params []param
}

type param struct {
	name, value string
	valued      bool // there was a value
}

// read holds the parameters to RFC 7692, section 7.1. Only in an offer may
// client_max_window_bits be without a value.
func (e *extension) read(offer bool) (p Params, err error) {
	seen := make(map[string]bool, 4)
	for _, given := range e.params {
		if seen[given.name] {
			return Params{}, fmt.Errorf("%s is there twice", given.name)
		}
		switch given.name {
		case serverNoTakeover, clientNoTakeover:
			if given.valued {
				return Params{}, fmt.Errorf("%s has a value", given.name)
			}
			p.ServerNoTakeover = p.ServerNoTakeover || given.name == serverNoTakeover
			p.ClientNoTakeover = p.ClientNoTakeover || given.name == clientNoTakeover
		case serverBits:
			p.ServerBits, err = bits(given)
		case clientBits:
			if given.valued || !offer {
				p.ClientBits, err = bits(given)
			}
		default:
			return Params{}, errors.New("a parameter is unknown")
		}
		if err != nil {
			return Params{}, err
		}
		seen[given.name] = true
	}
	return p, nil
}

// bits reads a decimal number from 8 to 15 without leading zeros.
func bits(p param) (int, error) {
	for n := minBits; n <= maxBits; n++ {
		if p.value == strconv.Itoa(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s must be a number from %d to %d", p.name, minBits, maxBits)
}

// parse reads the grammar of RFC 6455, section 9.1, in time linear in the
// header's size. Several headers are one list.
func parse(header []string) ([]extension, error) {
	var all []extension
	for _, line := range header {
		s := scanner{line}
		for {
			s.blank()
			if s.rest == "" {
				break
			}
			if s.take(',') { // a list may have empty elements (RFC 9110, section 5.6.1)
				continue
			}
			e, err := s.extension()
			if err != nil {
				return nil, err
			}
			all = append(all, e)
			if s.blank(); s.rest != "" && !s.take(',') {
				return nil, errMalformed
			}
		}
	}
	return all, nil
}

var errMalformed = errors.New("Sec-WebSocket-Extensions is no list of extensions as in RFC 6455, section 9.1")

// A scanner goes through a line; what is left of it only gets shorter.
type scanner struct{ rest string }

func (s *scanner) extension() (e extension, err error) {
	if e.name = s.token(); e.name == "" {
		return e, errMalformed
	}
	for {
		if s.blank(); !s.take(';') {
			return e, nil
		}
		s.blank()
		p := param{name: s.token()}
		if p.name == "" {
			return e, errMalformed
		}
		if s.blank(); s.take('=') {
			s.blank()
			p.valued = true
			if p.value, err = s.value(); err != nil {
				return e, err
			}
		}
		e.params = append(e.params, p)
	}
}

// value reads a token, or a quoted one: unescaped it must be a token too.
func (s *scanner) value() (string, error) {
	if !s.take('"') {
		if v := s.token(); v != "" {
			return v, nil
		}
		return "", errMalformed
	}
	var v []byte
	for i := 0; i < len(s.rest); i++ {
		c := s.rest[i]
		if c == '"' {
			s.rest = s.rest[i+1:]
			if len(v) == 0 {
				return "", errMalformed
			}
			return string(v), nil
		}
		if c == '\\' {
			if i++; i == len(s.rest) {
				break
			}
			c = s.rest[i]
		}
		if !isToken(c) {
			return "", errMalformed
		}
		v = append(v, c)
	}
	return "", errMalformed
}

func (s *scanner) token() string {
	n := 0
	for n < len(s.rest) && isToken(s.rest[n]) {
		n++
	}
	t := s.rest[:n]
	s.rest = s.rest[n:]
	return t
}

func (s *scanner) blank() { s.rest = strings.TrimLeft(s.rest, " \t") }

func (s *scanner) take(c byte) bool {
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// isToken reports whether c may be in a token (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
