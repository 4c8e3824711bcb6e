package auth

import (
	"fmt"
	"slices"
	"strings"

	"fanfare/broker"
)

// A Right is one thing that a client may do in a channel.
type Right uint8

const (
	Publish   Right = iota // say something
	Subscribe              // hear what is said from now on
	Presence               // know who is there
	History                // read what was said, and resume
	rights
)

// Rights are all there are.
var Rights = []Right{Publish, Subscribe, Presence, History}

// String returns the right's name as settings and tokens have it.
func (r Right) String() string {
	return [...]string{"publish", "subscribe", "presence", "history"}[r]
}

// ParseRight reads a right's name.
func ParseRight(name string) (Right, error) {
	for _, r := range Rights {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no right; there are publish, subscribe, presence and history", name)
}

// Roles that need no token to say so.
const (
	Anonymous     = "anonymous"     // everybody, with a token or without
	Authenticated = "authenticated" // everybody with a subject
	Admin         = "admin"         // who may see the operators' pages; in channels it is a role as every other
)

// A Rule grants rights.
type Rule struct {
	// Channels are where: patterns, in which a segment $sub stands for the
	// client's subject, so that inbox/$sub is everyone's own.
	Channels []string
	// Roles are to whom: one of them is enough.
	Roles []string
	// Allow is what.
	Allow []Right
}

// Rules grant what any of them grants; nothing else is granted.
type Rules []Rule

// Default are the rules of a server that was given none: who has a token may do
// everything in all channels, unless the token says otherwise, and nobody else may
// do anything.
var Default = Rules{{Channels: []string{"**"}, Roles: []string{Authenticated}, Allow: Rights}}

// subject is the segment that stands for the subject.
const subject = "$sub"

// Check returns an error that says which rule can never have been meant.
func (rules Rules) Check() error {
	for i, r := range rules {
		switch {
		case len(r.Channels) == 0:
			return fmt.Errorf("rule %d says no channels: name patterns, such as chat/**", i+1)
		case len(r.Roles) == 0:
			return fmt.Errorf("rule %d says no roles: name anonymous, authenticated, or roles of your own", i+1)
		case len(r.Allow) == 0:
			return fmt.Errorf("rule %d allows nothing: name publish, subscribe, presence or history", i+1)
		case slices.Contains(r.Roles, ""):
			return fmt.Errorf("rule %d has a role without a name", i+1)
		case slices.Max(r.Allow) >= rights:
			return fmt.Errorf("rule %d allows what is no right: there are publish, subscribe, presence and history", i+1)
		}
		for _, role := range r.Roles {
			for _, known := range []string{Anonymous, Authenticated} {
				if role != known && distance(strings.ToLower(role), known) <= 2 {
					return fmt.Errorf("rule %d has the role %.40q: write %s, if that is meant, or another name", i+1, role, known)
				}
			}
		}
		for _, pattern := range r.Channels {
			if err := CheckPattern(pattern); err != nil {
				return fmt.Errorf("rule %d: %w", i+1, err)
			}
		}
	}
	return nil
}

// distance is how many bytes must be put in, left out or exchanged to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from what of a was seen to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			exchanged := diagonal
			if a[i] != b[j] {
				exchanged++
			}
			diagonal = row[j+1]
			row[j+1] = min(exchanged, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// CheckPattern returns nil if p can be a rule's or a token's: a channel's name or
// a pattern, in which a whole segment may be $sub.
func CheckPattern(p string) error {
	for segment := range strings.SplitSeq(p, "/") {
		if strings.Contains(segment, subject) && segment != subject {
			return fmt.Errorf("in %.80q, $sub is part of a segment; it can only be all of one, as in inbox/$sub", p)
		}
	}
	return broker.CheckPattern(strings.ReplaceAll(p, subject, "x"))
}

// Grants are what one client may do. They do not change.
type Grants struct {
	patterns [rights][]string // each once
}

// Grants returns what the rules and the identity itself grant it; nil is nobody
// in particular. A pattern of the identity's that is none grants nothing.
func (rules Rules) Grants(id *Identity) *Grants {
	if id == nil {
		id = &Identity{}
	}
	g := new(Grants)
	for _, rule := range rules {
		if !slices.ContainsFunc(rule.Roles, id.has) {
			continue
		}
		for _, right := range rule.Allow {
			if _, own := id.Allow[right]; !own {
				g.add(right, rule.Channels, id.Subject)
			}
		}
	}
	for right, patterns := range id.Allow {
		g.add(right, patterns, id.Subject)
	}
	return g
}

// has reports whether the identity has a role.
func (id *Identity) has(role string) bool {
	switch role {
	case Anonymous:
		return true
	case Authenticated:
		return id.Subject != ""
	}
	return slices.Contains(id.Roles, role)
}

// IsAdmin reports whether it may see the operators' pages; nil may not.
func (id *Identity) IsAdmin() bool { return id != nil && slices.Contains(id.Roles, Admin) }

func (g *Grants) add(right Right, patterns []string, sub string) {
	if right >= rights {
		return // no right
	}
	for _, p := range patterns {
		own, ok := of(p, sub)
		if ok && !slices.Contains(g.patterns[right], own) {
			g.patterns[right] = append(g.patterns[right], own)
		}
	}
}

// of puts the subject into a pattern. One that is no single segment would reach
// where it must not, and gets nothing.
func of(pattern, sub string) (string, bool) {
	if CheckPattern(pattern) != nil {
		return "", false
	}
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if s == subject {
			segments[i] = sub
		}
	}
	if slices.Contains(segments, subject) || strings.Contains(pattern, subject) && (sub == "" || strings.ContainsAny(sub, "/*")) {
		return "", false
	}
	own := strings.Join(segments, "/")
	return own, broker.CheckPattern(own) == nil
}

// May reports whether all of a channel, or of a pattern, is granted; of patterns,
// by one grant alone. It allocates nothing. Nil grants everything.
func (g *Grants) May(r Right, channel string) bool {
	if g == nil {
		return true
	}
	for _, p := range g.patterns[r] {
		if covers(p, channel) {
			return true
		}
	}
	return false
}

// Meets reports whether some of what fits a pattern may be granted: if not, there
// is nothing in it.
func (g *Grants) Meets(r Right, pattern string) bool {
	if g == nil {
		return true
	}
	for _, p := range g.patterns[r] {
		if meet(p, pattern) {
			return true
		}
	}
	return false
}

// Within returns what is granted of a pattern, as patterns and names that together
// fit the same; none covers another, but they may overlap.
func (g *Grants) Within(r Right, pattern string) (parts []string) {
	if g == nil || r >= rights {
		return []string{pattern}
	}
	for _, p := range g.patterns[r] {
		part, ok := overlap(p, pattern)
		if !ok || slices.ContainsFunc(parts, func(had string) bool { return covers(had, part) }) {
			continue
		}
		parts = append(slices.DeleteFunc(parts, func(had string) bool { return covers(part, had) }), part)
	}
	return parts
}

// Nothing reports whether nothing at all is granted.
func (g *Grants) Nothing() bool {
	if g == nil {
		return false
	}
	for _, p := range g.patterns {
		if len(p) > 0 {
			return false
		}
	}
	return true
}

// covers reports whether every name that fits q fits p. A name is a pattern that
// only it fits.
func covers(p, q string) bool {
	for {
		if p == "**" {
			return true // there is a segment left of q, and ** is one or more
		}
		ps, pRest, pMore := strings.Cut(p, "/")
		qs, qRest, qMore := strings.Cut(q, "/")
		switch {
		case qs == "**", ps != qs && ps != "*", pMore != qMore:
			return false
		case !pMore:
			return true
		}
		p, q = pRest, qRest
	}
}

// meet reports whether some name fits both.
func meet(p, q string) bool {
	_, does := overlap(p, q)
	return does
}

// overlap returns the pattern that fits what fits both, if anything does.
func overlap(p, q string) (both string, ok bool) {
	for {
		switch { // both have a segment left, and ** is one or more
		case p == "**":
			return both + q, true
		case q == "**":
			return both + p, true
		}
		ps, pRest, pMore := strings.Cut(p, "/")
		qs, qRest, qMore := strings.Cut(q, "/")
		switch {
		case ps != qs && ps != "*" && qs != "*", pMore != qMore:
			return "", false
		case ps == "*":
			ps = qs
		}
		if both += ps; !pMore {
			return both, true
		}
		both += "/"
		p, q = pRest, qRest
	}
}
