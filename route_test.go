package fanfare_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"fanfare"
)

// fetch does one request and returns the answer, whose body is JSON or empty.
func (s *stage) fetch(method, path, body string, headers ...string) (*http.Response, map[string]any) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url(path), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Add(name, value)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var out map[string]any
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			s.t.Fatalf("%s %s: %v in %q", method, path, err, raw)
		}
	}
	return resp, out
}

func errorCode(body map[string]any) string {
	e, _ := body["error"].(map[string]any)
	code, _ := e["code"].(string)
	if message, _ := e["message"].(string); message == "" {
		return ""
	}
	return code
}

// Each refusal has its status, its stable code, and a sentence.
func TestRefusals(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 100})
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"body too large", "POST", "/chat", strings.Repeat("x", 101), nil, 413, "too_big"},
		{"body at the limit", "POST", "/chat", strings.Repeat("x", 100), nil, 200, ""},
		{"text not UTF-8", "POST", "/chat", "\xff", nil, 400, "bad_text"},
		{"binary body", "POST", "/chat", "\xff", []string{"Content-Type: application/octet-stream"}, 200, ""},
		{"image", "POST", "/chat", "\xff", []string{"Content-Type: image/png"}, 200, ""},
		{"empty body", "POST", "/chat", "", nil, 200, ""},
		{"another site's page posts", "POST", "/chat", "x", []string{"Origin: https://evil.example"}, 403, "bad_origin"},
		{"own page posts", "POST", "/chat", "x", []string{"Origin: http://" + s.addr()}, 200, ""},
		{"null origin", "POST", "/chat", "x", []string{"Origin: null"}, 403, "bad_origin"},
		{"client too short", "POST", "/chat?client=123456789012345", "x", nil, 400, "bad_client"},
		{"shortest client", "POST", "/chat?client=1234567890123456", "x", nil, 200, ""},
		{"longest client", "GET", "/chat?client=" + strings.Repeat("%C3%B6", 64), "", nil, 200, ""},
		{"client too long", "GET", "/chat?client=" + long[:65], "", nil, 400, "bad_client"},
		{"client with control characters", "POST", "/chat?client=1234567890123456%00", "x", nil, 400, "bad_client"},
		{"client not UTF-8", "POST", "/chat?client=1234567890123456%ff", "x", nil, 400, "bad_client"},
		{"compressed body", "POST", "/chat", "x", []string{"Content-Encoding: gzip"}, 415, "bad_media"},
		{"body as it is", "POST", "/chat", "x", []string{"Content-Encoding: identity"}, 200, ""},
		{"a form's parts", "POST", "/chat", "x", []string{"Content-Type: multipart/form-data; boundary=x"}, 415, "bad_media"},
		{"a form", "POST", "/chat", "x", []string{"Content-Type: application/x-www-form-urlencoded"}, 200, ""},
		{"lines by another name", "POST", "/chat", "{}", []string{"Content-Type: application/jsonl"}, 415, "bad_media"},
		{"text of another charset", "POST", "/chat", "x", []string{"Content-Type: text/plain; charset=ISO-8859-1"}, 415, "bad_media"},
		{"text in UTF-8", "POST", "/chat", "x", []string{"Content-Type: text/plain; charset=UTF-8"}, 200, ""},
		{"type that is none", "POST", "/chat", "x", []string{"Content-Type: /;"}, 415, "bad_media"},
		{"id too long", "POST", "/chat", "x", []string{"Idempotency-Key: " + long[:129]}, 400, "bad_id"},
		{"longest id", "POST", "/chat", "x", []string{"Idempotency-Key: " + long[:128]}, 200, ""},
		{"empty id", "POST", "/chat", "x", []string{`Idempotency-Key: ""`}, 400, "bad_id"},
		{"two ids", "POST", "/chat", "x", []string{"Idempotency-Key: 1", "Idempotency-Key: 2"}, 400, "bad_id"},
		{"name too long", "POST", "/chat?name=" + long, "x", nil, 400, "bad_name"},
		{"name with control characters", "POST", "/chat?name=a%0Ab", "x", nil, 400, "bad_name"},
		{"name with spaces around", "POST", "/chat?name=%20a", "x", nil, 400, "bad_name"},
		{"name not UTF-8", "POST", "/chat?name=%ff", "x", nil, 400, "bad_name"},
		{"key too long", "POST", "/chat?key=" + long, "x", nil, 400, "bad_key"},
		{"channel too long", "GET", "/" + long, "", nil, 400, "bad_channel"},
		{"longest channel", "GET", "/" + long[:255], "", nil, 200, ""},
		{"empty segment", "GET", "/a//b", "", nil, 400, "bad_channel"},
		{"dots", "GET", "/a/%2e%2e/b", "", nil, 400, "bad_channel"},
		{"control character", "GET", "/a%00b", "", nil, 400, "bad_channel"},
		{"channel not UTF-8", "GET", "/%ff", "", nil, 400, "bad_channel"},
		{"pattern", "POST", "/chat/*", "x", nil, 405, "bad_method"},
		{"a pattern's history", "GET", "/chat/*", "", nil, 200, ""},
		{"star that is no pattern", "GET", "/chat*", "", nil, 400, "bad_channel"},
		{"part of a method", "ET", "/chat", "", nil, 405, "bad_method"},
		{"limit of nothing", "GET", "/chat?limit=0", "", nil, 400, "bad_limit"},
		{"limit too large", "GET", "/chat?limit=1001", "", nil, 400, "bad_limit"},
		{"limit where it has no use", "POST", "/chat?limit=0", "x", nil, 400, "bad_limit"},
		{"limit no number", "GET", "/chat?limit=many", "", nil, 400, "bad_limit"},
		{"since nonsense", "GET", "/chat?since=yesterday", "", nil, 400, "bad_since"},
		{"since with a sign", "GET", "/chat?since=%2B1-1", "", nil, 400, "bad_since"},
		{"since too large", "GET", "/chat?since=1-18446744073709551616", "", nil, 400, "bad_since"},
		{"unknown method", "DELETE", "/chat", "", nil, 405, "bad_method"},
		{"face that is not there", "GET", "/chat", "", []string{"Accept: image/png"}, 406, "not_acceptable"},
		{"our own", "GET", "/-/secret", "", nil, 404, "not_found"},
		{"publish to our own", "POST", "/-/secret", "x", nil, 404, "not_found"},
		{"unknown method of our own", "POST", "/-/healthz", "x", nil, 405, "bad_method"},
		{"unknown method of the module", "POST", "/-/fanfare.js", "x", nil, 405, "bad_method"},
		{"health", "GET", "/-/healthz", "", nil, 200, ""},
		{"ready", "GET", "/-/readyz", "", nil, 200, ""},
		{"options", "OPTIONS", "/chat", "", nil, 204, ""},
		{"head", "HEAD", "/chat", "", nil, 200, ""},
		{"upgrade without a key", "GET", "/chat", "", []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"}, 400, "bad_key"},
		{"old version", "GET", "/chat", "", []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, 426, "bad_version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := s.fetch(c.method, c.path, c.body, c.headers...)
			if resp.StatusCode != c.status || errorCode(body) != c.code {
				t.Errorf("%d %v, want %d %q", resp.StatusCode, body, c.status, c.code)
			}
		})
	}
}

// What answers a GET depends on what it accepts.
func TestFaces(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for accept, want := range map[string]string{
		"": "application/json",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "text/html",
		"*/*":                               "application/json",
		"application/json":                  "application/json",
		"text/*":                            "text/html",
		"text/html;q=0.1, application/json": "application/json",
		"application/json;q=0, */*":         "text/html",
		"TEXT/HTML":                         "text/html",
		"text/html;q=nonsense, */*;q=0.1":   "application/json",
	} {
		var headers []string
		if accept != "" {
			headers = []string{"Accept: " + accept}
		}
		resp, _ := s.fetch("GET", "/chat", "", headers...)
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, want) || !strings.Contains(strings.Join(resp.Header["Vary"], ","), "Accept") {
			t.Errorf("Accept %q: %s, Vary %v; want %s", accept, got, resp.Header["Vary"], want)
		}
	}
}
