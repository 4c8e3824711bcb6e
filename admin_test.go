package fanfare_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/broker"
)

// badge lets in who shows one of these tokens.
type badge map[string]*auth.Identity

func (b badge) Authenticate(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
	if c.Token == "" {
		return nil, nil
	}
	if id := b[c.Token]; id != nil {
		return id, nil
	}
	return nil, &auth.Error{Code: "bad_token", Message: "no"}
}

var badges = badge{
	"root": {Subject: "root", Roles: []string{auth.Admin}},
	"ann":  {Subject: "ann"},
}

var operatorsPages = []string{"metrics", "debug/pprof/", "debug/pprof/goroutine?debug=1", "debug/pprof/heap", "debug/pprof/none"}

// Who may see the operators' pages, on either address.
func TestOperators(t *testing.T) {
	open := perform(t, fanfare.Config{})
	guarded := perform(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: badges}})
	admin := httptest.NewServer(guarded.Admin())
	defer admin.Close()
	const asRoot, asAnn, asNobody = "Authorization: Bearer root", "Authorization: Bearer ann", "Authorization: Bearer eve"
	for _, page := range append(operatorsPages, "debug/pprof") {
		there := 200
		if page == "debug/pprof/none" {
			there = 404
		}
		first := 403
		if page == "metrics" {
			first = 200
		}
		for _, c := range []struct {
			url, header string
			status      int
		}{
			{open.url("/-/"), "X: y", first},
			{guarded.url("/-/"), "X: y", 401},
			{guarded.url("/-/"), asNobody, 401},
			{guarded.url("/-/"), asAnn, 403},
			{guarded.url("/-/"), asRoot, there},
			{guarded.url("/-/"), asRoot + "\nSec-Fetch-Site: cross-site", 403},
			{admin.URL + "/-/", "X: y", there},
			{admin.URL + "/-/", "Host: evil.example", 421},
			{admin.URL + "/-/", "Host: ops.example:9000", 421},
			{admin.URL + "/-/", "Host: localhost:1", there},
			{admin.URL + "/-/", "Sec-Fetch-Site: cross-site", 403},
			{admin.URL + "/-/", "Origin: https://evil.example", 403},
			{admin.URL + "/-/", "Origin: " + admin.URL, there},
		} {
			resp := askFor(t, "GET", c.url+page, "", c.header)
			if resp.status != c.status {
				t.Errorf("GET %s%s with %q: %d, want %d: %.200s", c.url, page, c.header, resp.status, c.status, resp.body)
			}
			if c.status == 401 || c.status == 403 {
				if resp.code() == "" || strings.Contains(resp.body, "goroutine profile") {
					t.Errorf("GET %s with %q is refused with %.200q", page, c.header, resp.body)
				}
			}
		}
	}
	for _, c := range []struct {
		path, method, body, header string
		status                     int
	}{
		{"/", "GET", "", "X: y", 200},
		{"/", "POST", "", "X: y", 405},
		{"/", "GET", "", "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", 200},
		{"/chat", "GET", "", "X: y", 404},
		{"/metrics", "GET", "", "X: y", 404},
		{"/-/fanfare.js", "GET", "", "X: y", 404},
		{"/-/connect", "GET", "", "X: y", 404},
		{"/-/metrics", "POST", "x", "X: y", 405},
		{"/-/healthz", "GET", "", "X: y", 200},
		{"/-/readyz", "GET", "", "X: y", 200},
		{"/-/revoke", "GET", "", "X: y", 405},
		{"/-/revoke", "POST", `{"subject":"ann"}`, "X: y", 200},
		{"/-/revoke", "POST", `{"subject":"ann"}`, "Origin: https://evil.example", 403},
		{"/-/revoke", "POST", `{"subject":"ann"}`, "Origin: null", 403},
		{"/-/revoke", "POST", `{"subject":"ann"}`, "Sec-Fetch-Site: same-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", 403},
	} {
		if resp := askFor(t, c.method, admin.URL+c.path, c.body, c.header); resp.status != c.status {
			t.Errorf("%s %s with %q: %d, want %d: %s", c.method, c.path, c.header, resp.status, c.status, resp.body)
		}
	}
	named := perform(t, fanfare.Config{AdminHosts: []string{"ops.example"}})
	behind := httptest.NewServer(named.Admin())
	defer behind.Close()
	if resp := askFor(t, "GET", behind.URL+"/-/metrics", "", "Host: ops.example:9000"); resp.status != 200 {
		t.Errorf("a host that is configured: %d", resp.status)
	}
}

// A profile of the processor is made, one at a time, and not for ever.
func TestProfile(t *testing.T) {
	s := perform(t, fanfare.Config{})
	admin := httptest.NewServer(s.Admin())
	defer admin.Close()
	answers := make(chan reply, 2)
	for range 2 {
		go func() { answers <- askFor(t, "GET", admin.URL+"/-/debug/pprof/profile?seconds=1", "", "X: y") }()
	}
	a, b := <-answers, <-answers
	if a.status == 200 {
		a, b = b, a
	}
	if b.status != 200 || a.status != 200 && a.code() != "busy" || !strings.HasPrefix(b.body, "\x1f\x8b") {
		t.Errorf("two profiles at once: %d %q and %d, %d bytes", a.status, a.code(), b.status, len(b.body))
	}
}

// moody is a broker that fails, or does not answer, when it is asked for history.
type moody struct {
	*broker.Memory
	mood func(context.Context) error
}

func (b moody) History(ctx context.Context, channel string, q broker.Query) (broker.Page, error) {
	if err := b.mood(ctx); err != nil {
		return broker.Page{}, err
	}
	return b.Memory.History(ctx, channel, q)
}

func TestReady(t *testing.T) {
	for name, c := range map[string]struct {
		mood   func(context.Context) error
		status int
	}{
		"well":   {func(context.Context) error { return nil }, 200},
		"sick":   {func(context.Context) error { return errors.New("the disk of 10.0.0.7 is gone") }, 503},
		"silent": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := perform(t, fanfare.Config{Broker: moody{broker.NewMemory(nil), c.mood}})
			began := time.Now()
			resp := askFor(t, "GET", s.url("/-/readyz"), "", "X: y")
			if resp.status != c.status || strings.Contains(resp.body, "10.0.0.7") {
				t.Errorf("%d %s, want %d", resp.status, resp.body, c.status)
			}
			if c.status == 503 && (resp.code() != "not_ready" || !strings.Contains(resp.body, "broker")) {
				t.Errorf("it is not ready because of %s", resp.body)
			}
			if d := time.Since(began); d > patience/2 {
				t.Errorf("it took %v", d)
			}
			if resp := askFor(t, "GET", s.url("/-/healthz"), "", "X: y"); resp.status != 200 {
				t.Errorf("it is alive all the same, and says %d", resp.status)
			}
		})
	}
}

// A reply is an answer that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) code() string {
	var e struct {
		Error struct{ Code string }
	}
	_ = json.Unmarshal([]byte(r.body), &e)
	return e.Error.Code
}

// askFor makes a request; headers are lines, Host among them.
func askFor(t *testing.T, method, url, body, headers string) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return reply{}
	}
	for line := range strings.SplitSeq(headers, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return reply{resp.StatusCode, resp.Header, string(read)}
}
