package fanfare_test

import (
	"net/http"
	"strings"
	"testing"

	"fanfare"
)

// A publication that is repeated with its id is one message; whose id it is
// depends on who says so.
func TestIdempotencyKey(t *testing.T) {
	s := perform(t, fanfare.Config{})
	post := func(path, id, text string) (int, string) {
		t.Helper()
		resp, body := s.fetch("POST", path, text, "Idempotency-Key: "+id)
		if resp.StatusCode != http.StatusOK {
			return resp.StatusCode, errorCode(body)
		}
		return resp.StatusCode, body["position"].(string)
	}
	const client = "client=0123456789abcdef"
	_, first := post("/chat?name=ann", "1", "hello")
	_, bobs := post("/chat?name=bob", "1", "hello")
	_, clients := post("/chat?name=ann&"+client, "1", "hello")
	for _, c := range []struct {
		name, path, id, text string
		same                 string // the position of what this repeats
		code                 string
	}{
		{"again", "/chat?name=ann", "1", "hello", first, ""},
		{"in quotes", "/chat?name=ann", `"1"`, "hello", first, ""},
		{"bob again", "/chat?name=bob", "1", "hello", bobs, ""},
		{"the client again", "/chat?name=ann&" + client, "1", "hello", clients, ""},
		{"the client under another name", "/chat?name=carol&" + client, "1", "hello", clients, ""},
		{"another id", "/chat?name=ann", "2", "hello", "", ""},
		{"another client", "/chat?name=ann&client=0123456789abcdeF", "1", "hello", "", ""},
		{"another channel", "/other?name=ann", "1", "hello", "", ""},
		{"another text", "/chat?name=ann", "1", "hello!", "", "id_reused"},
		{"another key", "/chat?name=ann&key=k", "1", "hello", "", "id_reused"},
	} {
		status, got := post(c.path, c.id, c.text)
		switch {
		case c.code != "":
			if status != http.StatusUnprocessableEntity || got != c.code {
				t.Errorf("%s: %d %s, want %s", c.name, status, got, c.code)
			}
		case c.same != "" && got != c.same:
			t.Errorf("%s: %s, want %s", c.name, got, c.same)
		case c.same == "" && (got == first || got == bobs || got == clients):
			t.Errorf("%s: %s, which was there before", c.name, got)
		}
	}
	if n := len(s.page("/chat").Messages); n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
}

// Two people can have the same name, and still publish apart.
func TestIDsAreASubjectsOwn(t *testing.T) {
	two := register{
		"one":   {Subject: "u1", Name: "Sam"},
		"other": {Subject: "u2", Name: "Sam"},
	}
	s := perform(t, guarded(func(c *fanfare.Config) { c.Auth.Authenticator = two }))
	for _, token := range []string{"other", "one"} {
		resp, body := s.fetch("POST", "/chat/x", "from "+token, "Idempotency-Key: 1", bearer(token))
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s %v", token, resp.Status, body)
		}
	}
}

// Lines have ids of their own, or that of the request and their number.
func TestIdempotentLines(t *testing.T) {
	s := perform(t, fanfare.Config{})
	post := func(body string, headers ...string) []string {
		t.Helper()
		b := newBatch(t, http.DefaultClient, s.url("/lines"), headers...)
		b.say(body)
		b.body.Close()
		var all []string
		for o, ok := b.next(); ok; o, ok = b.next() {
			all = append(all, o.Position+o.Error.Code)
		}
		return all
	}
	const three = "{\"data\":1,\"id\":\"a\"}\n{\"data\":2}\n{\"data\":3}\n"
	first := post(three, "Idempotency-Key: batch")
	if again := post(three, "Idempotency-Key: batch"); strings.Join(again, " ") != strings.Join(first, " ") {
		t.Errorf("%v, and again %v", first, again)
	}
	other := post(three, "Idempotency-Key: other")
	if other[0] != first[0] || other[1] == first[1] || other[2] == first[2] {
		t.Errorf("%v, and under another key %v", first, other)
	}
	changed := post("{\"data\":1,\"id\":\"a\"}\n{\"data\":4}\n", "Idempotency-Key: batch")
	if changed[0] != first[0] || changed[1] != "id_reused" {
		t.Errorf("%v, and changed %v", first, changed)
	}
	// The same, one by one.
	if _, body := s.fetch("POST", "/lines", "1", "Idempotency-Key: a"); body["position"] != first[0] {
		t.Errorf("%v, want %s", body, first[0])
	}
	if n := len(s.page("/lines").Messages); n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
}
