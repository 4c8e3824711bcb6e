package fanfare_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/internal/frame"
)

// A hostile client at full speed costs next to nothing once it is limited: the
// server's process, which has nothing else to do, uses a twentieth of a processor at
// most. Here limits are a tenth of the defaults and the bound is a tenth of a processor, since the race detector makes
// everything about ten times as dear; with FANFARE_ATTACK=full, and without the race
// detector, they are the defaults and the bound:
//
//	FANFARE_ATTACK=full go test -v -run TestLimitedCostsLittle .
func TestLimitedCostsLittle(t *testing.T) {
	limits, most := "limited", 10.0
	if fullAttack {
		limits, most = "defaults", 5
	}
	for _, foe := range []struct {
		how     string
		attack  func(o *outpost, over <-chan struct{})
		assault int  // how many at once
		full    bool // in the full form alone
	}{
		{"messages", pours("/hostile", frame.Text, "blah"), 1, false},
		{"pings", pours("/hostile", frame.Ping, "blah"), 1, true},
		{"pieces", pours("/hostile", frame.Continuation, ""), 1, true},
		{"nonsense", pours("/hostile", frame.Text, `{"type":"nonsense"}`, askV1), 1, false},
		{"subscribes", pours("/hostile", frame.Text, `{"type":"subscribe","id":"1","channel":"a//b"}`, askV1), 1, false},
		{"tokens", pours("/hostile", frame.Text, `{"type":"auth","id":"1","token":"x"}`, askV1), 1, false},
		{"posts", postFlood, 16, false},
		{"handshakes", shakes, 16, true},
	} {
		if foe.full && !fullAttack {
			continue
		}
		t.Run(foe.how, func(t *testing.T) {
			o := open(t, transports[len(transports)-1], limits)
			over := make(chan struct{})
			var foes sync.WaitGroup
			for range foe.assault {
				foes.Go(func() { foe.attack(o, over) })
			}
			time.Sleep(1500 * time.Millisecond) // what may come at once is used up
			begun, used := time.Now(), o.processor()
			time.Sleep(1500 * time.Millisecond)
			share := 100 * float64(o.processor()-used) / float64(time.Since(begun))
			close(over)
			foes.Wait()
			t.Logf("%.1f %% of a processor", share)
			if share > most {
				t.Errorf("it costs %.1f %% of a processor, and may %v %%", share, most)
			}
		})
	}
}

// processor is how much of a processor the outpost has used (proc(5): utime and stime).
func (o *outpost) processor() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", o.process.Process.Pid))
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if err != nil || len(fields) < 13 {
		o.t.Fatalf("/proc: %v", err)
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// pours says the same as fast as it is heard, and reads what it is told. Where that ends the
// connection, it comes back.
func pours(path string, op frame.Opcode, text string, headers ...string) func(*outpost, <-chan struct{}) {
	return func(o *outpost, over <-chan struct{}) {
		for {
			p, resp, err := meet(o.t, o.addr, path, headers...)
			if err != nil {
				return
			}
			if resp.StatusCode != http.StatusSwitchingProtocols {
				p.conn.Close()
				continue
			}
			var b []byte
			for i := range 500 {
				first := op
				if op == frame.Continuation && i == 0 {
					first = frame.Text
				}
				b = frame.AppendMasked(b, first, op != frame.Continuation || i == 499, testKey, []byte(text))
			}
			go func() {
				<-over
				p.conn.Close()
			}()
			go io.Copy(io.Discard, p.r)
			p.conn.SetDeadline(time.Time{})
			for err == nil {
				_, err = p.conn.Write(b)
			}
			p.conn.Close()
			select {
			case <-over:
				return
			default:
			}
		}
	}
}

func postFlood(o *outpost, over <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-over:
			return
		default:
		}
		resp, err := client.Post("http://"+o.addr+"/hostile", "text/plain", strings.NewReader("blah"))
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
}

func shakes(o *outpost, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		default:
		}
		if p, _, err := meet(o.t, o.addr, "/hostile"); err == nil {
			p.conn.Close()
		}
	}
}
