package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fanfare/client"
	"fanfare/internal/terminal"
	"fanfare/websocket"
)

// A dialFailure says for people why no connection came about.
type dialFailure struct {
	text       string
	cause      error
	final      bool          // trying again will not help
	retryAfter time.Duration // the server's wish
}

func (f *dialFailure) Error() string { return f.text }
func (f *dialFailure) Unwrap() error { return f.cause }

// explainDial makes of an error of websocket.Dial what to tell and what to do.
// answer is the server's, if it gave one.
func explainDial(u *url.URL, answer *http.Response, err error) *dialFailure {
	var known *dialFailure
	if errors.As(err, &known) {
		return known
	}
	f := &dialFailure{cause: err}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	switch {
	case answer != nil && redirects(answer):
		f.text = fmt.Sprintf("could not connect to %s: %v", visible(u), short(err))
		f.final = true
	case answer != nil && answer.StatusCode != http.StatusSwitchingProtocols:
		f.text = explainStatus(u, answer)
		f.final = answer.StatusCode < 500 && answer.StatusCode != http.StatusRequestTimeout &&
			answer.StatusCode != http.StatusTooEarly && answer.StatusCode != http.StatusTooManyRequests
		if s, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && s > 0 {
			f.retryAfter = min(time.Duration(s)*time.Second, 10*backoffMost)
		}
	case errors.Is(err, syscall.ENOENT) && strings.HasSuffix(u.Scheme, "+unix"):
		f.text = fmt.Sprintf("there is no socket %s: start a server with `fanfare serve --listen unix:%[1]s`, or give another URL", socket(u))
	case errors.Is(err, syscall.ECONNREFUSED) && strings.HasSuffix(u.Scheme, "+unix"):
		f.text = fmt.Sprintf("nothing listens on the socket %s: start a server with `fanfare serve --listen unix:%[1]s`, or give another URL", socket(u))
	case errors.Is(err, syscall.ECONNREFUSED):
		f.text = fmt.Sprintf("nothing listens on %s: start a server with `fanfare serve`, or give another URL", address(u))
	case errors.As(err, &dns) && dns.IsNotFound:
		f.text = fmt.Sprintf("no host is called %s: check the URL", u.Hostname())
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		f.text = fmt.Sprintf("the certificate of %s cannot be trusted (%v): --ca FILE trusts an authority of your own; if you know why and it is all right, --insecure goes on without", address(u), short(err))
		f.final = true
	case errors.As(err, &record):
		f.text = fmt.Sprintf("%s does not speak TLS: write ws:// instead of wss://", address(u))
		f.final = true
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		f.text = fmt.Sprintf("%s did not answer in time: check that the URL is right and no firewall is between", address(u))
	case answer != nil:
		f.text = fmt.Sprintf("%s does not speak WebSocket as it should: %v", visible(u), short(err))
		f.final = true
	default:
		f.text = fmt.Sprintf("could not connect to %s: %v", visible(u), short(err))
	}
	return f
}

// socket is the path of a Unix socket's URL.
func socket(u *url.URL) string {
	path, _, _ := strings.Cut(u.Path, ":")
	return path
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// address is host and port, also where the URL leaves the port to the scheme.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// redirects reports whether an answer is a redirect that websocket.Dial tried
// to follow.
func redirects(answer *http.Response) bool {
	switch answer.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return answer.Header.Get("Location") != ""
	}
	return false
}

// short is err without the words of our own package, and without the URL, which
// stands before it.
func short(err error) string {
	text := strings.ReplaceAll(err.Error(), "websocket: ", "")
	if rest, ok := strings.CutPrefix(text, "dialing "); ok {
		_, text, _ = strings.Cut(rest, ": ")
	}
	return text
}

// explainStatus is for an answer other than 101.
func explainStatus(u *url.URL, answer *http.Response) string {
	text := fmt.Sprintf("%s answered %s", visible(u), terminal.Printable(answer.Status))
	if answer.Body != nil {
		text += reasonIn(answer)
	}
	switch code := answer.StatusCode; {
	case code == http.StatusBadRequest && answer.Proto == "HTTP/1.0" && strings.HasPrefix(u.Scheme, "ws") && !strings.HasPrefix(u.Scheme, "wss"):
		text += "; if it speaks TLS, write wss:// instead of ws://"
	case code == http.StatusUnauthorized:
		text += `; give what it asks for: a token (FANFARE_TOKEN, --token-file, --token), or another header with -H`
	case code == http.StatusForbidden:
		text += "; it may want another --origin, or another token (FANFARE_TOKEN, --token-file, --token)"
	case code == http.StatusNotFound:
		text += "; check the URL's path"
	case code >= 300 && code < 400 && answer.Header.Get("Location") != "":
		text += "; it has moved to " + terminal.Printable(answer.Header.Get("Location"))
	case code == http.StatusOK:
		text += " instead of 101 Switching Protocols: this is no WebSocket server"
	}
	return text
}

// reasonIn is what a refusal's body says for people: a Fanfare server's
// message, else the first line if it is plain text.
func reasonIn(answer *http.Response) string {
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 4096)) // what came has to do
	var ours struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	switch kind := answer.Header.Get("Content-Type"); {
	case json.Unmarshal(body, &ours) == nil && ours.Error.Message != "":
		line = ours.Error.Message
	case strings.HasPrefix(kind, "text/html"), strings.HasPrefix(line, "<"):
		return ""
	}
	if line = strings.TrimSpace(line); line == "" {
		return ""
	}
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return ": " + terminal.Printable(line)
}

// explainLoss says for people why there is no connection to a Fanfare server, or
// no longer.
func explainLoss(u *url.URL, err error) string {
	var (
		refused *client.RefusedError
		said    *client.Error
		closed  *websocket.CloseError
	)
	own, isOwn := strings.CutPrefix(err.Error(), "client: ")
	switch {
	case errors.As(err, &refused):
		text := terminal.Printable(fmt.Sprintf("%s answered %d %s: %s", visible(u), refused.Status, http.StatusText(refused.Status), short(refused.Err)))
		if errors.As(err, &said) {
			text += advice(said.Code)
		}
		return text
	case errors.As(err, &said):
		return "the server closed the connection: " + terminal.Printable(said.Message) + advice(said.Code)
	case errors.As(err, &closed):
		return explainClose(closed).Error()
	case isOwn:
		return own
	}
	return explainDial(u, nil, err).Error()
}

// explainEnd makes of why a hearing ended an error with its exit code.
func explainEnd(u *url.URL, err error) error {
	if refused, ok := err.(*client.Error); ok { // and not one in the chain: that may be why the client ended
		return errors.New(terminal.Printable(refused.Message) + advice(refused.Code))
	}
	return &exitError{exitClosed, errors.New(explainLoss(u, err))}
}

// goodbye reports whether a close code is a server's normal end.
func goodbye(code websocket.Code) bool {
	return code == websocket.NormalClosure || code == websocket.NoStatus
}

// ours reports whether a connection ended because we closed it in order.
func ours(err error) bool {
	var c *websocket.CloseError
	return errors.As(err, &c) && c.Local && c.Code == websocket.NormalClosure
}

// returns reports whether connecting again may help after a connection ended
// like this.
func returns(err error) bool {
	switch websocket.CloseCode(err) {
	case websocket.GoingAway, websocket.Abnormal, websocket.InternalError,
		websocket.ServiceRestart, websocket.TryAgainLater, websocket.BadGateway:
		return true
	}
	return false
}

// closedFor are the error codes that a Fanfare server's own close codes stand for.
var closedFor = map[websocket.Code]string{4401: "unauthenticated", 4403: "forbidden"}

// explainClose says for people how a connection ended.
func explainClose(err error) error {
	var c *websocket.CloseError
	if !errors.As(err, &c) {
		return err
	}
	code := fmt.Sprintf("%d %s", uint16(c.Code), c.Code)
	reason := ""
	if c.Reason != "" {
		reason = ": " + terminal.Printable(c.Reason)
	}
	switch {
	case c.Local && c.Code == websocket.MessageTooBig:
		return fmt.Errorf("a message arrived that is larger than --max-message allows (%s%s)", code, reason)
	case c.Local && c.Code != websocket.Abnormal:
		return fmt.Errorf("the server broke the protocol (%s%s)", code, reason)
	case c.Code == websocket.Abnormal:
		return fmt.Errorf("the connection was lost (%s%s)", code, reason)
	}
	return fmt.Errorf("the server closed the connection (%s%s)%s", code, reason, advice(closedFor[c.Code]))
}
