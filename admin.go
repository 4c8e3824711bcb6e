package fanfare

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"strings"
	"sync"
	"time"

	"fanfare/broker"
	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The operators' pages: /-/metrics, /-/revoke and /-/debug/pprof/. Where a request
// comes from never opens them, since behind a proxy everybody comes from this
// machine: on the address of the channels the role admin does, and on an address of their
// own [Server.Admin] answers without asking.

// Admin returns a handler for the operators' pages, which asks nobody who he is: it
// is meant for an address that only operators can reach, such as one of this
// machine's own. Its root lists the pages; of channels it has none.
//
// A web page that an operator happens to look at can reach such an address too, by his
// browser. So the host that is asked for must be an address, localhost or one of
// [Config.AdminHosts], and what comes from other sites' pages is refused.
func (s *Server) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.MessageTimeout))
		}
		path := strings.Trim(r.URL.Path, "/")
		switch what := strings.TrimPrefix(path, "-/"); {
		case !handshake.KnownHost(r.Host, s.now.Load().AdminHosts):
			s.refuse(w, &Error{Code: "bad_host", status: http.StatusMisdirectedRequest,
				Message: fmt.Sprintf("this address answers for localhost and for addresses, and was asked for %.100q; where operators use that name, start it with --host (Config.AdminHosts)", r.Host)})
		case fromElsewhere(r):
			s.refuse(w, &Error{Code: "bad_origin", status: http.StatusForbidden, Message: "these pages are not for those of other sites"})
		case path == "":
			if s.ownMethod(w, r, "") {
				s.serveIndex(w)
			}
		case what != path && (isOperators(what) || what == "healthz" || what == "readyz"):
			if s.ownMethod(w, r, what) {
				s.serveOperators(w, r, what)
			}
		default:
			s.refuse(w, errorf("not_found", "there is nothing here; / lists what there is"))
		}
	})
}

// fromElsewhere reports whether a browser asks on behalf of a page of another site;
// a link that its user followed is not that. Browsers that do not say so send an
// Origin, with everything that could do something.
func fromElsewhere(r *http.Request) bool {
	h := r.Header
	if site := h.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return h.Get("Sec-Fetch-Mode") != "navigate" || h.Get("Sec-Fetch-Dest") != "document" || r.Method != http.MethodGet
	}
	return handshake.CheckOrigin(r, nil) != nil
}

// isOperators reports whether a page below /-/ is for operators alone.
func isOperators(what string) bool {
	return what == "metrics" || what == "revoke" || what == "debug/pprof" || strings.HasPrefix(what, "debug/pprof/")
}

// mayOperate returns nil if the operators' page is for whoever asks for it, on the
// address of the channels.
func (s *Server) mayOperate(r *http.Request, what string) error {
	if s.trust() == nil {
		if what == "metrics" {
			return nil
		}
		return errorf("forbidden", "/-/%.40s is for operators, and this server asks nobody who he is: it is at the operators' own address (fanfare serve --admin-listen)", what)
	}
	if fromElsewhere(r) {
		return errorf("forbidden", "/-/%.40s is not for pages of other sites", what)
	}
	if err := s.mayAsk(r); err != nil {
		return err
	}
	switch id, _, err := s.identify(r); {
	case err != nil:
		return err
	case id == nil:
		return errorf("unauthenticated", "/-/%.40s is for operators: show a token with the role admin", what)
	case !id.IsAdmin():
		return errorf("forbidden", "/-/%.40s is for operators, who have the role admin", what)
	}
	return nil
}

// serveOperators answers with a page for whoever asks; who may was found out before.
func (s *Server) serveOperators(w http.ResponseWriter, r *http.Request, what string) {
	if what == "revoke" {
		s.serveRevoke(w, r)
		return
	}
	switch name, isProfile := strings.CutPrefix(what, "debug/pprof"); {
	case isProfile:
		s.serveProfile(w, r, strings.Trim(name, "/"))
	case what == "metrics":
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	case what == "readyz":
		s.serveReady(w, r)
	default:
		s.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	}
}

// ownMethod reports whether a page below /-/ answers a method, and otherwise refuses it.
func (s *Server) ownMethod(w http.ResponseWriter, r *http.Request, what string) bool {
	if what == "revoke" && r.Method == http.MethodPost || what != "revoke" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return true
	}
	allowed := "GET, HEAD"
	if what == "revoke" {
		allowed = "POST"
	}
	w.Header().Set("Allow", allowed)
	s.refuse(w, errorf("bad_method", "/-/%.40s answers %s", what, allowed))
	return false
}

// serveIndex lists the pages.
func (s *Server) serveIndex(w http.ResponseWriter) {
	page(w, "text/html; charset=utf-8", `<!doctype html><title>Fanfare</title><h1>For operators</h1><ul>
<li><a href="/-/metrics">/-/metrics</a>: what happens, for Prometheus
<li><a href="/-/healthz">/-/healthz</a>: whether the process answers
<li><a href="/-/readyz">/-/readyz</a>: whether newcomers are let in, and if not, why
<li><a href="/-/debug/pprof/">/-/debug/pprof/</a>: what it is busy with, for go tool pprof
<li>/-/revoke: POST {"token"|"subject"|"session": "…"} ends somebody's access
</ul>
`)
}

func page(w http.ResponseWriter, media, body string) {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(body)) // the client may be gone; nobody is left to tell
}

const (
	// profileTime is how long a profile over some time takes, unless ?seconds= says.
	profileTime = 10
	// maxProfileTime is how long it may.
	maxProfileTime = 60
)

// serveProfile answers with what package runtime/pprof knows, as net/http/pprof
// does; that one is not used since it also puts itself into
// http.DefaultServeMux, which may be open to everybody in the program we are part
// of, and since it shows the command line, where secrets may be.
func (s *Server) serveProfile(w http.ResponseWriter, r *http.Request, name string) {
	query := r.URL.Query()
	debug, _ := strconv.Atoi(query.Get("debug"))
	seconds, err := strconv.Atoi(query.Get("seconds"))
	if err != nil {
		seconds = profileTime
	}
	seconds = min(max(seconds, 1), maxProfileTime)
	var out bytes.Buffer
	switch name {
	case "":
		out.WriteString("profile?seconds=10 (of the processor)\ntrace?seconds=1 (for go tool trace)\n")
		for _, p := range pprof.Profiles() {
			fmt.Fprintf(&out, "%s?debug=1 (%d)\n", p.Name(), p.Count())
		}
		page(w, "text/plain; charset=utf-8", out.String())
		return
	case "profile":
		if err = pprof.StartCPUProfile(&out); err == nil {
			s.during(r, seconds)
			pprof.StopCPUProfile()
		}
	case "trace":
		if err = trace.Start(&out); err == nil {
			s.during(r, seconds)
			trace.Stop()
		}
	default:
		p := pprof.Lookup(name)
		if p == nil {
			s.refuse(w, errorf("not_found", "there is no profile of this name; /-/debug/pprof/ lists them"))
			return
		}
		if name == "heap" && query.Get("gc") != "" {
			runtime.GC()
		}
		err = p.WriteTo(&out, debug)
	}
	switch {
	case err != nil:
		s.refuse(w, &Error{Code: "busy", status: http.StatusConflict, Message: "a profile is being made already; come back when it is done"})
	case debug > 0:
		page(w, "text/plain; charset=utf-8", out.String())
	default:
		page(w, "application/octet-stream", out.String())
	}
}

// during waits, as long as somebody waits for it.
func (s *Server) during(r *http.Request, seconds int) {
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
	case <-r.Context().Done():
	case <-s.life.Done():
	}
}

// serveReady says whether newcomers are let in.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	err := s.ready(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// ready returns nil if newcomers can be served, or why not.
func (s *Server) ready(ctx context.Context) error {
	if s.closing.Load() {
		return ErrServerClosed
	}
	var why []string
	if descriptors.Scarce() {
		why = append(why, descriptors.Reason())
	}
	if !s.health.ok(ctx, s) {
		why = append(why, "the broker does not answer; the log has more")
	}
	if len(why) > 0 {
		return &Error{Code: "not_ready", status: http.StatusServiceUnavailable, Message: strings.Join(why, "; ")}
	}
	return nil
}

// health is whether the broker answers. It is asked once at a time, and not more
// often than once a second, however many want to know.
type health struct {
	mu    sync.Mutex    // guards the following
	done  chan struct{} // closed when the broker has answered; nil: it was never asked
	began time.Time
	err   error // what it answered
}

const (
	// healthPatience is how long a broker may take to say that it is well.
	healthPatience = 2 * time.Second
	// healthFresh is for how long that is believed.
	healthFresh = time.Second
	// healthChannel is one that it is asked about. It need not be there.
	healthChannel = lobby
)

// ok reports whether the broker answers.
func (h *health) ok(ctx context.Context, s *Server) bool {
	h.mu.Lock()
	if h.done == nil || closed(h.done) && time.Since(h.began) > healthFresh {
		h.done, h.began = make(chan struct{}), time.Now()
		go h.ask(s, h.done)
	}
	done := h.done
	patience := time.Until(h.began.Add(healthPatience))
	h.mu.Unlock()
	select {
	case <-done:
	case <-time.After(patience):
		return false
	case <-ctx.Done():
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err == nil
}

func (h *health) ask(s *Server, done chan struct{}) {
	ctx, cancel := context.WithTimeout(s.life, healthPatience)
	defer cancel()
	began := time.Now()
	_, err := s.broker.History(ctx, healthChannel, broker.Query{Limit: 1, Tail: true})
	s.metrics.answered(historyOperation, began, err)
	if err != nil && s.life.Err() == nil {
		s.log.Error("the broker is not well", "error", err)
	}
	h.mu.Lock()
	h.err = err
	h.mu.Unlock()
	close(done)
}

func closed(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
