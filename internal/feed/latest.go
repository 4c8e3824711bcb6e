package feed

import (
	"container/list"
	"slices"

	"fanfare/broker"
)

// latest is the newest message for each key. It keeps contents, not entries:
// an entry for a key that fell silent would keep all that came after it.
type latest struct {
	byKey map[string]*list.Element // of keyed; nil until a key is seen
	byAge list.List                // its elements, longest silent first
	bytes int64                    // of the messages

	keyless keyed // the newest message without a key
}

type keyed struct {
	*content
	seq int64
}

// put notes e as the newest for its key.
func (l *latest) put(e *Entry, keep Retention) {
	switch {
	case keep.Keys == 0:
		return
	case e.msg.Key == "":
		l.keyless = keyed{e.content, e.seq}
		return
	}
	if l.byKey == nil {
		l.byKey = make(map[string]*list.Element)
	}
	if el := l.byKey[e.msg.Key]; el != nil {
		l.drop(el)
	}
	l.byKey[e.msg.Key] = l.byAge.PushBack(keyed{e.content, e.seq})
	l.bytes += int64(e.msg.Size())
	l.trim(keep)
}

// trim forgets what is too much, what was silent longest first.
func (l *latest) trim(keep Retention) {
	for len(l.byKey) > keep.Keys || keep.Bytes > 0 && l.bytes > keep.Bytes && len(l.byKey) > 1 {
		l.drop(l.byAge.Front())
	}
}

func (l *latest) drop(el *list.Element) {
	k := l.byAge.Remove(el).(keyed)
	l.bytes -= int64(k.msg.Size())
	delete(l.byKey, k.msg.Key)
}

// since returns the newest message for each key, and without one, among those
// after p, in the feed's order. All that is here is of one epoch.
func (l *latest) since(p broker.Position) []keyed {
	var found []keyed
	keyless := l.keyless
	add := func(k keyed) bool {
		if k.content == nil || upTo(k.msg, p) {
			return false
		}
		found = append(found, k)
		return true
	}
	for el := l.byAge.Back(); el != nil; el = el.Prev() {
		k := el.Value.(keyed)
		if keyless.seq > k.seq {
			add(keyless)
			keyless = keyed{}
		}
		if !add(k) {
			break
		}
	}
	add(keyless)
	slices.Reverse(found)
	return found
}
