// Package browser is the client for browsers and Node.js: fanfare.js, one ES
// module without dependencies that speaks fanfare.v1. A server serves it, so
// that a page needs nothing from elsewhere:
//
//	import { connect } from "/-/fanfare.js"
//
// The same files are a package for npm. README.md here says how to use it.
package browser

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"
)

//go:embed fanfare.js
var module []byte

// packed is the module as most browsers want it, and etag names its text.
var packed = sync.OnceValues(func() (gzipped []byte, etag string) {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = w.Write(module) // into memory: it does not fail
	_ = w.Close()
	sum := sha256.Sum256(module)
	return b.Bytes(), base64.RawURLEncoding.EncodeToString(sum[:12])
})

// Serve answers a GET or HEAD with the module. Pages of every origin may load
// it: it holds no secret, and the server asks each connection where it is from.
// Serve may be called from any goroutine.
func Serve(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Access-Control-Allow-Origin", "*")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "the browser client answers GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	content, etag := packed()
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		head.Set("Content-Encoding", "gzip")
		etag += "-gzip"
	} else {
		content = module
	}
	head.Set("Content-Type", "text/javascript; charset=utf-8")
	head.Set("Vary", "Accept-Encoding")
	head.Set("ETag", `"`+etag+`"`)
	head.Set("Cache-Control", "no-cache") // asked for each time, and rarely sent again: a page and its server fit
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cross-Origin-Resource-Policy", "cross-origin")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3) as far as
// clients use it: gzip is named, and not with the quality 0.
func acceptsGzip(accept string) bool {
	for coding := range strings.SplitSeq(accept, ",") {
		name, quality, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return strings.Trim(quality, " q=0.") != "" || strings.TrimSpace(quality) == ""
		}
	}
	return false
}
