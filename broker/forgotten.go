package broker

import "strings"

// forgotten remembers of channels that were forgotten no more than up to which
// offset each may have had messages, so that whoever resumes there can be told
// whether he missed something. Many channels share a place: then a quiet one can
// seem to have had messages that were another's, never the other way round.
type forgotten struct {
	all    uint64       // of any channel
	byName [1024]uint64 // of the channels whose names hash to the same
	byHead [1024]uint64 // of those whose first segments do: for patterns
}

// add notes that a channel is forgotten whose newest message has this offset.
func (f *forgotten) add(channel string, offset uint64) {
	f.all = max(f.all, offset)
	for _, place := range [2]*uint64{&f.byName[place(channel)], &f.byHead[place(head(channel))]} {
		*place = max(*place, offset)
	}
}

// upTo returns an offset after which nothing of a channel, or of those that
// fit a pattern, was forgotten.
func (f *forgotten) upTo(name string) uint64 {
	if !IsPattern(name) {
		return f.byName[place(name)]
	}
	first := head(name)
	if IsPattern(first) {
		return f.all
	}
	return f.byHead[place(first)]
}

func head(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// place is FNV-1a. It needs no seed: who finds names that share a place can
// have others told that they may have missed something, as he could by
// publishing.
func place(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return (h ^ h>>32) % 1024
}
