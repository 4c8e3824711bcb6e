package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"fanfare"
	"fanfare/websocket"
	"github.com/spf13/cobra"
)

// dialFlags are the flags of every client: where to, and as whom.
type dialFlags struct {
	headers      []string
	subprotocols []string
	origin       string
	insecure     bool
	name         string
	since        string
	slow         string
	maxMessage   size
}

func (f *dialFlags) register(cmd *cobra.Command) {
	f.maxMessage = 1 << 20
	flags := cmd.Flags()
	flags.VarP(&list{&f.headers, "\n", checkHeader}, "header", "H", `send a header with the handshake, "Name: value"; repeatable`)
	flags.Var(&list{&f.subprotocols, ",", checkToken}, "subprotocol", "offer a subprotocol, the best first; repeatable")
	flags.StringVar(&f.origin, "origin", "", "send this Origin, as a browser would")
	flags.BoolVar(&f.insecure, "insecure", false, "do not verify the server's certificate: whoever is between can read and write everything")
	flags.StringVar(&f.name, "name", "", "the name to speak under (?name= in the URL)")
	flags.Var(&f.maxMessage, "max-message", "the largest message sent or accepted")
}

// registerListening adds the flags of the commands that listen.
func (f *dialFlags) registerListening(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "first replay what came after this position (?since= in the URL)")
	cmd.Flags().StringVar(&f.slow, "slow", "", "what the server is to do if this reads too slowly: catch-up, skip, latest or close (?slow= in the URL; default: what the server says)")
}

func checkHeader(s string) error {
	name, value, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return errors.New(`a header is written "Name: value"`)
	case reserved(name):
		return fmt.Errorf("the header %s belongs to the handshake and cannot be set; for Sec-WebSocket-Protocol there is --subprotocol", name)
	case !isToken(name):
		return fmt.Errorf("%q is not a header's name", name)
	case strings.ContainsFunc(strings.TrimSpace(value), func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7F }):
		return fmt.Errorf("the value of the header %s has a character that headers must not have", name)
	}
	return nil
}

// reserved reports whether a header is the handshake's own (RFC 6455, section
// 4.1).
func reserved(name string) bool {
	name = strings.ToLower(name)
	return name == "connection" || name == "upgrade" || strings.HasPrefix(name, "sec-websocket-")
}

func checkToken(s string) error {
	if !isToken(s) {
		return fmt.Errorf("%q is not a subprotocol: it must be one word without separators", s)
	}
	return nil
}

// isToken reports whether s is a token of HTTP (RFC 9110, section 5.6.2): what
// names a header, and a subprotocol (RFC 6455, section 4.1).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7F || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// target is the URL of an argument with what the flags put into it.
func (f *dialFlags) target(arg string) (*url.URL, error) {
	for i, s := range f.subprotocols { // RFC 6455, section 4.1, item 10: each one once
		if slices.Contains(f.subprotocols[:i], s) {
			return nil, usage(fmt.Errorf("the subprotocol %q is there twice", s))
		}
	}
	u, err := parseTarget(arg)
	if err != nil {
		return nil, usage(err)
	}
	if f.slow != "" {
		if _, err := fanfare.ParsePolicy(f.slow); err != nil {
			return nil, usage(fmt.Errorf("--slow: %w", err))
		}
	}
	q := u.Query()
	for setting, value := range map[string]string{"name": f.name, "slow": f.slow} {
		if value != "" {
			q.Set(setting, value)
			u.RawQuery = q.Encode()
		}
	}
	return u, nil
}

// options are what the flags mean to websocket.Dial.
func (f *dialFlags) options() websocket.DialOptions {
	o := websocket.DialOptions{
		Header:       http.Header{},
		Subprotocols: f.subprotocols,
		Origin:       f.origin,
		Limit:        int64(f.maxMessage),
	}
	for _, h := range f.headers {
		name, value, _ := strings.Cut(h, ":")
		o.Header.Add(name, strings.TrimSpace(value))
	}
	if f.insecure {
		o.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	return o
}
