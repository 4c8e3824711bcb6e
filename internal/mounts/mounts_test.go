// Package mounts holds a server to its promise that it mounts anywhere: under
// other people's routers, behind their middleware, over real sockets.
package mounts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

func TestChi(t *testing.T) {
	var requests ledger
	logger := middleware.RequestLogger(&middleware.DefaultLogFormatter{Logger: log.New(&requests, "", 0), NoColor: true})
	for _, c := range []struct {
		name  string
		route func(r chi.Router, live http.Handler)
		path  string
	}{
		{"Mount", func(r chi.Router, live http.Handler) {
			r.Mount("/live", http.StripPrefix("/live", live))
		}, "/live/chat/general"},
		{"Handle", func(r chi.Router, live http.Handler) {
			r.Handle("/live/*", http.StripPrefix("/live", live))
		}, "/live/chat/general"},
		{"Mount in a Route", func(r chi.Router, live http.Handler) {
			r.Route("/api", func(r chi.Router) {
				r.Mount("/live", http.StripPrefix("/api/live", live))
			})
		}, "/api/live/chat/general"},
		{"Logger and Recoverer", func(r chi.Router, live http.Handler) {
			r.Use(middleware.RequestID, logger, middleware.Recoverer)
			r.Mount("/live", http.StripPrefix("/live", live))
		}, "/live/chat/general"},
		{"Compress", func(r chi.Router, live http.Handler) {
			r.Use(middleware.Compress(5))
			r.Mount("/live", http.StripPrefix("/live", live))
		}, "/live/chat/general"},
		{"all of them", func(r chi.Router, live http.Handler) {
			r.Use(middleware.RequestID, logger, middleware.Recoverer, middleware.Compress(5, "text/html", "application/json"))
			r.Route("/api", func(r chi.Router) {
				r.Mount("/live", http.StripPrefix("/api/live", live))
			})
		}, "/api/live/chat/general"},
	} {
		t.Run(c.name, func(t *testing.T) {
			speaks(t, c.path, func(live http.Handler) http.Handler {
				r := chi.NewRouter()
				c.route(r, live)
				return r
			})
		})
	}
	if !strings.Contains(requests.String(), "GET http://") || strings.Contains(requests.String(), "panic") {
		t.Errorf("chi's log:\n%s", &requests)
	}
}

func TestGin(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	var requests ledger
	for _, c := range []struct {
		name  string
		route func(e *gin.Engine, live http.Handler)
	}{
		{"a group with Logger and Recovery", func(e *gin.Engine, live http.Handler) {
			e.Group("/live", gin.LoggerWithWriter(&requests), gin.RecoveryWithWriter(&requests)).
				Any("/*channel", gin.WrapH(http.StripPrefix("/live", live)))
		}},
		{"nothing between", func(e *gin.Engine, live http.Handler) {
			e.Any("/live/*channel", gin.WrapH(http.StripPrefix("/live", live)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			speaks(t, "/live/chat/general", func(live http.Handler) http.Handler {
				e := gin.New()
				c.route(e, live)
				return e
			})
		})
	}
	if !strings.Contains(requests.String(), "/live/chat/general") || strings.Contains(requests.String(), "panic") {
		t.Errorf("gin's log:\n%s", &requests)
	}
}

// Within gin, and yet hidden: gin's own writer asserts that what it wraps can be
// taken over, and would panic.
func TestGinBehindWhatHides(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	var log, panics ledger
	site := open(t, &log, func(live http.Handler) http.Handler {
		e := gin.New()
		e.Use(gin.RecoveryWithWriter(&panics))
		e.Any("/live/*channel", gin.WrapH(http.StripPrefix("/live", live)))
		return http.TimeoutHandler(e, patience, "too late")
	})
	_, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(site.URL, "http")+"/live/chat", nil)
	if !errors.Is(err, websocket.ErrBadHandshake) {
		t.Fatalf("the WebSocket: %v, want a refusal", err)
	}
	body, _ := io.ReadAll(resp.Body)
	var refusal struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &refusal); err != nil || resp.StatusCode != http.StatusInternalServerError || refusal.Error.Code != "no_hijack" {
		t.Errorf("the refusal: %s %s", resp.Status, body)
	}
	for who, text := range map[string]string{"the client": refusal.Error.Message, "the operator": log.String()} {
		if !strings.Contains(text, "*http.timeoutWriter hides the connection") {
			t.Errorf("%s is told %q, which names no culprit", who, text)
		}
	}
	if panics.String() != "" {
		t.Errorf("gin had to recover:\n%s", &panics)
	}
}

// A ledger is a log that may be read while it is written.
type ledger struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *ledger) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open serves what around makes of a new server.
func open(t *testing.T, log io.Writer, around func(live http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	live, err := fanfare.New(fanfare.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(around(live))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := live.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		site.Close()
		if n := live.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions after Shutdown", n)
		}
	})
	return site
}

// speaks wants every face of the channel chat/general at path, behind what
// around puts before the server.
func speaks(t *testing.T, path string, around func(live http.Handler) http.Handler) {
	t.Helper()
	var log ledger
	site := open(t, &log, around)
	fetch := func(method, query, accept, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, site.URL+path+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := site.Client().Do(req) // which asks for gzip, and undoes it
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s %v\n%s", method, path, resp.Status, err, text)
		}
		return string(text)
	}

	alice, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(site.URL, "http")+path+"?name=alice", nil)
	if err != nil {
		t.Fatalf("%v: %+v\n%s", err, resp, &log)
	}
	defer alice.Close()
	alice.SetReadDeadline(time.Now().Add(patience))
	for _, text := range []string{"Hello 🎺", strings.Repeat("long ", 20_000)} {
		if err := alice.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := alice.ReadMessage(); err != nil || !strings.HasSuffix(string(got), "] alice: "+text) {
			t.Fatalf("alice hears %.100q and %v, want %.100q", got, err, text)
		}
	}
	if got := fetch("POST", "?name=bob", "*/*", `{"type":"said","by":"POST"}`); !strings.HasPrefix(got, `{"channel":"chat/general","position":"`) {
		t.Errorf("POST is answered %s", got)
	}
	if _, got, err := alice.ReadMessage(); err != nil || string(got) != `{"type":"said","by":"POST"}` {
		t.Errorf("alice hears %q and %v, not what was posted", got, err)
	}
	var history struct {
		Messages []struct {
			Sender string
			Data   json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(fetch("GET", "?since=0", "application/json", "")), &history); err != nil {
		t.Fatal(err)
	}
	if len(history.Messages) != 3 || history.Messages[0].Sender != "alice" || history.Messages[2].Sender != "bob" || string(history.Messages[2].Data) != `{"type":"said","by":"POST"}` {
		t.Errorf("history is %+v", history.Messages)
	}
	if page := fetch("GET", "", "text/html", ""); !strings.Contains(page, "</html>") {
		t.Errorf("the page is not whole: %.100q ...", page)
	}

	if err := alice.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := alice.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("alice closed, and was answered %v", err)
	}
	if _, err := alice.NetConn().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the close the connection gives %v, want EOF", err)
	}
	if log.String() != "" {
		t.Errorf("the server had to log:\n%s", &log)
	}
}
