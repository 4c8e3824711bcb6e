package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hooked is a webhook that asks handler.
func hooked(t *testing.T, o WebhookOptions, handler http.HandlerFunc) *Webhook {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	o.URL = server.URL + "/who"
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w, err := NewWebhook(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// with is a request with headers, one a line.
func with(t *testing.T, headers ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/chat", nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func TestWebhookAnswers(t *testing.T) {
	in := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w := hooked(t, WebhookOptions{}, func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Token string }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.Method != http.MethodPost || r.URL.Path != "/who" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("it was asked %s %s, %v", r.Method, r.URL, err)
		}
		status, body, _ := strings.Cut(asked.Token, " ")
		var n int
		_, _ = fmt.Sscan(status, &n)
		if n >= 300 && n < 400 {
			w.Header().Set("Location", "/else")
		}
		w.WriteHeader(n)
		_, _ = io.WriteString(w, body)
	})
	for _, c := range []struct {
		answer string
		want   *Identity
	}{
		{`200 {"subject":"u17"}`, &Identity{Subject: "u17", Allow: map[Right][]string{}}},
		{`200 {"subject":"u17","name":"Alice","roles":["staff"],"token":"s1","issued":1000000000,"expires":"` + in.Format(time.RFC3339) + `","publish":[],"subscribe":["a/**"],"history":[],"limits":{"messages":5}}`,
			&Identity{Subject: "u17", Name: "Alice", Roles: []string{"staff"}, Token: "s1", Issued: time.Unix(1e9, 0), Expires: in,
				Allow: map[Right][]string{Publish: {}, Subscribe: {"a/**"}, Presence: {"a/**"}, History: {}}, Limits: Limits{Messages: 5}}},
		{fmt.Sprintf(`200 {"subject":"u17","expires":%d}`, in.Unix()), &Identity{Subject: "u17", Expires: time.Unix(in.Unix(), 0), Allow: map[Right][]string{}}},
		{`204`, nil},
	} {
		for range 2 { // the second from the cache
			got, err := w.Authenticate(t.Context(), Credentials{Token: c.answer})
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %+v %v, want %+v", c.answer, got, err, c.want)
			}
		}
	}
	for answer, code := range map[string]string{
		"401": "bad_token", "403": "forbidden", `200 {"subject":"u","expires":1000000000}`: "token_expired",
	} {
		if id, got := shows(t, w, answer); id != nil || got != code {
			t.Errorf("%s: %v %s, want %s", answer, id, got, code)
		}
	}
	// Whatever else it says lets nobody in.
	for _, answer := range []string{
		"500", "502", "404", "400", "201 {\"subject\":\"u\"}", "302", "307", "301", "200", "200 <html>", "200 {}", "200 []", "200 null", `200 {"subject":""}`, `200 {"subject":7}`,
		`200 {"subject":"u","subject":"admin"}`, `200 {"subject":"u"} {"subject":"v"}`, `200 {"subject":"u"`, `200 {"subject":"u","publsh":[]}`, `200 {"Subject":"u"}`,
		`200 {"subject":"u","publish":"a"}`, `200 {"subject":"u","publish":["**/a"]}`, `200 {"subject":"u","roles":null}`, `200 {"subject":"u","expires":"soon"}`, `200 {"subject":"u","expires":-1}`,
		`200 {"subject":"u","limits":{"message":1}}`, `200 {"subject":"u\u0000"}`, `200 {"subject":"u","name":"` + strings.Repeat("x", 65) + `"}`,
		`200 {"subject":"u"` + strings.Repeat(" ", maxAnswer) + "}", "200 {\"subject\":\"\xff\"}",
	} {
		for range 2 { // and is not kept
			id, err := w.Authenticate(t.Context(), Credentials{Token: answer})
			var refusal *Error
			if id != nil || err == nil || errors.As(err, &refusal) {
				t.Errorf("%.60s: %v %v", answer, id, err)
			}
		}
	}
}

// What is passed on is what is allowed, and no header of ours but what they are for
// the service as well.
func TestWebhookPassesOn(t *testing.T) {
	type asked struct {
		header http.Header
		body   string
	}
	calls := make(chan asked, 10)
	w := hooked(t, WebhookOptions{Headers: []string{"cookie", "X-Forwarded-For", "X-User", "authorization"}, Cache: -1}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- asked{r.Header.Clone(), string(body)}
		_, _ = io.WriteString(w, `{"subject":"u"}`)
	})
	own := []string{"Accept", "Accept-Encoding", "Content-Length", "Content-Type", "User-Agent"}
	for _, c := range []struct {
		request *http.Request
		token   string
		header  []string
		body    string
	}{
		{nil, "t", nil, `{"token":"t"}`},
		{with(t, "X-Other: a", "Host: b", "User-Agent: c", "X-Real-Ip: d", "Content-Type: e"), `a"b`, nil, `{"token":"a\"b"}`},
		{with(t, "Cookie: a=1", "Cookie: b=2", "Authorization: Basic x"), "", []string{"Authorization: Basic x", "Cookie: a=1", "Cookie: b=2"}, `{}`},
		{with(t, "X-User: admin", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 10.0.0.1"), "t", nil, `{"token":"t","headers":{"X-Forwarded-For":"127.0.0.1, 10.0.0.1","X-User":"admin"}}`},
	} {
		if id, err := w.Authenticate(t.Context(), Credentials{Token: c.token, Request: c.request}); id == nil {
			t.Fatal(err)
		}
		call := <-calls
		var header []string
		for name, values := range call.header {
			for _, value := range values {
				if !slices.Contains(own, name) {
					header = append(header, name+": "+value)
				}
			}
		}
		slices.Sort(header)
		if call.body != c.body || !slices.Equal(header, c.header) || call.header.Get("Content-Type") != "application/json" || call.header.Get("User-Agent") != "fanfare" {
			t.Errorf("%v was passed on as\n%s\n%q, want\n%s\n%q", c.request, call.body, header, c.body, c.header)
		}
	}
	for _, r := range []*http.Request{nil, with(t), with(t, "X-Other: a")} {
		if id, err := w.Authenticate(t.Context(), Credentials{Request: r}); id != nil || err != nil || len(calls) > 0 {
			t.Errorf("nothing was shown, and it was asked: %v %v", id, err)
		}
	}
}

// Many who ask the same are one question, and later ones none; and another token,
// or the same bytes divided otherwise, is another question.
func TestWebhookAsksOnce(t *testing.T) {
	var calls atomic.Int64
	open := make(chan struct{})
	w := hooked(t, WebhookOptions{Headers: []string{"Cookie", "X-A"}}, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		<-open
		_, _ = io.WriteString(w, `{"subject":"u"}`)
	})
	var all sync.WaitGroup
	leaving, leave := context.WithCancel(t.Context())
	all.Go(func() {
		if _, err := w.Authenticate(leaving, Credentials{Token: "t"}); !errors.Is(err, context.Canceled) {
			t.Errorf("who leaves is told %v", err)
		}
	})
	for calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		all.Go(func() {
			if id, err := w.Authenticate(t.Context(), Credentials{Token: "t"}); id == nil || id.Subject != "u" {
				t.Errorf("%v %v", id, err)
			}
		})
	}
	leave() // and the question is asked on for the others
	close(open)
	all.Wait()
	if id, err := w.Authenticate(t.Context(), Credentials{Token: "t"}); id == nil || calls.Load() != 1 {
		t.Errorf("%v %v, after %d questions; want one", id, err, calls.Load())
	}
	for i, c := range []Credentials{
		{Token: "u"}, {Token: "t", Request: with(t, "Cookie: a")}, {Token: "t", Request: with(t, "X-A: a")}, {Token: "t", Request: with(t, "X-A: a", "X-A: b")}, {Token: "t", Request: with(t, "X-A: ab")},
		{Request: with(t, "X-A: t")}, {Request: with(t, "Cookie: t")}, {Token: "ta"},
	} {
		if id, err := w.Authenticate(t.Context(), c); id == nil || calls.Load() != int64(i+2) {
			t.Errorf("number %d was not asked: %v %v", i, id, err)
		}
	}
}

// Answers count for their time and no longer than the session lasts.
func TestWebhookForgets(t *testing.T) {
	for name, o := range map[string]WebhookOptions{"short": {Cache: time.Nanosecond, CacheRefusals: time.Nanosecond}, "none": {Cache: -1, CacheRefusals: -1}} {
		calls := 0
		w := hooked(t, o, func(w http.ResponseWriter, r *http.Request) {
			if calls++; calls%2 == 0 {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"subject":"u"}`)
		})
		for i := range 6 {
			if id, code := shows(t, w, "t"); (id != nil) != (i%2 == 0) || (code == "bad_token") != (i%2 == 1) {
				t.Errorf("%s, %d: %v %s", name, i, id, code)
			}
		}
	}
	w := hooked(t, WebhookOptions{Cache: time.Hour}, nil)
	a := &answer{id: &Identity{Subject: "u", Expires: time.Now().Add(time.Minute)}}
	w.keep(question{1}, a)
	if !a.ends.Equal(a.id.Expires) {
		t.Errorf("an answer counts until %v, and the session until %v", a.ends, a.id.Expires)
	}
	if w.known.get(question{1}, a.ends.Add(-1)) != a || w.known.get(question{1}, a.ends) != nil || len(w.known) != 0 {
		t.Error("it counts too long, or too short, or is kept after its time")
	}
}

// A million tokens that are none do not fill the memory, nor push out who is known.
func TestWebhookFlood(t *testing.T) {
	var most, now atomic.Int64
	w := hooked(t, WebhookOptions{}, func(w http.ResponseWriter, r *http.Request) {
		defer now.Add(-1)
		for n := now.Add(1); ; {
			if was := most.Load(); n <= was || most.CompareAndSwap(was, n) {
				break
			}
		}
		if body, _ := io.ReadAll(r.Body); string(body) == `{"token":"known"}` {
			_, _ = io.WriteString(w, `{"subject":"u"}`)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	if id, code := shows(t, w, "known"); id == nil {
		t.Fatal(code)
	}
	var all sync.WaitGroup
	for i := range 4 * askAtOnce {
		all.Go(func() {
			for j := range 5 {
				if _, code := shows(t, w, fmt.Sprint(i, " ", j)); code != "bad_token" {
					t.Errorf("%q", code)
				}
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > askAtOnce || n < 2 {
		t.Errorf("%d questions at once", n)
	}
	if len(w.known) != 1 || len(w.refused) != 20*askAtOnce || len(w.asked) != 0 {
		t.Errorf("%d answers let in, %d do not, %d are not there", len(w.known), len(w.refused), len(w.asked))
	}
	c := cache{}
	for i := range 3 * maxCached {
		c.put(hashOf(fmt.Sprint(i), nil, nil), &answer{})
	}
	if len(c) != maxCached {
		t.Errorf("%d answers are kept", len(c))
	}
}

// A service that hangs, trickles or is not there lets nobody in, in time, and the
// log is told once.
func TestWebhookFails(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, handler := range map[string]http.HandlerFunc{
		"hangs": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body) // so that the context is told when the client is gone
			<-r.Context().Done()
		},
		"trickles": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(10 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		},
		"breaks off": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"subject":"u"}`)
		},
		"panics": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"gone":   nil,
	} {
		log := hear()
		w := hooked(t, WebhookOptions{Timeout: 200 * time.Millisecond, Log: log.logger()}, handler)
		if name == "gone" {
			w.o.URL = "http://user:secret@" + gone.Addr().String() + "/?key=secret"
		}
		began := time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				id, err := w.Authenticate(t.Context(), Credentials{Token: fmt.Sprint("canary", i)})
				var refusal *Error
				if id != nil || err == nil || errors.As(err, &refusal) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: %v %v", name, id, err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > patience/2 {
			t.Errorf("%s: it took %v, and 200ms are allowed", name, took)
		}
		if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "the webhook does not say who clients are") || strings.Contains(said, "canary") || strings.Contains(said, "secret") {
			t.Errorf("%s: the log says %s", name, said)
		}
	}
}

func TestWebhookCloses(t *testing.T) {
	began := make(chan struct{})
	log := hear()
	w := hooked(t, WebhookOptions{Log: log.logger()}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		close(began)
		<-r.Context().Done()
	})
	done := make(chan error, 1)
	go func() {
		_, err := w.Authenticate(context.Background(), Credentials{Token: "t"})
		done <- err
	}()
	<-began
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("who waited was let in")
	}
	if _, err := w.Authenticate(t.Context(), Credentials{Token: "u"}); err == nil || log.String() != "" {
		t.Errorf("after it was closed: %v; the log says %s", err, log)
	}
}

func TestWebhookOptions(t *testing.T) {
	for _, o := range []WebhookOptions{
		{URL: "https://example.com/who"}, {URL: "http://127.0.0.1:1/"}, {URL: "http://[::1]/"}, {URL: "http://localhost:80"}, {URL: "http://example.com", Insecure: true},
		{URL: "https://u:p@example.com/", Headers: []string{"Cookie"}}, {URL: "https://example.com", Headers: []string{"Cookie", "cookie", "Authorization"}},
	} {
		if w, err := NewWebhook(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		} else {
			_ = w.Close()
		}
	}
	for want, all := range map[string][]WebhookOptions{
		"https://example.com/fanfare": {{}, {URL: "example.com"}, {URL: "ftp://example.com"}, {URL: "https:///who"}, {URL: "https://%"}, {URL: "unix:/x"}},
		"use https":                   {{URL: "http://example.com"}, {URL: "http://10.0.0.1"}, {URL: "http://localhost.example.com"}, {URL: "http://u:secret@127.example"}},
		"is no header's name":         {{URL: "https://a.example", Headers: []string{""}}, {URL: "https://a.example", Headers: []string{"X-*"}}, {URL: "https://a.example", Headers: []string{"Cookie: a"}}},
		"would be one header":         {{URL: "https://u:secret@a.example", Headers: []string{"authorization"}}},
		"timeout":                     {{URL: "https://a.example", Timeout: -1}},
	} {
		for _, o := range all {
			if w, err := NewWebhook(o); w != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%+v: %v, want %s", o, err, want)
			}
		}
	}
}

// A test's service answers over TLS as any other.
func TestWebhookOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "fanfare" || password != "pw" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, `{"subject":"u"}`)
	}))
	defer server.Close()
	for _, c := range []struct {
		client *http.Client
		ok     bool
	}{{server.Client(), true}, {nil, false}} {
		w, err := NewWebhook(WebhookOptions{URL: strings.Replace(server.URL, "https://", "https://fanfare:pw@", 1), Client: c.client, Timeout: patience, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if id, err := w.Authenticate(t.Context(), Credentials{Token: "t"}); (id != nil) != c.ok {
			t.Errorf("a client that trusts: %v; %v", c.ok, err)
		}
		_ = w.Close()
	}
}
