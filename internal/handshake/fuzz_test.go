package handshake

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// Any bytes that net/http takes for a request are refused in an orderly way, or
// are a handshake; then nothing of them is in the answer but the hash of the key.
func FuzzCheck(f *testing.F) {
	lines := strings.TrimSuffix(rawRequest, "\r\n")
	for _, more := range []string{
		"",
		"Sec-WebSocket-Protocol: v0, v1 ,v2\r\n",
		"Sec-WebSocket-Protocol: \xC3\xA9,\"v1\"\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99999\r\n",
		"Origin: https://example.com\r\n",
		"Origin: https://a.good.example:443\r\n",
		"Origin: https://good.example.evil.example\r\n",
		"Origin: null\r\n",
		"Origin: http://[::1]:80\r\n",
		"Content-Length: 5\r\n",
		"Transfer-Encoding: chunked\r\n",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
		"Upgrade: websocket/13, h2c\r\nConnection: close\r\n",
	} {
		f.Add([]byte(lines+more+"\r\n"), "*.good.example")
	}
	f.Add([]byte("POST /chat HTTP/1.0\r\nHost: x\r\n\r\n"), "[")
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\n"), "https://[::1]:443")
	f.Fuzz(func(t *testing.T, raw []byte, pattern string) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		start := time.Now()
		ours := []string{"v2", "v1"}
		subprotocol, err := Check(r, &Options{Subprotocols: ours, Origins: []string{"*.good.example"}})
		if err != nil {
			refused(t, err)
		} else {
			accepted(t, r, subprotocol, ours)
		}
		// Whatever stands in the configuration is a pattern or is refused.
		_, err = Check(r, &Options{Origins: []string{pattern}})
		if wrong := CheckOrigins([]string{pattern}); wrong != nil {
			if r := refused(t, err); r.Code != "bad_config" {
				t.Errorf("%v, with the pattern %q", r, pattern)
			}
		} else if err != nil && refused(t, err).Code == "bad_config" {
			t.Errorf("%q is fine, and then: %v", pattern, err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%d bytes took %v", len(raw), d)
		}
	})
}

func refused(t *testing.T, err error) *Refusal {
	t.Helper()
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("%T %v, want a *Refusal", err, err)
	}
	if refusal.Status < 400 || refusal.Status > 599 || refusal.Code == "" || refusal.Reason == "" || len(refusal.Reason) > 3000 {
		t.Errorf("%d %q, %d bytes of reason", refusal.Status, refusal.Code, len(refusal.Reason))
	}
	rec := httptest.NewRecorder()
	refusal.Answer(rec)
	for name, values := range rec.Header() {
		if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "\r\n") }) {
			t.Errorf("a line ends within the header %s: %q", name, values)
		}
	}
	return refusal
}

func accepted(t *testing.T, r *http.Request, subprotocol string, ours []string) {
	t.Helper()
	keys, versions := r.Header["Sec-Websocket-Key"], r.Header["Sec-Websocket-Version"]
	if len(keys) != 1 || len(versions) != 1 || versions[0] != "13" || r.Method != "GET" || r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.ContentLength != 0 {
		t.Errorf("accepted: %s %s, %d bytes of body, keys %q, versions %q", r.Method, r.Proto, r.ContentLength, keys, versions)
	}
	if key, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(key) != 16 {
		t.Errorf("accepted: a key of %d bytes, %v", len(key), err)
	}
	if subprotocol != "" && !slices.Contains(ours, subprotocol) {
		t.Errorf("the subprotocol %q is not ours", subprotocol)
	}
	if origins := r.Header["Origin"]; len(origins) > 1 {
		t.Errorf("accepted: the origins %q", origins)
	} else if len(origins) == 1 {
		_, page, _ := strings.Cut(strings.ToLower(origins[0]), "://")
		hostname := func(host string) string {
			if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
				host = host[:i]
			}
			return host
		}
		if host := strings.ToLower(r.Host); hostname(page) != hostname(host) && !strings.HasSuffix(hostname(page), ".good.example") {
			t.Errorf("accepted: a page from %q at %q", origins[0], r.Host)
		}
	}
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Accept: " + AcceptKey(keys[0]) + "\r\n"
	if subprotocol != "" {
		want += "Sec-Websocket-Protocol: " + subprotocol + "\r\n"
	}
	want += "Upgrade: websocket\r\n\r\n"
	if got := string(response(r, Agreed{Subprotocol: subprotocol}, nil)); got != want {
		t.Errorf("the answer is\n%q, want\n%q", got, want)
	}
}
