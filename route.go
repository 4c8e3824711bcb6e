package fanfare

import (
	"net/http"
	"strings"
	"time"

	"fanfare/browser"
	"fanfare/internal/handshake"
	"fanfare/web"
)

// One URL is one channel; what answers depends on how one asks:
//
//	a WebSocket upgrade            the live channel (plain.go)
//	POST                           publishes the body
//	GET, Accept: text/html         a page that speaks in this channel
//	GET, Accept: application/json  a page of history; also for */* and no Accept
//
// What begins with /-/ is the server's own.

// positionHeader, in a handshake's response, is the position at which the
// connection begins to read. With the value "pong" in the request it asks for
// each message's position, in a Pong behind it.
const positionHeader = "Fanfare-Position"

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Also where nobody wants the body: net/http reads what a handler left of
		// it before it answers, and would wait for ever. Where a middleware hides
		// the connection, its server's timeouts must do.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.MessageTimeout))
	}
	path := strings.Trim(r.URL.Path, "/")
	if path == "-" || strings.HasPrefix(path, "-/") {
		s.serveOwn(w, r, strings.TrimPrefix(path, "-/"))
		return
	}
	if path == "" {
		path = lobby
	}
	if err := CheckChannel(path); err != nil {
		s.refuse(w, err)
		return
	}
	switch {
	case s.closing.Load():
		s.refuse(w, ErrServerClosed)
	case handshake.IsUpgrade(r):
		s.serveWebSocket(w, r, path)
	case r.Method == http.MethodPost:
		s.servePost(w, r, path)
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		s.serveGet(w, r, path)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", allowed)
		s.refuse(w, errorf("bad_method", "a channel answers %s", allowed))
	}
}

const allowed = "GET, HEAD, POST, OPTIONS"

// serveOwn answers what begins with /-/.
func (s *Server) serveOwn(w http.ResponseWriter, r *http.Request, what string) {
	switch what {
	case "connect":
		s.serveWebSocket(w, r, "")
	case "healthz", "readyz":
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			s.refuse(w, errorf("bad_method", "/-/%s answers GET and HEAD", what))
			return
		}
		if what == "readyz" && s.closing.Load() {
			s.refuse(w, ErrServerClosed)
			return
		}
		s.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	case "fanfare.js":
		browser.Serve(w, r)
	default:
		s.refuse(w, errorf("not_found", "the server has nothing at /-/%.80s; it has /-/healthz, /-/readyz and /-/fanfare.js", what))
	}
}

// serveGet answers with the face that the request accepts best.
func (s *Server) serveGet(w http.ResponseWriter, r *http.Request, channel string) {
	switch accepted(r.Header["Accept"], "application/json", "text/html") {
	case "text/html":
		web.Serve(w, r, channel)
	case "application/json":
		w.Header().Add("Vary", "Accept")
		s.serveHistory(w, r, channel)
	default:
		w.Header().Add("Vary", "Accept")
		s.refuse(w, errorf("not_acceptable", "a channel can be had as application/json (history), as text/html (a page), or live over a WebSocket"))
	}
}
