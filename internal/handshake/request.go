package handshake

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
)

// Asking is what a client asks for. All but URL and Key may be empty.
type Asking struct {
	URL          *url.URL      // to be asked for; its user does not count
	User         *url.Userinfo // becomes Authorization, unless Header has one
	Header       http.Header   // more of the request's; Host becomes the request's host
	Subprotocols []string
	Extensions   string // offered, as it stands in Sec-WebSocket-Extensions
	Origin       string
	Agent        string // User-Agent, unless Header has one
	Key          string // Sec-WebSocket-Key
}

// Request is the client's side of the handshake (RFC 6455, section 4.1). It
// shares nothing with a but the URL.
func (a *Asking) Request() *http.Request {
	h := a.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	host := a.URL.Host
	if given := h.Get("Host"); given != "" {
		host = given
	}
	h.Del("Host")
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h["Sec-WebSocket-Version"] = []string{"13"}
	h["Sec-WebSocket-Key"] = []string{a.Key}
	if len(a.Subprotocols) > 0 {
		h["Sec-WebSocket-Protocol"] = []string{strings.Join(a.Subprotocols, ", ")}
	}
	if a.Extensions != "" {
		h["Sec-WebSocket-Extensions"] = []string{a.Extensions}
	}
	if a.Origin != "" {
		h.Set("Origin", a.Origin)
	}
	if _, given := h["User-Agent"]; !given {
		h.Set("User-Agent", a.Agent)
	}
	if a.User != nil && h.Get("Authorization") == "" {
		h.Set("Authorization", BasicAuth(a.User))
	}
	return &http.Request{Method: http.MethodGet, URL: a.URL, Host: host, Header: h, ProtoMajor: 1, ProtoMinor: 1}
}

// BasicAuth is the value of an Authorization header (RFC 7617).
func BasicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}
