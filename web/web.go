// Package web is the page that a channel's URL shows to a browser: one HTML
// file with its style and its script inside. All else it has from the server it
// came from: the client at /-/fanfare.js, and what that brings. The page of a
// pattern's URL reads many channels.
package web

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html"
	"net/http"
	"strings"
	"time"
)

// source is the page as it stands in the repository.
//
//go:embed page.html
var source string

// marker stands in page.html wherever the channel's name belongs.
const marker = "{{channel}}"

var (
	// parts is the page, cut at its markers. A checkout that turned line ends
	// into CR LF is turned back: browsers do the same before they hash the script.
	parts = strings.Split(strings.ReplaceAll(source, "\r\n", "\n"), marker)

	policy = contentPolicy(strings.Join(parts, marker))

	// sum stands for the page without its channel, in every ETag.
	sum = sha256.Sum256([]byte(policy + "\n" + source))
)

// Serve answers a GET or HEAD with the page for a channel. The page shows the
// channel's name and finds everything else through its own URL, so it works
// under any mount prefix. Serve may be called from any goroutine.
//
// The channel's name comes from a stranger's URL: it is escaped here and used
// as text there.
func Serve(w http.ResponseWriter, r *http.Request, channel string) {
	head := w.Header()
	// One URL is many things, by what the request accepts: a cache must keep them apart.
	head.Add("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "the page of a channel answers GET and HEAD only", http.StatusMethodNotAllowed)
		return
	}
	page := strings.Join(parts, html.EscapeString(channel))
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-cache")
	head.Set("ETag", etag(channel))
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(page))
}

func etag(channel string) string {
	h := sha256.New()
	h.Write(sum[:])
	h.Write([]byte(channel))
	return `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12]) + `"`
}

// contentPolicy returns the Content-Security-Policy of the page: its own style and
// script, known by their hashes, its own origin to load the client from and to
// talk to, and nothing else. (The client cannot be named closer: where we are
// mounted is not known here. What others put on this origin through Fanfare is
// never served as a script.) Trusted types make the browser refuse what would turn a string into
// HTML, should a later change of the script try.
func contentPolicy(page string) string {
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self' " + hash(between(page, `<script type="module">`, "</script>")),
		"style-src " + hash(between(page, "<style>", "</style>")),
		"connect-src 'self'",
		"img-src data:",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'self'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
}

// hash returns text's source expression (CSP level 3, section 2.3.1).
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// between returns what stands between the first before and the next after.
func between(page, before, after string) string {
	_, rest, found := strings.Cut(page, before)
	text, _, closed := strings.Cut(rest, after)
	if !found || !closed {
		panic("web: page.html has no " + before + " … " + after)
	}
	return text
}
