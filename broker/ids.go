package broker

import (
	"hash/maphash"
	"time"
)

const (
	// maxIDs is how many ids of a channel are remembered, the newest ones.
	maxIDs = 100_000
	// idWeight is about what one costs.
	idWeight = 96
)

// ids remembers under which ids a channel's messages were published. There are
// two generations, each of which lives for one window as the young one and for
// another as the old one: so an id is remembered for one window at least and
// two at most, and nothing has to be taken out one by one.
type ids struct {
	young, old map[idHash]published
	since      time.Time // when the young generation began
}

// An idHash stands for an id: with 128 bits, seeded anew in each process,
// nobody finds two ids with the same, and it is shorter than what clients send.
type idHash [2]uint64

// published is what became of an id.
type published struct {
	offset uint64
	body   uint64 // hash of what else must be the same
}

// hasher hashes ids and messages.
type hasher [3]maphash.Seed

func newHasher() hasher {
	return hasher{maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()}
}

func (h *hasher) id(id string) idHash {
	return idHash{maphash.String(h[0], id), maphash.String(h[1], id)}
}

func (h *hasher) body(m *Message) uint64 {
	var body maphash.Hash
	body.SetSeed(h[2])
	kind := byte(0)
	if m.Binary {
		kind = 1
	}
	body.WriteByte(kind)
	body.WriteByte(byte(len(m.Key))) // so that a key's end is no payload's beginning
	body.WriteString(m.Key)
	body.Write(m.Payload)
	return body.Sum64()
}

// age forgets the generations that are too old, and returns how many ids that
// were. It is called before each find and add.
func (i *ids) age(now time.Time, window time.Duration) (forgotten int) {
	passed := now.Sub(i.since)
	if passed < window && len(i.young) < maxIDs/2 {
		return 0
	}
	forgotten = len(i.old)
	i.old, i.young = i.young, nil
	switch {
	case passed >= 2*window:
		forgotten += len(i.old)
		i.old, i.since = nil, now
	case passed >= window:
		i.since = i.since.Add(window) // nothing was added after that
	default:
		i.since = now
	}
	return forgotten
}

func (i *ids) len() int { return len(i.young) + len(i.old) }

func (i *ids) find(id idHash) (published, bool) {
	p, found := i.young[id]
	if !found {
		p, found = i.old[id]
	}
	return p, found
}

func (i *ids) add(id idHash, p published) {
	if i.young == nil {
		i.young = make(map[idHash]published)
	}
	i.young[id] = p
}
