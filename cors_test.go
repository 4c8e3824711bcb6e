package fanfare_test

import (
	"strings"
	"testing"

	"fanfare"
)

// What a page of another host may do, by the origins that are let in.
func TestCORS(t *testing.T) {
	const app, evil = "https://app.example.com", "https://evil.example"
	preflight := func(origin, method, headers string) []string {
		return []string{"Origin: " + origin, "Access-Control-Request-Method: " + method, "Access-Control-Request-Headers: " + headers}
	}
	for _, c := range []struct {
		name    string
		origins string
		method  string
		path    string
		headers []string
		status  int
		allowed string // Access-Control-Allow-Origin
		cookies bool   // Access-Control-Allow-Credentials
	}{
		{"no page", "", "GET", "/chat", nil, 200, "", false},
		{"no page posts", "", "POST", "/chat", nil, 200, "", false},
		{"own page", "", "GET", "/chat", []string{"Origin: http://ADDR"}, 200, "http://ADDR", true},
		{"own page posts", "", "POST", "/chat", []string{"Origin: http://ADDR"}, 200, "http://ADDR", true},
		{"stranger reads", "", "GET", "/chat", []string{"Origin: " + app}, 200, "", false},
		{"stranger posts", "", "POST", "/chat", []string{"Origin: " + app}, 403, "", false},
		{"stranger asks", "", "OPTIONS", "/chat", preflight(app, "POST", "content-type"), 403, "", false},
		{"stranger asks what there is", "", "OPTIONS", "/chat", []string{"Origin: " + app}, 204, "", false},
		{"no page asks what there is", "", "OPTIONS", "/chat", nil, 204, "", false},

		{"named reads", app, "GET", "/chat", []string{"Origin: " + app}, 200, app, true},
		{"named looks", app, "HEAD", "/chat", []string{"Origin: " + app}, 200, app, true},
		{"named posts", app, "POST", "/chat", []string{"Origin: " + app}, 200, app, true},
		{"named asks", app, "OPTIONS", "/chat", preflight(app, "POST", "content-type,idempotency-key"), 204, app, true},
		{"named is told what is wrong", app, "GET", "/chat?limit=0", []string{"Origin: " + app}, 400, app, true},
		{"named asks for no channel", app, "GET", "/a//b", []string{"Origin: " + app}, 400, app, true},
		{"named does what there is not", app, "DELETE", "/chat", []string{"Origin: " + app}, 405, app, true},
		{"another one", app, "POST", "/chat", []string{"Origin: " + evil}, 403, "", false},
		{"another port", app, "POST", "/chat", []string{"Origin: " + app + ":444"}, 403, "", false},
		{"a longer name", app, "POST", "/chat", []string{"Origin: " + app + ".evil.example"}, 403, "", false},
		{"without its scheme", app, "POST", "/chat", []string{"Origin: http://app.example.com"}, 403, "", false},
		{"a pattern's", "*.example.com", "POST", "/chat", []string{"Origin: " + app}, 200, app, true},
		{"null", app, "POST", "/chat", []string{"Origin: null"}, 403, "", false},
		{"nothing", app, "POST", "/chat", []string{"Origin: "}, 403, "", false},
		{"two", app, "POST", "/chat", []string{"Origin: " + app, "Origin: " + evil}, 403, "", false},

		{"everybody reads", "*", "GET", "/chat", []string{"Origin: " + evil}, 200, "*", false},
		{"everybody posts", "*", "POST", "/chat", []string{"Origin: " + evil}, 200, "*", false},
		{"everybody asks", "*", "OPTIONS", "/chat", preflight(evil, "POST", "content-type"), 204, "*", false},
		{"everybody, null too", "*", "POST", "/chat", []string{"Origin: null"}, 200, "*", false},
		{"named among everybody", "* " + app, "POST", "/chat", []string{"Origin: " + app}, 200, app, true},
		{"everybody and somebody named", "* " + app, "POST", "/chat", []string{"Origin: " + evil}, 200, "*", false},
		{"own page among everybody", "*", "POST", "/chat", []string{"Origin: http://ADDR"}, 200, "http://ADDR", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := perform(t, fanfare.Config{Origins: strings.Fields(c.origins)})
			headers := strings.Split(strings.ReplaceAll(strings.Join(c.headers, "\n"), "ADDR", s.addr()), "\n")
			if c.headers == nil {
				headers = nil
			}
			resp, _ := s.fetch(c.method, c.path, "", headers...)
			h := resp.Header
			if resp.StatusCode != c.status || h.Get("Access-Control-Allow-Origin") != strings.ReplaceAll(c.allowed, "ADDR", s.addr()) {
				t.Errorf("%s, allowed is %q; want %d and %q", resp.Status, h.Get("Access-Control-Allow-Origin"), c.status, c.allowed)
			}
			if cookies := h.Get("Access-Control-Allow-Credentials"); cookies != map[bool]string{true: "true"}[c.cookies] {
				t.Errorf("credentials: %q", cookies)
			}
			// A cache must keep apart what is for whom.
			if !strings.Contains(strings.Join(h["Vary"], ","), "Origin") {
				t.Errorf("Vary is %q", h["Vary"])
			}
			if shown := h.Get("Access-Control-Expose-Headers"); (shown != "") != (c.allowed != "") || c.allowed != "" && !strings.Contains(shown, "Fanfare-Position") {
				t.Errorf("shown are %q", shown)
			}
			asks := c.method == "OPTIONS" && strings.Contains(strings.Join(headers, "\n"), "Request-Method")
			methods, asked := h.Get("Access-Control-Allow-Methods"), h.Get("Access-Control-Allow-Headers")
			if permitted := asks && c.allowed != ""; permitted != (methods == "GET, HEAD, POST, OPTIONS") || permitted != (asked == "Authorization, Content-Type, Idempotency-Key, Last-Event-ID") || permitted != (h.Get("Access-Control-Max-Age") != "") {
				t.Errorf("may send %q with %q for %q", methods, asked, h.Get("Access-Control-Max-Age"))
			}
			if c.method == "OPTIONS" && h.Get("Allow") != "GET, HEAD, POST, OPTIONS" {
				t.Errorf("Allow is %q", h.Get("Allow"))
			}
		})
	}
}
