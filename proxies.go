package fanfare

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedHeader says for whom a proxy asks: "client, proxy, proxy", to which each
// proxy appends who asked it.
const forwardedHeader = "X-Forwarded-For"

// clientAddress is from where a request comes: the peer's address, unless the peer is
// one of the proxies. Then it is the last address in X-Forwarded-For that is not a
// proxy's: what stands before it a client can have made up. Where the header has
// something else than an address, it is the proxy that passed that on. It is not valid where
// there is none, as for a Unix socket's peer, which counts as a proxy: whoever may open the
// socket is let in by the system.
func clientAddress(r *http.Request, proxies []netip.Prefix) netip.Addr {
	at := readAddress(r.RemoteAddr)
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if at.IsValid() && !trusted(at) {
		return at
	}
	given := r.Header[forwardedHeader]
	for _, line := range slices.Backward(given) {
		for more := true; more; {
			var hop string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, hop = line[:i], line[i+1:]
			} else {
				hop, more = line, false
			}
			was := at
			if at = readAddress(strings.TrimSpace(hop)); !at.IsValid() {
				return was
			}
			if !trusted(at) {
				return at
			}
		}
	}
	return at
}

// readAddress reads an address, which may have a port behind it. One that is not
// valid says that there is none.
func readAddress(text string) netip.Addr {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().Unmap().WithZone("")
	}
	if in, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(in, "]")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
