package broker

import "strings"

// A pattern names many channels at once: a segment "*" stands for any one, and
// a last segment "**" for whatever follows, at least one. "sensors/*/temperature",
// "chat/**". No channel's name has such a segment.

// MaxStars is how many segments "*" a pattern may have that a stranger made up,
// a last "**" not counted. [Patterns] says why. Whoever takes patterns from
// strangers holds them to it; a broker need not.
const MaxStars = 4

// IsPattern reports whether name is a pattern.
func IsPattern(name string) bool {
	if !strings.Contains(name, "*") {
		return false // nearly always
	}
	for {
		segment, rest, more := strings.Cut(name, "/")
		if segment == "*" || segment == "**" && !more {
			return true
		}
		if !more {
			return false
		}
		name = rest
	}
}

// Fits reports whether a channel's name fits a pattern.
func Fits(pattern, name string) bool {
	for {
		p, morePattern, isMorePattern := strings.Cut(pattern, "/")
		if p == "**" && !isMorePattern {
			return true
		}
		n, moreName, isMoreName := strings.Cut(name, "/")
		if p != "*" && p != n || isMorePattern != isMoreName {
			return false
		}
		if !isMoreName {
			return true
		}
		pattern, name = morePattern, moreName
	}
}

// Patterns is a set of patterns with a value for each, made to find those that
// a channel's name fits without looking at the others; or a set of channels'
// names, made to find those that fit a pattern. The zero value is empty. It is
// not safe for concurrent use by itself.
//
// It is a tree of segments. A name is followed down from the root, at each
// segment along the branch of the same segment and along that of "*", so what
// is visited are beginnings of patterns which the name's own beginning fits:
// ten thousand patterns of other paths cost nothing. Somebody who wants to do
// harm lays out all the ways to put stars into one long path; with at most
// [MaxStars] of them those are about a thousand places for a name of ten
// segments (some 20 µs), and twenty-eight thousand for twenty, in which he would first have
// to register as many beginnings.
//
// A segment that no other pattern shares costs about a hundred bytes.
type Patterns[T any] struct {
	root branch[T]
	size int
}

// A branch is what follows one beginning of patterns.
type branch[T any] struct {
	any  *branch[T] // behind the segment "*"
	here *T         // of the pattern that ends here
	rest *T         // of the pattern that goes on with a last "**"

	// Behind the other segments. A branch with only one of them has no map.
	segment string
	only    *branch[T]
	more    map[string]*branch[T]
}

// Len returns how many patterns there are.
func (p *Patterns[T]) Len() int { return p.size }

// Add sets the pattern's value, and reports whether the pattern is new.
func (p *Patterns[T]) Add(pattern string, value T) bool {
	b := &p.root
	remaining := strings.Clone(pattern) // the caller's may be a piece of something bigger
	for more := true; more; {
		var segment string
		segment, remaining, more = strings.Cut(remaining, "/")
		if segment == "**" && !more {
			return p.set(&b.rest, value)
		}
		next := b.next(segment)
		if next == nil {
			next = new(branch[T])
			b.put(segment, next)
		}
		b = next
	}
	return p.set(&b.here, value)
}

func (p *Patterns[T]) set(place **T, value T) bool {
	isNew := *place == nil
	if isNew {
		p.size++
	}
	*place = &value
	return isNew
}

// Remove removes the pattern, and reports whether it was there.
func (p *Patterns[T]) Remove(pattern string) bool {
	had := p.root.remove(pattern)
	if had {
		p.size--
	}
	return had
}

// Match calls found for each pattern that name fits, in no particular order.
// It allocates nothing. found must not change the set.
func (p *Patterns[T]) Match(name string, found func(T)) {
	if p.size > 0 {
		p.root.match(name, found)
	}
}

func (b *branch[T]) match(name string, found func(T)) {
	if b.rest != nil {
		found(*b.rest)
	}
	segment, remaining, more := strings.Cut(name, "/")
	for _, next := range [2]*branch[T]{b.literal(segment), b.any} {
		switch {
		case next == nil:
		case more:
			next.match(remaining, found)
		case next.here != nil:
			found(*next.here)
		}
	}
}

// Fitting calls found for each name in the set that fits pattern, in no
// particular order, and looked, if it is not nil, after each segment that it
// looked at: those of the names that begin as the pattern does before its first
// star. Both may change the set: then a name that is in it all along is found
// once, and one that comes or goes meanwhile perhaps.
func (p *Patterns[T]) Fitting(pattern string, found func(T), looked func()) {
	if looked == nil {
		looked = func() {}
	}
	p.root.fitting(pattern, found, looked)
}

func (b *branch[T]) fitting(pattern string, found func(T), looked func()) {
	segment, remaining, more := strings.Cut(pattern, "/")
	rest := segment == "**" && !more
	visit := func(next *branch[T]) {
		if next == nil {
			return
		}
		if next.here != nil && !more {
			found(*next.here)
		}
		switch {
		case rest:
			next.fitting(segment, found, looked)
		case more:
			next.fitting(remaining, found, looked)
		}
		looked()
	}
	if segment != "*" && !rest {
		visit(b.literal(segment))
		return
	}
	visit(b.only)
	for _, next := range b.more {
		visit(next)
	}
}

// literal returns the branch behind a segment of a channel's name, or nil.
func (b *branch[T]) literal(segment string) *branch[T] {
	if b.only != nil && b.segment == segment {
		return b.only
	}
	return b.more[segment]
}

// next returns the branch behind a segment of a pattern, or nil.
func (b *branch[T]) next(segment string) *branch[T] {
	if segment == "*" {
		return b.any
	}
	return b.literal(segment)
}

// put makes next the branch behind a segment of a pattern; nil: none.
func (b *branch[T]) put(segment string, next *branch[T]) {
	switch {
	case segment == "*":
		b.any = next
	case next == nil && b.only != nil && b.segment == segment:
		b.segment, b.only = "", nil
	case next == nil:
		if delete(b.more, segment); len(b.more) == 0 {
			b.more = nil
		}
	case b.only == nil && b.more == nil:
		b.segment, b.only = segment, next
	default:
		if b.more == nil {
			b.more = make(map[string]*branch[T])
		}
		b.more[segment] = next
	}
}

func (b *branch[T]) remove(pattern string) bool {
	segment, remaining, more := strings.Cut(pattern, "/")
	if segment == "**" && !more {
		had := b.rest != nil
		b.rest = nil
		return had
	}
	next := b.next(segment)
	if next == nil {
		return false
	}
	had := next.here != nil
	if more {
		had = next.remove(remaining)
	} else {
		next.here = nil
	}
	if next.any == nil && next.here == nil && next.rest == nil && next.only == nil && next.more == nil {
		b.put(segment, nil)
	}
	return had
}
