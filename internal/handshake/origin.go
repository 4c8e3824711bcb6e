package handshake

import (
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
		subject := host
		if strings.Contains(pattern, "://") {
			subject = scheme + "://" + host
		}
		// Compared first, because to path.Match the brackets of [::1] are a class of characters.
		if pattern == subject {
			return nil
		}
		matched, err := path.Match(pattern, subject)
		if err != nil {
			return &Refusal{http.StatusInternalServerError, "bad_config",
				fmt.Sprintf("the server's list of origins has the malformed pattern %q", pattern), nil}
		}
		if matched {
			return nil
		}
	}
	return badOrigin(fmt.Sprintf("pages from %s may not connect to %s; the server's list of origins can permit it", quote(values[0]), quote(r.Host)))
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

// quote is %q for text that a stranger chose the length of.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%q", s)
}
