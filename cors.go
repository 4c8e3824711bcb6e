package fanfare

import (
	"net/http"
	"slices"
	"strings"

	"fanfare/internal/handshake"
)

// Other hosts' web pages (the Fetch standard calls what follows CORS). A page of
// this server's own host may do everything, and so may those that
// Config.Origins names, with the cookies and the Authorization that the browser
// has for us. "*" in Origins lets every other page in as well, but anonymously: to answer whoever
// asks, as it were by name, would hand each web site what its visitors may see
// here.
//
// A page that is not let in may not publish. It may ask for what can be read, as
// any link or image may, but is not shown the answer: its browser sees to that,
// unless we permit it.

const (
	// askHeaders are the headers that a page may send besides those that every
	// page may send everywhere. Authorization is for the hooks, and for the
	// handlers that a program has around the server.
	askHeaders = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
	// shownHeaders are those of our answers that a page may look at, besides such as every page may.
	shownHeaders = positionHeader + ", Retry-After"
	// preflightAge is how long, in seconds, a browser may remember what is
	// permitted. Chromium takes no more.
	preflightAge = "7200"
)

// permit says in the answer's headers what a page of another host may do. The
// error is a [*handshake.Refusal], of a page that is not let in; whoever only
// reads may be answered all the same.
func (s *Server) permit(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Add("Vary", "Origin")
	if len(r.Header["Origin"]) == 0 {
		return nil
	}
	if refusal := handshake.CheckOrigin(r, s.now.Load().Origins); refusal != nil {
		return refusal
	}
	if s.names(r) {
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Allow-Credentials", "true")
	} else {
		h.Set("Access-Control-Allow-Origin", "*")
	}
	h.Set("Access-Control-Expose-Headers", shownHeaders)
	return nil
}

// names reports whether a request is of no page, of one of ours, or of one that the
// settings name, and not only of any page ("*").
func (s *Server) names(r *http.Request) bool {
	named := slices.DeleteFunc(slices.Clone(s.now.Load().Origins), func(o string) bool { return o == "*" })
	return handshake.CheckOrigin(r, named) == nil
}

// serveOptions says what may be asked of a URL, and, to a browser that asks on
// behalf of another host's page, whether that page may: not if it is a stranger.
func (s *Server) serveOptions(w http.ResponseWriter, r *http.Request, methods []string, stranger error) {
	h := w.Header()
	allowed := strings.Join(methods, ", ")
	h.Set("Allow", allowed)
	if r.Header.Get("Access-Control-Request-Method") != "" {
		if stranger != nil {
			s.refuse(w, stranger)
			return
		}
		h.Set("Access-Control-Allow-Methods", allowed)
		h.Set("Access-Control-Allow-Headers", askHeaders)
		h.Set("Access-Control-Max-Age", preflightAge)
	}
	w.WriteHeader(http.StatusNoContent)
}
