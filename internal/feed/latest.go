package feed

import (
	"container/list"
	"slices"

	"fanfare/broker"
)

// latest is the newest message for each key of each channel; messages without a
// key count as one key's. It keeps contents, not entries: an entry for a key that
// fell silent would keep all that came after it.
type latest struct {
	byName map[name]*list.Element // of *keyed; nil until there is a message
	byAge  list.List              // its elements, longest silent first
	bytes  int64                  // of the messages
}

// name is what a message is the newest value of. A pattern's feed has many channels.
type name struct{ channel, key string }

func nameOf(m *broker.Message) name { return name{m.Channel, m.Key} }

type keyed struct {
	*content
	seq int64
}

// put notes e as the newest for its key. What is there already is reused, so that
// it costs no allocation.
func (l *latest) put(e *Entry, keep Retention) {
	if keep.Keys == 0 {
		return
	}
	if l.byName == nil {
		l.byName = make(map[name]*list.Element)
	}
	el := l.byName[nameOf(e.msg)]
	if el == nil {
		el = l.byAge.PushBack(new(keyed))
		l.byName[nameOf(e.msg)] = el
	} else {
		l.bytes -= int64(el.Value.(*keyed).msg.Size())
		l.byAge.MoveToBack(el)
	}
	*el.Value.(*keyed) = keyed{e.content, e.seq}
	l.bytes += int64(e.msg.Size())
	l.trim(keep)
}

// trim forgets what is too much, what was silent longest first.
func (l *latest) trim(keep Retention) {
	for len(l.byName) > keep.Keys || keep.Bytes > 0 && l.bytes > keep.Bytes && len(l.byName) > 1 {
		k := l.byAge.Remove(l.byAge.Front()).(*keyed)
		l.bytes -= int64(k.msg.Size())
		delete(l.byName, nameOf(k.msg))
	}
}

// since returns the newest message for each key among those after p, in the
// feed's order. All that is here is of one epoch.
func (l *latest) since(p broker.Position) []keyed {
	var found []keyed
	for el := l.byAge.Back(); el != nil; el = el.Prev() {
		k := el.Value.(*keyed)
		if upTo(k.msg, p) {
			break
		}
		found = append(found, *k)
	}
	slices.Reverse(found)
	return found
}
