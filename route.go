package fanfare

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"fanfare/broker"
	"fanfare/browser"
	"fanfare/internal/handshake"
	"fanfare/web"
)

// One URL is one channel; what answers depends on how one asks:
//
//	a WebSocket upgrade                the live channel (connect.go)
//	GET, Accept: text/html             a page that speaks in this channel
//	GET, Accept: application/json      a page of history; also for */* and no Accept (history.go)
//	GET, Accept: text/event-stream     the live channel as server-sent events (live.go, listener.go)
//	GET, Accept: application/x-ndjson  the live channel as lines of JSON
//	POST                               publishes the body (post.go)
//	POST of application/x-ndjson       publishes each line of it (many.go)
//	HEAD                               what GET would say
//	OPTIONS                            what is allowed, and to whose pages (cors.go)
//
// What the query says means the same everywhere (settings.go). What begins with
// /-/ is the server's own. All of it is described for programs in openapi.yaml.

// positionHeader, in a handshake's response, is the position at which the
// connection begins to read. With the value "pong" in the request it asks for
// each message's position, in a Pong behind it.
const positionHeader = "Fanfare-Position"

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = withoutToken(r)
	if r.ContentLength != 0 {
		// Also where nobody wants the body: net/http reads what a handler left of
		// it before it answers, and would wait for ever. Where a middleware hides
		// the connection, its server's timeouts must do.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.MessageTimeout))
	}
	// One slash at each end, no more: who guards by path must see the channel we see.
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if path == "-" || strings.HasPrefix(path, "-/") {
		s.serveOwn(w, r, strings.TrimPrefix(path, "-/"))
		return
	}
	if path == "" {
		path = lobby
	}
	stranger := s.permit(w, r) // first, so that a page is shown what is refused too
	if err := s.readable(path); err != nil {
		s.refuse(w, err)
		return
	}
	switch {
	case s.closing.Load():
		s.refuse(w, ErrServerClosed)
		return
	case handshake.IsUpgrade(r):
		s.metrics.requests[webSocketRequest].Inc()
		s.serveWebSocket(w, r, path)
		return
	}
	methods, refusal := channelMethods, "a channel answers %s"
	if broker.IsPattern(path) {
		methods, refusal = patternMethods, "a pattern answers %s: one can read it, and publish to channels"
	}
	switch {
	case !slices.Contains(methods, r.Method):
		allowed := strings.Join(methods, ", ")
		w.Header().Set("Allow", allowed)
		s.refuse(w, errorf("bad_method", refusal, allowed))
	case r.Method == http.MethodOptions:
		s.serveOptions(w, r, methods, stranger)
	case s.tooMany(w, r):
	case r.Method != http.MethodPost:
		s.serveGet(w, r, path)
	case stranger != nil:
		s.refuse(w, stranger)
	default:
		s.metrics.requests[postRequest].Inc()
		s.servePost(w, r, path)
	}
}

// What a URL answers.
var (
	channelMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions}
	patternMethods = []string{http.MethodGet, http.MethodHead, http.MethodOptions}
)

// ownPages are what everybody finds below /-/.
var ownPages = []string{"fanfare.js", "healthz", "readyz"}

// serveOwn answers what begins with /-/.
func (s *Server) serveOwn(w http.ResponseWriter, r *http.Request, what string) {
	switch {
	case what == "connect":
		s.metrics.requests[webSocketRequest].Inc()
		s.serveWebSocket(w, r, "")
	case !isOperators(what) && !slices.Contains(ownPages, what):
		s.refuse(w, errorf("not_found", "the server has nothing at /-/%.80s; it has /-/connect, /-/fanfare.js, /-/healthz and /-/readyz, and for operators /-/metrics, /-/revoke and /-/debug/pprof/", what))
	case !s.ownMethod(w, r, what):
	case isOperators(what):
		if err := s.mayOperate(r, what); err != nil {
			s.refuse(w, err)
			return
		}
		s.serveOperators(w, r, what)
	case what == "fanfare.js":
		browser.Serve(w, r)
	default:
		s.serveOperators(w, r, what) // which here is for everybody
	}
}

// serveGet answers with the face that the request accepts best.
func (s *Server) serveGet(w http.ResponseWriter, r *http.Request, channel string) {
	face := accepted(r.Header["Accept"], "application/json", "text/html", eventStream.media, jsonLines.media)
	if face == "text/html" {
		s.metrics.requests[pageRequest].Inc()
		web.Serve(w, r, channel)
		return
	}
	w.Header().Add("Vary", "Accept")
	set, err := settingsOf(r)
	switch {
	case face == "":
		s.refuse(w, errorf("not_acceptable", "a channel can be had as application/json (history), text/html (a page), %s and %s (live), and over a WebSocket", eventStream.media, jsonLines.media))
	case err != nil:
		s.refuse(w, err)
	case face == eventStream.media:
		s.metrics.requests[sseRequest].Inc()
		s.serveLive(w, r, channel, &set, eventStream)
	case face == jsonLines.media:
		s.metrics.requests[linesRequest].Inc()
		s.serveLive(w, r, channel, &set, jsonLines)
	default:
		s.metrics.requests[historyRequest].Inc()
		s.serveHistory(w, r, channel, &set)
	}
}
