package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"fanfare/internal/handshake"
)

// onlyHosts refuses requests for host names that are neither this machine's nor
// among names at the moment, unless all are fine at the moment.
//
// A page anywhere may have its own name resolve to 127.0.0.1 (DNS rebinding).
// For the browser that page then has our origin, and whoever visits it lends it
// the way through to a server that listens for this machine alone. What gives it
// away is the name, which the browser sends as Host. Addresses need no name
// resolved, so they are all fine. So is every name where only a token opens
// anything, since such a page has none: a cookie, too, belongs to a name.
func onlyHosts(known func() (names []string, all bool), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if names, all := known(); all || handshake.KnownHost(r.Host, names) {
			next.ServeHTTP(w, r)
			return
		}
		refuseJSON(w, http.StatusMisdirectedRequest, "bad_host",
			fmt.Sprintf("this server answers for localhost, and was asked for %.100q; where a reverse proxy passes that name on, start it with --host", r.Host))
	})
}

// refuseJSON answers with an error in the form that the server's own have.
func refuseJSON(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = code, message
	_ = json.NewEncoder(w).Encode(body)
}

// checkHost is the check of --host: a name alone, as it stands in a Host header
// before the port.
func checkHost(name string) error {
	if name == "" || strings.ContainsAny(name, "/:*@ \t") {
		return fmt.Errorf("%q is not a host's name: give the name alone, without scheme, port, path or pattern, as in chat.example.com", name)
	}
	return nil
}
