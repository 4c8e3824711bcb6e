package fanfare_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// The attacks: a server in a process of its own, a hundred honest people who talk
// all day, and strangers and members who do their worst. attack_floods_test.go
// has what they do at full speed beside the honest; attack_requests_test.go what
// a request can carry, attack_rights_test.go who may do what, and
// attack_revoke_test.go what somebody is heard and told who is thrown out.
//
// FANFARE_ATTACK=full is for ci/soak.sh: more of them, and longer.
var fullAttack = os.Getenv("FANFARE_ATTACK") == "full"

// attackConfig has short times, so that what is to be cut off is so within a test,
// but not shorter than a busy machine may keep an honest client waiting.
var attackConfig = fanfare.Config{
	History: 64, HistoryAge: 2 * time.Second, HistoryBytes: 256 << 10,
	Heartbeat: 2 * time.Second, HeartbeatTimeout: late, WriteTimeout: 2 * time.Second, MessageTimeout: 3 * time.Second,
	MaxMessage: attackLimit,
	Limits:     fanfare.Limits{Messages: 1000},
	Auth: &fanfare.AuthConfig{
		Authenticator: register{"honest": {Subject: "honest"}, "hostile": {Subject: "hostile"}},
		Timeout:       2 * time.Second,
	},
}

const (
	attackLimit    = 64 << 10 // the largest message in bytes
	strangersLimit = 4 << 10  // the same, of one who has not said who he is
)

const (
	// hamlets are channels of honest people: one in each talks, all hear.
	hamlets  = 10
	inHamlet = 10
	pace     = 50 * time.Millisecond
)

// slack is what a delay may be on top of twice what it is in calm: tests
// share their processors with the attackers, whose threads have turns of
// some milliseconds, and with whatever else the machine does, which is nothing
// in a full attack.
var slack = map[bool]time.Duration{false: 400 * time.Millisecond, true: 50 * time.Millisecond}[fullAttack]

// A village is the server, and the honest who are there for as long as the test lasts.
type village struct {
	*outpost
	t      *testing.T
	born   time.Time // the honest tell time from here
	spoken [hamlets]atomic.Int64
	heard  atomic.Int64 // deliveries
	folk   sync.WaitGroup
	over   chan struct{} // closed: nobody talks any more

	mu       sync.Mutex // guards the following
	heardAll []delay    // of the window under way
	visits   []delay    // the same, of newcomers' handshakes
	wrong    []error    // what an honest client had to bear
}

// A delay is how long something took, and when it began.
type delay struct{ at, took time.Duration }

// populate has the honest come.
func (v *village) populate() {
	var talkers []func()
	for hamlet := range hamlets {
		for n := range inHamlet {
			headers := []string{bearer("honest")}
			v1 := n%2 == 1
			if v1 {
				headers = append(headers, askV1)
			}
			p, resp, err := meet(nil, v.addr, fmt.Sprintf("/village/%d", hamlet), headers...)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				v.t.Fatalf("an honest client is not let in: %v %v", resp, err)
			}
			v.folk.Go(func() { v.note(v.listens(p, n)) })
			if n == hamlet%2 { // who speaks v1 here, and plain there
				talkers = append(talkers, func() { v.note(v.talks(p, hamlet, v1)) })
			}
		}
	}
	for _, talk := range talkers { // when all are there to hear
		v.folk.Go(talk)
	}
	v.folk.Go(func() { v.note(v.comes()) })
}

// note keeps what went wrong.
func (v *village) note(err error) {
	if err != nil {
		v.mu.Lock()
		v.wrong = append(v.wrong, err)
		v.mu.Unlock()
	}
}

const lastWord = -1

// talks says something at a steady pace.
func (v *village) talks(p *person, hamlet int, v1 bool) error {
	say := func(n int64) error {
		text := fmt.Sprintf(`{"n":%d,"at":%d}`, n, time.Since(v.born))
		if v1 {
			text = `{"type":"publish","data":` + text + `}`
		}
		_, err := p.conn.Write(masked(frame.Text, true, text))
		return err
	}
	time.Sleep(pace * time.Duration(hamlet) / hamlets) // one hamlet after the other
	beat := time.NewTicker(pace)
	defer beat.Stop()
	for {
		select {
		case <-v.over:
			return say(lastWord)
		case <-beat.C:
		}
		if err := say(v.spoken[hamlet].Add(1)); err != nil {
			return fmt.Errorf("an honest client cannot talk: %w", err)
		}
	}
}

// listens finds that all that is said is heard, once and in order.
func (v *village) listens(p *person, n int) error {
	defer p.conn.Close()
	for heard := int64(0); ; {
		op, payload, err := p.next()
		switch {
		case err != nil:
			return fmt.Errorf("honest client %d hears no more: %w", n, err)
		case op == frame.Close:
			return fmt.Errorf("honest client %d is closed: %q", n, payload)
		case op == frame.Ping:
			p.conn.Write(masked(frame.Pong, true, string(payload)))
		case bytes.Contains(payload, []byte(`"gap"`)), bytes.Contains(payload, []byte(`"error"`)), bytes.Contains(payload, []byte("] * ")):
			return fmt.Errorf("honest client %d is told: %s", n, payload)
		}
		begin := bytes.Index(payload, []byte(`{"n":`))
		if begin < 0 {
			continue
		}
		var number int64
		var at time.Duration
		if _, err := fmt.Sscanf(string(payload[begin:]), `{"n":%d,"at":%d}`, &number, &at); err != nil {
			return fmt.Errorf("honest client %d hears %.100q", n, payload)
		}
		if number == lastWord {
			p.conn.Write(masked(frame.Close, true, "\x03\xe8"))
			io.Copy(io.Discard, p.r)
			return nil
		}
		if heard++; number != heard {
			return fmt.Errorf("honest client %d hears message %d, and should %d", n, number, heard)
		}
		v.mu.Lock()
		v.heardAll = append(v.heardAll, delay{at, time.Since(v.born) - at})
		v.mu.Unlock()
		v.heard.Add(1)
	}
}

// comes is one honest client after the other who comes and goes.
func (v *village) comes() error {
	for {
		select {
		case <-v.over:
			return nil
		case <-time.After(2 * pace):
		}
		at := time.Since(v.born)
		p, resp, err := meet(nil, v.addr, "/village/visitors", bearer("honest"))
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("an honest newcomer is not let in: %v %v", resp, err)
		}
		v.mu.Lock()
		v.visits = append(v.visits, delay{at, time.Since(v.born) - at})
		v.mu.Unlock()
		p.conn.Close()
	}
}

// A climate is how long things take in a village for a while: the slowest of a
// hundred deliveries, and the slowest handshake.
type climate struct{ delivery, visit time.Duration }

func (c climate) String() string {
	return fmt.Sprintf("%v, handshakes %v", c.delivery.Round(10*time.Microsecond), c.visit.Round(10*time.Microsecond))
}

// observe takes what is said in the next d, and waits until everybody has heard it.
func (v *village) observe(d time.Duration) climate {
	v.t.Helper()
	v.mu.Lock()
	v.heardAll, v.visits = v.heardAll[:0], v.visits[:0]
	v.mu.Unlock()
	from := time.Since(v.born)
	time.Sleep(d) // the window itself
	to := time.Since(v.born)
	said := int64(0)
	for i := range v.spoken {
		said += v.spoken[i].Load()
	}
	for end := time.Now().Add(patience); v.heard.Load() < said*inHamlet; time.Sleep(time.Millisecond) {
		v.sound()
		if time.Now().After(end) {
			v.t.Fatalf("%d messages were said to %d each, and %d deliveries came", said, inHamlet, v.heard.Load())
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	within := func(all []delay) (took []time.Duration) {
		for _, one := range all {
			if one.at >= from && one.at < to {
				took = append(took, one.took)
			}
		}
		slices.Sort(took)
		return took
	}
	var c climate
	if took := within(v.heardAll); len(took) > 0 {
		c.delivery = took[len(took)*99/100]
	}
	if took := within(v.visits); len(took) > 0 {
		c.visit = took[len(took)-1]
	}
	return c
}

// sound ends the test if an honest client had to bear anything.
func (v *village) sound() {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.wrong) > 0 {
		v.t.Fatalf("%d honest clients are harmed; the first: %v", len(v.wrong), v.wrong[0])
	}
}

// leave has the honest say their last word, hear the others', and go.
func (v *village) leave() {
	v.t.Helper()
	close(v.over)
	v.folk.Wait()
	v.sound()
}

// resident is how many bytes of memory the server's process has.
func (v *village) resident() (n int64) {
	statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", v.process.Process.Pid))
	fmt.Sscan(string(statm), new(int64), &n)
	return n * int64(os.Getpagesize())
}

// processor is how long the server's process has computed.
func (v *village) processor() time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.process.Process.Pid))
	_, behind, _ := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(behind)
	if len(fields) < 13 {
		return 0
	}
	var user, system int64
	fmt.Sscan(string(fields[11]), &user)
	fmt.Sscan(string(fields[12]), &system)
	return time.Duration(user+system) * (time.Second / 100)
}

// An attack is what hostile clients do at once, each again and again until the
// siege is over.
type attack struct {
	name  string
	foes  int // at once; half of them are members, the others are not known
	crowd int // the same in a full attack; 0: as many
	// wire says that much of it falls to the transport. What does not is tried over
	// the best one there is alone, but for full attacks.
	wire bool
	// members says that strangers cannot even begin with it.
	members bool
	// lasts says that a round goes on as long as the siege does.
	lasts bool
	// once is one round of one of them. It finds out what the server does about
	// it; the error is what it should not have done, or errOver.
	once func(*foe) error
	// each is how long the server may compute for a round; 0: not looked at.
	each time.Duration
}

// A foe is one of those who attack.
type foe struct {
	addr     string
	siege    context.Context // ends with the attack
	rnd      *rand.Rand
	number   int
	stranger bool
}

// errOver is what a foe meets because its attack is over.
var errOver = errors.New("the siege is over")

// dial connects; the connection ends with the siege.
func (f *foe) dial() (*person, error) {
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(f.siege, func() { conn.Close() })
	return &person{conn: conn, r: bufio.NewReader(conn)}, nil
}

// join connects to a path as who the foe is.
func (f *foe) join(path string, headers ...string) (*person, error) {
	if !f.stranger {
		headers = append(headers, bearer("hostile"))
	}
	p, resp, err := meet(nil, f.addr, path, headers...)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		p.conn.Close()
		return nil, fmt.Errorf("joining %s: %s %s", path, resp.Status, body)
	}
	context.AfterFunc(f.siege, func() { p.conn.Close() })
	return p, nil
}

// limit is the largest message that is taken from the foe.
func (f *foe) limit() int {
	if f.stranger {
		return strangersLimit
	}
	return attackLimit
}

// closed finds that the server closes with a code.
func (f *foe) closed(p *person, want frame.Code, reason string) error {
	defer p.conn.Close()
	for {
		op, payload, err := p.next()
		switch {
		case err != nil:
			return fmt.Errorf("instead of a close with %d: %w", want, err)
		case op != frame.Close:
			continue
		}
		code, text, err := frame.ParseClose(payload)
		if err != nil || code != want || !bytes.Contains([]byte(text), []byte(reason)) {
			return fmt.Errorf("closed with %d %q, want %d %q (%v)", code, text, want, reason, err)
		}
		return nil
	}
}

// A camp is where the foes live: a process of their own, which has what
// processors the server and the honest leave it. It is this test binary, started anew.
type camp struct {
	t   testing.TB
	in  io.WriteCloser
	out *json.Decoder
}

// campName in the environment makes this test binary a camp before the server with that address.
const campName = "FANFARE_TEST_CAMP"

// An order is what a camp is told; it answers each with a report.
type order struct {
	Attack string // to begin; empty: to go on, or with Lift to end
	Foes   int
	Lift   bool
}

// A report is how often members and strangers came to an end with it, and the
// first thing that was not as it should be.
type report struct {
	Members, Strangers int64
	Wrong              string
}

// pitch opens a camp before an address.
func pitch(t testing.TB, addr string) *camp {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(self)
	if nice, err := exec.LookPath("nice"); err == nil {
		process = exec.Command(nice, "-n", "10", self)
	}
	process.Env = append(os.Environ(), campName+"="+addr)
	process.Stderr = os.Stderr
	c := &camp{t: t}
	if c.in, err = process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = json.NewDecoder(out)
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		if err := process.Wait(); err != nil {
			t.Errorf("the camp ended with %v", err)
		}
	})
	return c
}

func (c *camp) order(o order) (r report) {
	c.t.Helper()
	if err := json.NewEncoder(c.in).Encode(o); err != nil {
		c.t.Fatalf("the camp hears nothing: %v", err)
	}
	if err := c.out.Decode(&r); err != nil {
		c.t.Fatalf("the camp says nothing: %v", err)
	}
	return r
}

// besiege is the life of a camp's process.
func besiege(addr string) error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var members, strangers atomic.Int64
	var wrong atomic.Pointer[string]
	var foes sync.WaitGroup
	siege, lift := context.WithCancel(context.Background())
	for sieges := uint64(1); ; {
		var o order
		switch err := in.Decode(&o); {
		case errors.Is(err, io.EOF):
			lift()
			return nil
		case err != nil:
			lift()
			return err
		}
		if o.Attack != "" {
			a := attacks[slices.IndexFunc(attacks, func(a attack) bool { return a.name == o.Attack })]
			siege, lift = context.WithCancel(context.Background())
			members.Store(0)
			strangers.Store(0)
			wrong.Store(nil)
			sieges++
			for n := range o.Foes {
				f := &foe{addr: addr, siege: siege, number: n, stranger: !a.members && n%2 == 1, rnd: rand.New(rand.NewPCG(uint64(n), sieges))}
				foes.Go(func() {
					for siege.Err() == nil {
						err := a.once(f)
						switch {
						case err == nil && f.stranger:
							strangers.Add(1)
						case err == nil:
							members.Add(1)
						case siege.Err() == nil && !errors.Is(err, errOver):
							said := fmt.Sprintf("foe %d, a stranger: %v: %v", f.number, f.stranger, err)
							wrong.CompareAndSwap(nil, &said)
							return
						}
					}
				})
			}
		}
		if o.Lift {
			lift()
			foes.Wait()
		}
		r := report{Members: members.Load(), Strangers: strangers.Load()}
		if said := wrong.Load(); said != nil {
			r.Wrong = *said
		}
		if err := out.Encode(r); err != nil {
			lift()
			return err
		}
	}
}

// besieged attacks for a while, and finds that it costs the honest nothing: what
// they hear comes as soon as before and after, and all of it. before is what it
// was like; what it is like after is returned.
func (v *village) besieged(t *testing.T, c *camp, a attack, before climate) (after climate) {
	calm, long, foes := 250*time.Millisecond, 600*time.Millisecond, a.foes
	if fullAttack {
		calm, long, foes = time.Second, 5*time.Second, max(foes, a.crowd)
	}
	defer func(whole *testing.T) { v.t, c.t = whole, whole }(v.t)
	v.t, c.t = t, t
	defer c.order(order{Lift: true})
	for try := 1; ; try++ {
		resident, processor := v.resident(), v.processor()
		c.order(order{Attack: a.name, Foes: foes})
		during := v.observe(long)
		grown, computed := v.resident()-resident, v.processor()-processor
		// On a machine that has much else to do nobody may have got far.
		var r report
		eventually(t, "the foes come to an end with it", func() bool {
			r = c.order(order{})
			return a.lasts || r.Wrong != "" || r.Members > 0 && (a.members || r.Strangers > 0)
		})
		r = c.order(order{Lift: true})
		after = v.observe(calm)
		t.Logf("p99 %v; before %v; after %v; %d rounds by members, %d by strangers; %d KiB more resident, %v computed",
			during, before, after, r.Members, r.Strangers, grown>>10, computed)
		switch n := time.Duration(r.Members + r.Strangers); {
		case r.Wrong != "":
			t.Error(r.Wrong)
		case a.each > 0 && computed/n > a.each:
			t.Errorf("a round costs the server %v", computed/n)
		}
		if grown > mostResident {
			t.Errorf("the server's process grew by %d MiB", grown>>20)
		}
		quiet := climate{max(before.delivery, after.delivery), max(before.visit, after.visit)}
		if t.Failed() || during.delivery <= 2*quiet.delivery+slack && during.visit <= 2*quiet.visit+2*slack {
			return after
		}
		if try == 4 {
			t.Errorf("the honest wait for %v while it goes on, and for %v when it does not", during, quiet)
			return after
		}
		before = after
	}
}
