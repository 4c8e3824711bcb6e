package protocol_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"fanfare/protocol"
)

// What a server says is read leniently where the protocol may grow, and not
// where it is broken.
func TestParseEvent(t *testing.T) {
	for text, good := range map[string]bool{
		`{"type":"ok","id":"1","colour":{"type":[]}}`:      true,
		`{"type":"new","id":1,"members":"many"}`:           true,
		`{"Type":"x","type":"heartbeat"}`:                  true,
		`{"type":"ok","id":1}`:                             false,
		`{"type":"ok","position":null}`:                    false,
		`{"type":"ok","count":"7"}`:                        false,
		`{"type":"ok","count":-7}`:                         false,
		`{"type":"ok","gap":1}`:                            false,
		`{"type":"ok","members":{}}`:                       false,
		`{"type":"ok","messages":7}`:                       false,
		`{"type":"message","time":"yesterday"}`:            false,
		`{"type":"welcome","limits":[]}`:                   false,
		`{"type":"bye","retry":1e3}`:                       false,
		`{"type":"bye","retry":250}`:                       true,
		`{"type":"renew","expires":30000}`:                 true,
		`{"type":"renew","expires":-1}`:                    false,
		`{"type":"renew","expires":"soon"}`:                false,
		`{"type":"welcome","auth":true}`:                   false,
		`{"type":"welcome","subject":7}`:                   false,
		`{"type":"unsubscribed","code":7}`:                 false,
		`{"type":7}`:                                       false,
		`{"type":""}`:                                      false,
		`{"id":"1"}`:                                       false,
		`{"type":"ok"`:                                     false,
		`["ok"]`:                                           false,
		``:                                                 false,
		`{"type":"ok","x":` + strings.Repeat("[", 5000):    false,
		`{"type":"response","id":"6","data":` + deep + `}`: true,
		`{"type":"ok","messages":[{"data":` + deep + `}]}`: true,
	} {
		e, err := protocol.ParseEvent([]byte(text))
		if (err == nil) != good {
			t.Errorf("%.100s: %+v, %v", text, e, err)
		}
	}
	for text, good := range map[string]bool{`{"type":"message","data":1}`: true, `{"type":"ok"}`: false, `{`: false} {
		if m, err := protocol.ParseMessage([]byte(text)); (err == nil) != good {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	m := protocol.Message{Data: json.RawMessage(`{`)}
	if payload, _, err := m.Payload(); err == nil {
		t.Errorf("%s became %q", m.Data, payload)
	}
}

var deep = strings.Repeat("[", protocol.MaxLevels) + strings.Repeat("]", protocol.MaxLevels)

// Times are the same instant, in UTC and to the millisecond.
func TestTimes(t *testing.T) {
	for nanoseconds, want := range map[int64]string{
		0:                       "1970-01-01T00:00:00.000Z",
		1763800000_999999999:    "2025-11-22T08:26:40.999Z",
		-1:                      "1969-12-31T23:59:59.999Z",
		951782400_000000000 - 1: "2000-02-28T23:59:59.999Z",
		951782400_001000000:     "2000-02-29T00:00:00.001Z",
	} {
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("", 5*3600+1800), time.FixedZone("", -11*3600)} {
			e := protocol.Event{Type: protocol.OKEvent, Time: time.Unix(0, nanoseconds).In(zone)}
			if got := string(e.Append(nil)); got != `{"type":"ok","time":"`+want+`"}` {
				t.Errorf("%v: %s, want %s", e.Time, got, want)
			}
		}
	}
}
