package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// subprotocol is how the load generator's connections ask for fanfare.v1.
const subprotocol = "fanfare.v1"

// envelope is how many bytes longer a message is in fanfare.v1 than plainly, where
// only the time of day comes with it: by its type, channel, two positions, the time in
// full. Plain messages that are so much larger are as many bytes on the wire.
const envelope = 141

// How a reader over HTTP asks for messages.
const (
	eventStream = "text/event-stream"
	jsonLines   = "application/x-ndjson"
)

// more is how many subscriptions more some idle connections have than others.
const more = 100

// v1Scenarios are conversations in fanfare.v1, each beside the same in the plain
// one, or beside the same when nothing else goes on; and the same record over HTTP.
func v1Scenarios(o options) []scenario {
	says := func(name string, sc scenario, args ...string) scenario {
		sc.name = name
		sc.args = append(slices.Clone(sc.args), args...)
		return alone(sc)
	}
	v1 := func(name string, sc scenario, args ...string) scenario {
		return says(name, sc, append([]string{"--proto", subprotocol}, args...)...)
	}
	size := or(o.size, 128)
	longer, id := o, o
	longer.size = size + envelope
	id.size = 17 // all that the load generator knows its own by; in an id, it comes back with the answer
	publish := []string{"--pubfmt", `{"type":"publish","data":"%s"}`}
	acknowledged := []string{"--path", "/-/connect", "--pubfmt", `{"type":"publish","channel":"quiet","id":"%s","data":"` + strings.Repeat("x", size) + `"}`}
	const bursts = "--mode pingpong --burst 64"

	// Some read the news and hear who comes to the hall; the others come and go there.
	crowd := or(o.n, 10200)
	members := crowd * 50 / 51
	hall := o.loaded("", crowd, fmt.Sprintf("--mode rate --rate 100 --srcs 8 --path /news --stormpath /-/connect --storm %d", members), 128)
	told := append(publish, "--init", `{"type":"subscribe","channel":"hall","presence":true}`)
	storm := append(slices.Clip(told), "--join", `{"type":"subscribe","channel":"hall"}`, "--leave", `{"type":"unsubscribe","channel":"hall"}`)

	// Over HTTP there are only readers, so somebody else publishes.
	over := func(media string) []string {
		return []string{"--accept", media, "--pubpath", "/-/connect", "--pubfmt", `{"type":"publish","channel":"lobby","data":"%s"}`}
	}

	many, some := or(o.n, 18000), or(o.n, 1000)
	subscribe := []string{"--init", `{"type":"subscribe","channel":"of/%d"}`, "--inits"}
	return []scenario{
		says("v1-pingpong-plain", longer.pingpong(1000)),
		v1("v1-pingpong", o.pingpong(1000), publish...),
		says("v1-sat-plain", longer.sat()),
		v1("v1-sat", o.sat(), publish...),
		says("v1-publish-plain", o.loaded("", 1, bursts, 128)),
		v1("v1-publish", id.loaded("", 1, bursts, 0), acknowledged...),
		v1("sse-pingpong", o.pingpong(1000), over(eventStream)...),
		v1("sse-sat", o.sat(), over(eventStream)...),
		v1("lines-pingpong", o.pingpong(1000), over(jsonLines)...),
		v1("lines-sat", o.sat(), over(jsonLines)...),
		v1("v1-calm", hall, told...),
		v1("v1-storm", hall, storm...),
		together(o.idle("idle-many", many)),
		together(v1("v1-idle", o.idle("", many))),
		together(says("sse-idle", o.idle("", many), "--accept", eventStream)),
		together(v1("v1-subscribed-once", o.idle("", some), append(subscribe, "1")...)),
		together(v1("v1-subscribed", o.idle("", some), append(subscribe, strconv.Itoa(1+more))...)),
	}
}

func v1Rows(o options, r results) []row {
	sc := byName(o)
	of := func(name string, pick func(*result) float64) figures { return r.of(sc[name], ours, pick) }
	n := func(name string) string { return num(float64(sc[name].n)) }
	hall := sc["v1-storm"].n
	members := hall * 50 / 51
	return []row{
		{"fanfare.v1, one message at a time to " + n("v1-pingpong") + ": CPU µs per delivery", of("v1-pingpong", cpu), of("v1-pingpong-plain", cpu), "plain", 1.15, true},
		{"fanfare.v1, 64 in flight to " + n("v1-sat") + ": CPU µs per delivery", of("v1-sat", cpu), of("v1-sat-plain", cpu), "plain", 1.15, true},
		{"the same: bytes per delivery", of("v1-sat", bytesEach), of("v1-sat-plain", bytesEach), "plain", 1.02, true},
		{"fanfare.v1, 64 publishes at once with an id: CPU µs until each is acknowledged", of("v1-publish", cpu), of("v1-publish-plain", cpu), "plain", 2.5, true},
		{"server-sent events, one message at a time to " + n("sse-pingpong") + ": CPU µs per delivery", of("sse-pingpong", cpu), of("v1-pingpong", cpu), "fanfare.v1", 1.15, true},
		{"server-sent events, 64 in flight to " + n("sse-sat") + ": CPU µs per delivery", of("sse-sat", cpu), of("v1-sat", cpu), "fanfare.v1", 1.15, true},
		{"the same: bytes per delivery", of("sse-sat", bytesEach), of("v1-sat", bytesEach), "fanfare.v1", 1.15, true},
		{"lines of JSON, one message at a time to " + n("lines-pingpong") + ": CPU µs per delivery", of("lines-pingpong", cpu), of("v1-pingpong", cpu), "fanfare.v1", 1.15, true},
		{"lines of JSON, 64 in flight to " + n("lines-sat") + ": CPU µs per delivery", of("lines-sat", cpu), of("v1-sat", cpu), "fanfare.v1", 1.15, true},
		{"the same: bytes per delivery", of("lines-sat", bytesEach), of("v1-sat", bytesEach), "fanfare.v1", 1, true},
		{num(float64(members)) + " come to a channel within each second or leave it, and " + num(float64(hall-members)) + " are told: p99 of other messages to these, ms", of("v1-storm", p99), of("v1-calm", p99), "nobody comes", 2, true},
		{"RSS per idle connection that speaks fanfare.v1, more than per plain one of " + n("v1-idle") + ", bytes",
			minus(of("v1-idle", rss), of("idle-many", rss), 1<<20/float64(sc["v1-idle"].n)), nil, "", 250, false},
		{"RSS per idle reader of server-sent events, more than per plain connection of " + n("sse-idle") + ", bytes",
			minus(of("sse-idle", rss), of("idle-many", rss), 1<<20/float64(sc["sse-idle"].n)), nil, "", 100, false},
		{fmt.Sprintf("RSS per subscription, of %d more for each of %s, bytes", more, n("v1-subscribed")),
			minus(of("v1-subscribed", rss), of("v1-subscribed-once", rss), 1<<20/float64(more*sc["v1-subscribed"].n)), nil, "", 110, false},
	}
}
