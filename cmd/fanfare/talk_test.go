package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"fanfare"
	"fanfare/client"
	"fanfare/protocol"
)

func TestSeveralChannels(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	p := start(t, "connect", at+"/", "--channel", "alerts/**", "--channel", "chat/general", "--channel", "news", "--name", "alice")
	present(t, server, "news", 1)
	publish(t, server, "alerts/fire/kitchen", "run")
	if got, want := unstampedIn(p.line()), "alerts/fire/kitchen\trun"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	publish(t, server, "news", `{"headline":"nothing"}`)
	if got, want := p.line(), "news\t"+`{"headline":"nothing"}`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.write("hello") // goes to the first that is no pattern
	if got, want := unstampedIn(p.line()), "chat/general\talice: hello"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	publish(t, server, "lobby", "not for us")
	p.stdin.Close()
	p.ends(exitFine)
	for line := range p.lines {
		t.Errorf("more was printed: %q", line)
	}
	if said := p.errs.String(); said != "" {
		t.Errorf("it said %q", said)
	}
}

// unstampedIn is a line without the server's time behind the channel.
func unstampedIn(line string) string {
	channel, text, _ := strings.Cut(line, "\t")
	return channel + "\t" + unstamped(text)
}

// Who only reads patterns has nowhere to write to.
func TestNowhereToSayIt(t *testing.T) {
	_, at := hub(t, fanfare.Config{})
	p := start(t, "connect", at, "--channel", "chat/**")
	p.write("hello")
	p.stdin.Close()
	p.ends(exitOther, "line 1 was not sent: there is no channel to say it in, because a pattern can only be read: add --channel", "1 of 1 line were not sent")
}

func TestPresenceOnAPipe(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	alice := start(t, "connect", at+"/chat", "--name", "alice", "--presence")
	alice.says("fanfare: alice joined, 1 here\n")
	bob := start(t, "subscribe", at+"/chat", "--name", "bob", "--presence", "--channel", "news", "--channel", "a/**", "-n", "2")
	bob.says("fanfare: chat: ")
	bob.says("fanfare: news: ")
	alice.says("fanfare: bob joined, 2 here\n")
	p := start(t, "connect", at+"/chat")
	alice.says("fanfare: somebody joined, 3 here\n")
	p.stdin.Close()
	p.ends(exitFine)
	alice.says("fanfare: somebody left, 2 here\n")
	publish(t, server, "chat", "a message")
	alice.want("a message") // and nothing else on standard output
	alice.stdin.Close()
	alice.ends(exitFine)
	bob.says("fanfare: chat: alice left, 1 here\n")
	publish(t, server, "a/b", "another")
	bob.ends(exitFine)
}

func TestHistoryFirst(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	for i := range 5 {
		publish(t, server, "a", fmt.Sprint("a", i))
		publish(t, server, "b", fmt.Sprint("b", i))
	}
	p := start(t, "subscribe", at+"/a", "--history", "2", "-n", "3")
	p.want("a3", "a4")
	present(t, server, "a", 1)
	publish(t, server, "a", "live")
	p.want("live")
	p.ends(exitFine)

	p = start(t, "subscribe", at, "--channel", "b", "--channel", "a", "--history", "2", "-n", "4")
	for _, want := range []string{"b\tb3", "a\ta4", "b\tb4", "a\tlive"} { // of all channels in the order in which it was said
		if got := unstampedIn(p.line()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	p.ends(exitFine)

	p = start(t, "subscribe", at, "--channel", "*", "--history", "1000", "-n", "11")
	for range 11 {
		p.line()
	}
	p.ends(exitFine)

	start(t, "subscribe", at+"/a", "--since", "yesterday").ends(exitOther, `"yesterday" is no position`)
}

// A server below some path of another is found there, and spoken to no worse.
func TestMounted(t *testing.T) {
	server, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown(context.Background())
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", server))
	line := newCable(t, web(t, mux.ServeHTTP))
	at := line.Addr().String()

	p := start(t, "connect", at+"/live/chat/general", "--name", "alice", "--presence")
	p.says("alice joined")
	line.cut(true)
	present(t, server, "chat/general", 0)
	publish(t, server, "chat/general", "missed")
	line.cut(false)
	p.want("missed")
	p.stdin.Close()
	p.ends(exitFine)

	start(t, "publish", at+"/live/", "in the lobby", "-v").ends(exitFine, "published to lobby at ")
	start(t, "publish", at+"/live/", "--channel", "x", "in x", "-v").ends(exitFine, "published to x at ")
}

// Some servers agree to whatever is offered first, and then say nothing until they
// are spoken to.
func TestAServerThatAgreesToAnything(t *testing.T) {
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		upgrader := gorilla.Upgrader{Subprotocols: gorilla.Subprotocols(r)[:min(1, len(gorilla.Subprotocols(r)))]}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			typ, text, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(typ, append([]byte(conn.Subprotocol()+" "), text...)) != nil {
				return
			}
		}
	})
	began := time.Now()
	p := start(t, "connect", at)
	p.write("hello")
	p.want(" hello") // no subprotocol: it is as it was
	p.stdin.Close()
	p.ends(exitFine)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v, as if a welcome had been waited for", took)
	}
}

func TestWhatOnlyFanfareServersCan(t *testing.T) {
	var connections atomic.Int32
	at := elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
		connections.Add(1)
		conn, err := new(gorilla.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_, _, _ = conn.ReadMessage()
	})
	for flag, args := range map[string][]string{
		"--channel": {"connect", at, "--channel", "a"}, "--presence": {"connect", at, "--presence"},
		"--history": {"subscribe", at, "--history", "3"}, "--id": {"publish", at, "x", "--id", "7"},
	} {
		start(t, args...).ends(exitConnect, flag+" is for Fanfare servers, and ws://"+at+"/ does not speak fanfare.v1 here")
	}
	_, ours := hub(t, fanfare.Config{})
	start(t, "connect", ours, "--subprotocol", "chat", "--presence").ends(exitUsage, "--presence needs fanfare.v1, which is offered if no --subprotocol is")
}

// choosy refuses what contains "no".
func choosy(t *testing.T) string {
	_, at := hub(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: func(_ context.Context, m *fanfare.Message) error {
		if strings.Contains(string(m.Payload), "no") {
			return &fanfare.Error{Code: "forbidden", Message: "we do not say no here"}
		}
		return nil
	}}})
	return at
}

func TestTheServerRefuses(t *testing.T) {
	at := choosy(t)
	start(t, "publish", at+"/x", "no way").ends(exitOther, "fanfare: not published to x: we do not say no here\n")
	p := start(t, "publish", at+"/x", "--json")
	go func() {
		for _, line := range []string{"yes", "no", "yes again", "nobody", "yes"} {
			fmt.Fprintln(p.stdin, line)
		}
		p.stdin.Close()
	}()
	for range 3 {
		if line := p.line(); !strings.HasPrefix(line, `{"channel":"x","position":"`) {
			t.Error(line)
		}
	}
	p.ends(exitOther, "line 2 was not published: we do not say no here", "line 4 was not published", "2 of 5 lines were not sent")

	p = start(t, "connect", at+"/x")
	p.write("yes", "no")
	p.want("yes")
	p.stdin.Close()
	p.ends(exitOther, "line 2 was not sent: we do not say no here", "1 of 2 lines were not sent")
	start(t, "publish", at+"/x", strings.Repeat("x", 1<<20+1), "--max-message", "2MiB").ends(exitOther, "a message may have 1048576")
}

// Whatever happens to the connection, each line is published once, in order.
func TestPublishOnce(t *testing.T) {
	const lines, cuts = 1500, 2
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "x")
	line := newCable(t, at)
	p := start(t, "publish", line.Addr().String()+"/x", "-")
	go func() {
		for i := range lines {
			fmt.Fprintln(p.stdin, i)
			if i%(lines/cuts) == lines/cuts/2 {
				line.cut(false)
			}
		}
		p.stdin.Close()
	}()
	for i := range lines {
		if got := next(); got != fmt.Sprint(i) {
			t.Fatalf("line %d arrived as %q", i, got)
		}
	}
	p.ends(exitFine, "the connection was lost")
}

// Without a connection publish does not go on for ever.
func TestPublishGivesUp(t *testing.T) {
	_, at := hub(t, fanfare.Config{})
	line := newCable(t, at)
	u, err := parseTarget(line.Addr().String() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	f := &dialFlags{maxMessage: 1 << 20}
	s, err := f.meet(t.Context(), u, false, func(linkState) {})
	if err != nil {
		t.Fatal(err)
	}
	p := perform(t, "publish", func(std stdio) int {
		err := (&publication{away: 50 * time.Millisecond}).publish(t.Context(), f, s, u, std)
		if err != nil {
			std.say("%v", err)
		}
		return exitCode(err)
	})
	line.cut(true)
	p.says("connecting again")
	p.ends(exitClosed, "there was no connection for 50ms")
}

// The server ends the conversation for good.
func TestTheServerHasHadEnough(t *testing.T) {
	bye := func(text string) string {
		return web(t, func(w http.ResponseWriter, r *http.Request) {
			conn, err := (&gorilla.Upgrader{Subprotocols: []string{protocol.Subprotocol}}).Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			for _, say := range []string{`{"type":"welcome","protocol":"fanfare.v1","session":"s","heartbeat":25000,"limits":{"message":1000,"subscriptions":10}}`, text} {
				_ = conn.WriteMessage(gorilla.TextMessage, []byte(say))
				_, _, _ = conn.ReadMessage() // the first command
			}
		})
	}
	at := bye(`{"type":"bye","code":"banned","message":"you are \u001b[2Jbanned"}`)
	for _, args := range [][]string{{"connect", at}, {"subscribe", at}, {"publish", at, "hello"}} {
		start(t, args...).ends(exitClosed, "fanfare: the server closed the connection: you are ␛[2Jbanned\n")
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		url, home string
		channels  string
		want      string
	}{
		{"ws://h/chat/a", "chat/a", "", "chat/a"},
		{"ws://h/", "lobby", "", "lobby"},
		{"ws://h", "lobby", "", "lobby"},
		{"ws://h/", "lobby", "a b/**", "a b/**"},
		{"ws://h", "lobby", "a", "a"},
		{"ws://h/live/", "lobby", "a", "a"},
		{"ws://h/-/connect", "lobby", "a", "a"},
		{"ws://h/chat", "chat", "a b", "chat a b"},
		{"ws://h/chat", "chat", "a chat", "a chat"},
		{"ws+unix:///s.sock", "lobby", "a", "a"},
		{"ws+unix:///s.sock:/", "lobby", "a", "a"},
		{"ws+unix:///s.sock:/chat", "chat", "a", "chat a"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		f := &dialFlags{channels: strings.Fields(c.channels)}
		if got := strings.Join(f.names(u, c.home), " "); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.url, c.channels, got, c.want)
		}
	}
	if got := writable([]string{"a/**", "b", "c"}); !slices.Equal(got, []string{"b"}) {
		t.Error(got)
	}
}

func TestWhatPeopleAreTold(t *testing.T) {
	crowd := func(names ...string) (members []client.Member) {
		for _, name := range names {
			members = append(members, client.Member{Name: name})
		}
		return members
	}
	for want, e := range map[string]client.PresenceEvent{
		"alice joined, 1 here":                              {Type: "join", Members: crowd("alice"), Count: 1},
		"somebody left, 0 here":                             {Type: "leave", Members: crowd(""), Count: 0},
		"alice, bob and 1 other joined, 5 here":             {Type: "join", Members: crowd("alice", "", "bob"), Count: 5},
		"alice and 7 others left, 90 here":                  {Type: "leave", Members: crowd("alice", ""), Omitted: 6, Count: 90},
		"3 without a name joined, 3 here":                   {Type: "join", Members: crowd("", "", ""), Count: 3},
		"nobody here":                                       {Type: "here"},
		"2 here: alice, bob":                                {Type: "here", Members: crowd("alice", "bob"), Count: 2},
		"12 here: alice and 11 others":                      {Type: "here", Members: crowd("alice"), Count: 12},
		"11 here: a, b, c, d, e, f, g, h, i, j and 1 other": {Type: "here", Members: crowd("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"), Count: 11},
	} {
		if got := presence(&e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, gap := range map[string]client.GapError{
		"1 message of a is missing here: history does not reach back so far":                              {Channel: "a", Reason: "expired", Missed: 1},
		"12 messages of a/** are missing here: this read too slowly, and goes on with the newest":         {Channel: "a/**", Reason: "skipped", Missed: 12},
		"messages of a may be missing here: the server lost its history":                                  {Channel: "a", Reason: "lost"},
		"messages of a may be missing here: brand new":                                                    {Channel: "a", Reason: "brand new"},
		"2 messages of a are missing here: this read too slowly, and goes on with the newest of each key": {Channel: "a", Reason: "superseded", Missed: 2},
		"2 messages of a are missing here: this read too slowly, and history does not reach back so far":  {Channel: "a", Reason: "outrun", Missed: 2},
	} {
		if got := missing(&gap); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A speaker keeps the order, waits where the client's queue is full, and has nothing
// more to do with what it is given too late.
func TestASpeakerWaits(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "x")
	c, err := client.Dial(t.Context(), "ws://"+at+"/", &client.Options{Queue: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var done atomic.Int32
	s := newSpeaker(c, []string{"x"}, client.PublishOptions{}, func(saying, string, error) { done.Add(1) })
	for i := range 100 {
		if err := s.say(t.Context(), fmt.Sprint(i), i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if got := next(); got != fmt.Sprint(i) {
			t.Fatalf("%d arrived as %q", i, got)
		}
	}
	s.finish()
	<-s.over
	if n := done.Load(); n != 100 || s.refused+s.doubtful+s.unsent != 0 || s.waiting() != nil {
		t.Errorf("%d were answered; %d, %d, %d", n, s.refused, s.doubtful, s.unsent)
	}
	if err := s.trySay("late", 0); !errors.Is(err, errStop) {
		t.Error(err)
	}
}
