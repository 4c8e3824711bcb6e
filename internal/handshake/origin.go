package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// CheckOrigin is what stands between us and other people's pages: a browser
// sends its cookies along with a WebSocket to anywhere, and only the Origin
// header tells whose page asked (RFC 6455, section 10.2).
//
// No Origin means no browser, and whoever is not a browser could have sent
// any. "null" is the origin of sandboxed frames and files, which anyone can
// make, so only "*" covers it.
func CheckOrigin(r *http.Request, allowed []string) *Refusal {
	values := r.Header["Origin"]
	if len(values) == 0 {
		return nil
	}
	for _, pattern := range allowed {
		if pattern == "*" {
			return nil
		}
	}
	if len(values) > 1 {
		return badOrigin("the request has more than one Origin header")
	}
	scheme, host, ok := parseOrigin(values[0])
	if !ok {
		return badOrigin(fmt.Sprintf("the Origin %s names no host", quote(values[0])))
	}
	if sameOrigin(r, scheme, host) {
		return nil
	}
	for _, pattern := range allowed {
		if covers(strings.ToLower(pattern), scheme, host) {
			return nil
		}
	}
	return badOrigin(fmt.Sprintf("pages from %s may not connect to %s; the server's list of origins can permit it", quote(values[0]), quote(r.Host)))
}

// covers reports whether the pattern, in lower case, is one of this origin. The
// default port may be written out in it; a malformed pattern covers nothing.
func covers(pattern, scheme, host string) bool {
	for _, subject := range []string{host, withDefaultPort(scheme, host)} {
		if strings.Contains(pattern, "://") {
			subject = scheme + "://" + subject
		}
		// Compared first, because to path.Match the brackets of [::1] are a class of characters.
		if pattern == subject {
			return true
		}
		if matched, err := path.Match(pattern, subject); matched && err == nil {
			return true
		}
	}
	return false
}

// CheckOrigins returns what is wrong with the first pattern that could never
// match as it was meant, in a sentence that says the right form, or nil. A
// pattern that [path.Match] cannot read is a [path.ErrBadPattern].
func CheckOrigins(patterns []string) error {
	for _, pattern := range patterns {
		if err := checkPattern(pattern); err != nil {
			return fmt.Errorf("the origin %s %w; write a host (\"app.example.com\", \"*.example.com\", \"localhost:*\"), "+
				"or scheme and host (\"https://app.example.com\"), or \"*\" for every page", quote(pattern), err)
		}
	}
	return nil
}

func checkPattern(pattern string) error {
	_, host, found := strings.Cut(pattern, "://")
	if !found {
		host = pattern
	}
	switch {
	case pattern == "":
		return errors.New("is empty")
	case strings.EqualFold(pattern, "null"):
		return errors.New("is what any page can make itself, and only \"*\" covers it")
	case host == "":
		return errors.New("has no host")
	case strings.ContainsFunc(pattern, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f }):
		return errors.New("holds a blank or a comma: each origin is an entry of its own")
	case strings.ContainsFunc(pattern, func(r rune) bool { return r > 0x7f }):
		return errors.New("holds letters that browsers do not send: give the host's ASCII form, xn--…")
	case strings.ContainsAny(host, "/#@"):
		return errors.New("holds more than scheme and host: no path, not even a slash at the end, and no user")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("is malformed (%w)", err)
	}
	return nil
}

func badOrigin(reason string) *Refusal {
	return &Refusal{http.StatusForbidden, "bad_origin", reason, nil}
}

// parseOrigin splits an Origin header into scheme and host, in lower case and
// without the scheme's default port.
func parseOrigin(origin string) (scheme, host string, ok bool) {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Hostname() == "" ||
		u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", "", false
	}
	scheme = strings.ToLower(u.Scheme)
	return scheme, withoutDefaultPort(scheme, strings.ToLower(u.Host)), true
}

// sameOrigin reports whether the page came from the host that the request is
// for. Behind a proxy that ends TLS we see plain HTTP while the page is https,
// so the ports are compared by the page's scheme; that the scheme itself is
// right is known, and demanded, only where TLS ends here.
func sameOrigin(r *http.Request, scheme, host string) bool {
	if scheme != "https" && (scheme != "http" || r.TLS != nil) {
		return false
	}
	return r.Host != "" && withoutDefaultPort(scheme, strings.ToLower(r.Host)) == host
}

func withoutDefaultPort(scheme, host string) string {
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":")
}

// withDefaultPort undoes withoutDefaultPort.
func withDefaultPort(scheme, host string) string {
	if strings.LastIndexByte(host, ':') > strings.LastIndexByte(host, ']') {
		return host // it has a port
	}
	switch scheme {
	case "http":
		return host + ":80"
	case "https":
		return host + ":443"
	}
	return host
}

// quote is %q for text that a stranger chose the length of.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%q", s)
}
