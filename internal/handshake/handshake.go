// Package handshake is the HTTP side of RFC 6455, section 4, as a server sees
// it: whether a request may become a WebSocket, why not, and taking the
// connection over from net/http.
//
//	client                                   server
//	GET /chat HTTP/1.1
//	Host: example.com
//	Connection: Upgrade
//	Upgrade: websocket
//	Sec-WebSocket-Version: 13
//	Sec-WebSocket-Key: 16 bytes, base64
//	Origin: who the page is; browsers only
//	Sec-WebSocket-Protocol: a, b
//	Sec-WebSocket-Extensions: …         ──►
//	                                         HTTP/1.1 101 Switching Protocols
//	                                         Connection: Upgrade
//	                                         Upgrade: websocket
//	                                         Sec-WebSocket-Accept: of the key
//	                                         Sec-WebSocket-Protocol: a
//	                                    ◄──  Sec-WebSocket-Extensions: …
//
// [Check] reads the left side, [Take] writes the right side. Everything runs
// in time linear in the size of the headers, and no text of the request is
// ever copied into a response header.
package handshake

import (
	"crypto/sha1" // #nosec G505: no secret hangs on it; RFC 6455 says so
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Options say what a server agrees to. Nil or zero agrees to no subprotocol
// and to pages of its own origin only.
type Options struct {
	// Subprotocols are ours, the one we like best first. When the client offers
	// none of them the connection has no subprotocol.
	Subprotocols []string
	// Origins are the pages that may connect besides those that this host
	// served: hosts ("app.example.com", "*.example.com", "localhost:*", as in
	// [path.Match], in any case) or scheme and host ("https://app.example.com").
	// A host without a port means the default port. "*" lets every page in:
	// then any web site may act with the cookies of whoever visits it. What
	// [CheckOrigins] finds wrong with them refuses every request.
	Origins []string
}

// A Refusal says why a request cannot become a WebSocket.
type Refusal struct {
	Status int         // of the HTTP response
	Code   string      // for machines: bad_method, bad_http, no_upgrade, bad_version, bad_key, bad_body, bad_origin, bad_extensions, bad_config, no_hijack
	Reason string      // for people
	Header http.Header // what the response must carry besides; may be nil
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("handshake refused with %d: %s", r.Status, r.Reason)
}

// Answer writes the refusal as the response, in plain text.
func (r *Refusal) Answer(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range r.Header {
		h[name] = values
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(r.Status)
	_, _ = fmt.Fprintln(w, r.Reason) // the client may be gone; nobody is left to tell
}

// IsUpgrade reports whether the request asks to become a WebSocket, well or badly.
func IsUpgrade(r *http.Request) bool { return HasToken(r.Header["Upgrade"], "websocket") }

// AcceptKey returns the answer to a Sec-WebSocket-Key (RFC 6455, section 4.2.2, item 5.4).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401: as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upgradeRequired are the headers of a 426 (RFC 9110, section 15.5.22;
// RFC 6455, section 4.4).
func upgradeRequired() http.Header {
	return http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
	}
}

// Check holds the request to RFC 6455, section 4.2.1, and to the origin policy
// (section 10.2), and chooses the subprotocol, "" for none. The error is a
// [*Refusal]. Nil options are the zero options.
func Check(r *http.Request, o *Options) (subprotocol string, err error) {
	if o == nil {
		o = &Options{}
	}
	if err := CheckOrigins(o.Origins); err != nil {
		return "", &Refusal{http.StatusInternalServerError, "bad_config", "the server is misconfigured: " + err.Error(), nil}
	}
	if r.ProtoMajor >= 2 {
		return "", tooNew(r)
	}
	if r.Method != http.MethodGet {
		return "", &Refusal{http.StatusMethodNotAllowed, "bad_method",
			"a WebSocket begins with a GET request", http.Header{"Allow": {"GET"}}}
	}
	if !r.ProtoAtLeast(1, 1) {
		return "", &Refusal{http.StatusHTTPVersionNotSupported, "bad_http",
			"a WebSocket needs HTTP/1.1; a proxy that speaks HTTP/1.0 stands between, tell it to use 1.1", nil}
	}
	if !IsUpgrade(r) {
		return "", &Refusal{http.StatusUpgradeRequired, "no_upgrade",
			"this is a WebSocket endpoint and the request has no \"Upgrade: websocket\" header", upgradeRequired()}
	}
	if !HasToken(r.Header["Connection"], "upgrade") {
		return "", &Refusal{http.StatusUpgradeRequired, "no_upgrade",
			"the request has no \"Connection: Upgrade\" header; a proxy between must pass on Connection and Upgrade", upgradeRequired()}
	}
	if v := r.Header["Sec-Websocket-Version"]; len(v) != 1 || v[0] != "13" {
		return "", &Refusal{http.StatusUpgradeRequired, "bad_version",
			"Sec-WebSocket-Version must be 13", upgradeRequired()}
	}
	if k := r.Header["Sec-Websocket-Key"]; len(k) != 1 || !goodKey(k[0]) {
		return "", &Refusal{http.StatusBadRequest, "bad_key",
			"there must be exactly one Sec-WebSocket-Key, and it must be 16 bytes in base64", nil}
	}
	// What follows the headers would be taken for frames.
	if r.ContentLength != 0 {
		return "", &Refusal{http.StatusBadRequest, "bad_body",
			"a request for a WebSocket must not have a body", nil}
	}
	if refusal := CheckOrigin(r, o.Origins); refusal != nil {
		return "", refusal
	}
	return choose(r.Header["Sec-Websocket-Protocol"], o.Subprotocols), nil
}

// BadExtensions is the refusal of a request whose Sec-WebSocket-Extensions
// cannot be read (RFC 6455, section 9.1).
func BadExtensions(err error) *Refusal {
	return &Refusal{http.StatusBadRequest, "bad_extensions", err.Error(), nil}
}

func tooNew(r *http.Request) *Refusal {
	return &Refusal{http.StatusHTTPVersionNotSupported, "bad_http",
		fmt.Sprintf("a WebSocket needs HTTP/1.1 here and the request came over HTTP/%d; connect over HTTP/1.1", r.ProtoMajor), nil}
}

// goodKey reports whether the key is 16 bytes in base64 (RFC 6455, section 4.1, item 7).
func goodKey(key string) bool {
	if len(key) != 24 {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(raw) == 16
}

// choose returns the first of ours that is among the offered, or "". What it
// returns is always our own string, never the request's.
func choose(offered, ours []string) string {
	best := len(ours)
	for token := range Tokens(offered) {
		if i := slices.Index(ours[:best], token); i >= 0 {
			best = i
		}
	}
	if best == len(ours) {
		return ""
	}
	return ours[best]
}

// HasToken reports whether the comma-separated lists, the values of a header,
// hold the token, in either case, with or without a version ("websocket/13").
func HasToken(lists []string, token string) bool {
	for t := range Tokens(lists) {
		t, _, _ = strings.Cut(t, "/")
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

// Tokens yields the elements of comma-separated lists (RFC 9110, section 5.6.1).
func Tokens(lists []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, list := range lists {
			for token := range strings.SplitSeq(list, ",") {
				if token = strings.Trim(token, " \t"); token != "" && !yield(token) {
					return
				}
			}
		}
	}
}
