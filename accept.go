package fanfare

import (
	"strconv"
	"strings"
)

// accepted returns which of the offers an Accept header likes best, the
// earlier one if it likes two the same; empty if it accepts none (RFC 9110,
// section 12.5.1).
func accepted(header []string, offers ...string) string {
	if len(header) == 0 {
		return offers[0]
	}
	best, bestQ := "", 0.0
	for _, offer := range offers {
		q, specific := 0.0, -1
		for entry := range strings.SplitSeq(strings.Join(header, ","), ",") {
			media, params, _ := strings.Cut(entry, ";")
			fit := fitness(strings.ToLower(strings.TrimSpace(media)), offer)
			if fit > specific {
				specific, q = fit, quality(params)
			}
		}
		if q > bestQ {
			best, bestQ = offer, q
		}
	}
	return best
}

// fitness is how closely a media range names an offer; -1: not at all.
func fitness(mediaRange, offer string) int {
	kind, _, _ := strings.Cut(offer, "/")
	switch mediaRange {
	case offer:
		return 2
	case kind + "/*":
		return 1
	case "*/*":
		return 0
	}
	return -1
}

func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		if v, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
			q, err := strconv.ParseFloat(v, 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}
