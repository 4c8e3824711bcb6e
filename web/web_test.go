package web_test

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"fanfare/web"
)

func serve(method, channel string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "/whatever", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	web.Serve(w, r, channel)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServe(t *testing.T) {
	got := serve("GET", "chat/general")
	page := body(t, got)
	for header, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"X-Content-Type-Options": "nosniff",
		"Referrer-Policy":        "no-referrer",
		"Cache-Control":          "no-cache",
		"Vary":                   "Accept",
	} {
		if got.Header.Get(header) != want {
			t.Errorf("%s: %q, want %q", header, got.Header.Get(header), want)
		}
	}
	if got.StatusCode != 200 || !strings.HasPrefix(page, "<!doctype html>") {
		t.Errorf("status %d, page begins %.40q", got.StatusCode, page)
	}
	if !strings.Contains(page, `<meta name="fanfare-channel" content="chat/general">`) {
		t.Error("the page does not know its channel")
	}
	if strings.Contains(page, "{{") {
		t.Error("a marker was left in the page")
	}

	head := serve("HEAD", "chat/general")
	if head.StatusCode != 200 || body(t, head) != "" || head.ContentLength != int64(len(page)) {
		t.Errorf("HEAD: status %d, length %d, want 200, %d and no body", head.StatusCode, head.ContentLength, len(page))
	}
	if post := serve("POST", "chat/general"); post.StatusCode != 405 || post.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d, Allow %q", post.StatusCode, post.Header.Get("Allow"))
	}
}

func TestUnchangedPageIsNotSentAgain(t *testing.T) {
	tag := serve("GET", "chat/general").Header.Get("ETag")
	if again := serve("GET", "chat/general", "If-None-Match", `"other", `+tag); again.StatusCode != 304 || body(t, again) != "" {
		t.Errorf("same page: status %d, want 304 without a body", again.StatusCode)
	}
	if other := serve("GET", "chat/other", "If-None-Match", tag); other.StatusCode != 200 {
		t.Errorf("another channel's page: status %d, want 200: its name stands in the page", other.StatusCode)
	}
}

func TestChannelIsText(t *testing.T) {
	page := body(t, serve("GET", `x"><script>alert(1)</script><img src=x onerror='alert(2)'>&{{channel}}`))
	if strings.Contains(page, "<script>") || strings.Contains(page, "<img") {
		t.Error("a channel's name reached the page as HTML")
	}
	escaped := `x&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#39;alert(2)&#39;&gt;&amp;{{channel}}`
	if n := strings.Count(page, escaped); n < 2 {
		t.Errorf("the escaped name stands %d times in the page, want it in the meta tag and the title at least", n)
	}
}

// A page whose policy does not fit runs nothing and looks like nothing.
func TestPolicyFitsThePage(t *testing.T) {
	got := serve("GET", "lobby")
	page, policy := body(t, got), got.Header.Get("Content-Security-Policy")
	for directive, pattern := range map[string]string{
		"script-src 'self'": `(?s)<script[^>]*>(.*?)</script>`,
		"style-src":         `(?s)<style[^>]*>(.*?)</style>`,
	} {
		all := regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1)
		if len(all) != 1 {
			t.Fatalf("%d matches of %s, want one", len(all), pattern)
		}
		sum := sha256.Sum256([]byte(all[0][1]))
		if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q allows more than the page needs", policy)
	}
}

// The policy would stop these in a browser; here the reason is easier to read.
func TestPageNeedsNothingElse(t *testing.T) {
	page := body(t, serve("GET", "lobby"))
	for _, no := range []string{
		`<script[^>]+src`, `<link[^>]+href="[^d]`, `@import`, `url\(`,
		`innerHTML`, `outerHTML`, `insertAdjacent`, `document\.write`, `\beval\(`, ` on[a-z]+="`, ` style="`, `setAttribute\('on`,
	} {
		if found := regexp.MustCompile(no).FindAllString(page, -1); found != nil {
			t.Errorf("the page contains %q (%s)", found[0], no)
		}
	}
}
