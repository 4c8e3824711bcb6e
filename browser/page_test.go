package browser_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/fanfaretest"
	"fanfare/internal/chromiumtest"
	"fanfare/internal/partner"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// reader is a page that writes down the position of each message of the
// channel "stream" before its callback returns, and can be refreshed at any
// moment: what it wrote down is all that it has in the end.
const reader = `<!doctype html><title>reader</title><script type="module">
import { connect } from "/live/-/fanfare.js"
const fan = window.fan = connect()
window.note = (where, what) => { sessionStorage[where] = (sessionStorage[where] ?? '') + what + ' ' }
fan.subscribe("stream", { since: fan.position("stream") ?? "0", onMessage: m => note('read', m.position), onGap: gap => note('read', 'gap:' + gap.reason) })
// say publishes and has written down what before the page can be gone.
window.say = what => { note('said', what); return fan.publish("said", what) }
</script>`

// A house is a Fanfare server below /live of a site that has pages of its own,
// and a line to it that breaks.
type house struct {
	*fanfare.Server
	t    *testing.T
	mux  *http.ServeMux
	line *chromiumtest.Line
	rng  *rand.Rand

	mu   sync.Mutex
	said []string // positions of what was published to "stream", in order
}

func newHouse(t *testing.T, cfg fanfare.Config, pages map[string]string) *house {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	cfg.History, cfg.HistoryBytes, cfg.Logger = 1<<20, 64<<20, slog.New(slog.DiscardHandler)
	srv, err := fanfare.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", srv))
	for path, html := range pages {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, html)
		})
	}
	site := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		site.Close()
	})
	return &house{Server: srv, t: t, mux: mux, line: chromiumtest.NewLine(t, site.Listener.Addr().String()), rng: rand.New(rand.NewPCG(seed, 1))}
}

// publish publishes to "stream".
func (h *house) publish(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pos, err := h.Publish(context.Background(), &fanfare.Message{Channel: "stream", Payload: []byte(text)})
	if err != nil {
		h.t.Error(err)
	}
	h.said = append(h.said, pos.String())
}

// stream has three publishers publish until it is told to stop.
func (h *house) stream() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var publishers sync.WaitGroup
	for who := range 3 {
		rng := rand.New(rand.NewPCG(h.rng.Uint64(), uint64(who)))
		publishers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				h.publish(fmt.Sprintf(`{"who":%d,"n":%d,"more":%q}`, who, n, strings.Repeat("x", rng.IntN(200))))
				select {
				case <-time.After(time.Duration(rng.IntN(20)) * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() {
		cancel()
		publishers.Wait()
	}
}

// read compares what the page wrote down with what was published.
func (h *house) read(tab chromiumtest.Tab) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	tab.Until(`(' ' + sessionStorage.read).endsWith(' ` + h.said[len(h.said)-1] + ` ')`)
	got := strings.Fields(chromiumtest.Value[string](tab, `sessionStorage.read`))
	if slices.Equal(got, h.said) {
		h.t.Logf("%d messages, each once and in order", len(got))
		return
	}
	for i := range min(len(got), len(h.said)) {
		if got[i] != h.said[i] {
			h.t.Fatalf("message %d of %d is %s in the page (which has %d), and was %s", i, len(h.said), got[i], len(got), h.said[i])
		}
	}
	h.t.Fatalf("the page has %d messages, and there were %d", len(got), len(h.said))
}

// heard compares what the page said with what is in the channel "said": all,
// once each, and what one page said in its order.
func (h *house) heard(tab chromiumtest.Tab) {
	h.t.Helper()
	want := strings.Fields(chromiumtest.Value[string](tab, `sessionStorage.said ?? ''`))
	slices.Sort(want)
	var got []string
	for end := time.Now().Add(20 * time.Second); len(got) < len(want) && time.Now().Before(end); tab.Do(chromedp.Sleep(10 * time.Millisecond)) {
		got = chromiumtest.Value[[]string](tab, `(async () => {
			const all = []
			for (let since = "0", more = true; more;) {
				const page = await fan.history("said", { since, limit: 1000 })
				all.push(...page.messages.map(message => message.data))
				since = page.position
				more = page.more
			}
			return all
		})()`)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		once := slices.Compact(slices.Clone(got))
		h.t.Fatalf("%d publishes of the page became %d messages, %d of them different", len(want), len(got), len(once))
	}
	h.t.Logf("%d publishes, each once", len(got))
}

func TestInChromium(t *testing.T) {
	open := chromiumtest.Start(t)
	for name, scene := range map[string]func(t *testing.T, open opener){
		"refreshed": refreshed, "cut": cut, "stalled": stalled, "asleep": asleep, "back and forth": backAndForth, "slow iterator": slowIterator,
		"tokens": shortLivedTokens,
	} {
		t.Run(name, func(t *testing.T) { scene(t, open) })
	}
}

type opener = func(t *testing.T, url string) chromiumtest.Tab

// Twenty times the page is refreshed in the middle of it all.
func refreshed(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{}, map[string]string{"/page": reader})
	tab := open(t, h.line.URL+"/page")
	stop := h.stream()
	defer stop()
	for i := range 20 {
		tab.Until(`window.say`)
		tab.Run(fmt.Sprintf(`setInterval(() => { window.n = (window.n ?? 0) + 1; say('%d.' + n) }, 7)`, i))
		tab.Do(chromedp.Sleep(time.Duration(h.rng.IntN(150))*time.Millisecond), chromedp.Reload())
	}
	stop()
	h.read(tab)
	h.heard(tab)
}

// Every connection breaks, in the middle of a frame, as often as not before
// anything was said; what was acknowledged and what came is exact.
func cut(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{}, map[string]string{"/page": reader})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`fan.state === 'connected'`)
	rng := rand.New(rand.NewPCG(h.rng.Uint64(), 2))
	h.line.Break(func() int { return 200 + rng.IntN(20_000) })
	h.line.Cut()
	h.line.Mend()
	stop := h.stream()
	defer stop()
	// No pauses that grow, or there were few cuts.
	tab.Run(`Math.random = () => 0; window.cuts = 0; fan.addEventListener('state', event => { if (event.state === 'waiting') cuts++ })
		window.done = (async () => {
			const positions = []
			for (let i = 0; i < 300; i++) {
				positions.push(say('p' + i))
				await new Promise(go => setTimeout(go, 10))
			}
			return (await Promise.all(positions)).length
		})(); 0`)
	tab.Until(`cuts >= 12`)
	if n := chromiumtest.Value[int](tab, `done`); n != 300 {
		t.Errorf("%d of 300 publishes were answered", n)
	}
	stop()
	h.line.Break(nil)
	h.line.Cut()
	h.line.Mend()
	h.read(tab)
	h.heard(tab)
	t.Logf("%d cuts", chromiumtest.Value[int](tab, `cuts`))
}

// A connection that stands and carries nothing is noticed by its silence.
func stalled(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{Heartbeat: time.Second}, map[string]string{"/page": reader})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`fan.state === 'connected'`)
	h.publish("before")
	h.read(tab)
	h.line.Stall()
	tab.Run(`say('void'); 0`)
	for i := range 100 {
		h.publish(fmt.Sprint(i))
	}
	began := time.Now()
	tab.Until(`fan.state !== 'connected' && fan.error.code === 'silent'`)
	h.read(tab)
	h.heard(tab)
	// One and a half heartbeats, and what it takes to look and to come back.
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A page that was frozen, or without a network, has caught up within three
// seconds of its waking.
func asleep(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{}, map[string]string{"/page": reader})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`fan.state === 'connected'`)
	h.publish("awake")
	h.read(tab)
	lifecycle := func(state page.SetWebLifecycleStateState) func() {
		return func() {
			tab.Do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				_, err := cdp.Call(ctx, target, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: state})
				return err
			}))
		}
	}
	offline := func(off bool) func() {
		return func() {
			if off {
				h.line.Cut()
			} else {
				h.line.Mend()
			}
			tab.Do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				_, err := cdp.Call(ctx, target, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: off, DownloadThroughput: -1, UploadThroughput: -1})
				return err
			}))
		}
	}
	for _, nap := range []struct {
		name        string
		sleep, wake func()
		asleep      func() bool
	}{
		{"frozen", lifecycle(page.SetWebLifecycleStateStateFrozen), lifecycle(page.SetWebLifecycleStateStateActive), func() bool { return h.Stats().Sessions == 0 }},
		{"offline", offline(true), offline(false), func() bool { return chromiumtest.Value[bool](tab, `fan.state !== 'connected'`) }},
	} {
		t.Run(nap.name, func(t *testing.T) {
			nap.sleep()
			for end := time.Now().Add(20 * time.Second); !nap.asleep(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the page does not rest")
				}
			}
			for i := range 500 {
				h.publish(fmt.Sprintf("%s %d", nap.name, i))
			}
			began := time.Now()
			nap.wake()
			h.read(tab)
			took := time.Since(began)
			t.Logf("caught up %v after waking", took)
			if took > 3*time.Second {
				t.Errorf("it took %v to catch up, want at most 3 s", took)
			}
		})
	}
}

// A page that the browser puts into its back/forward cache says goodbye, and
// goes on when it comes back.
func backAndForth(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{}, map[string]string{"/page": reader, "/other": `<!doctype html><title>other</title>`})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`fan.state === 'connected'`)
	h.publish("before")
	h.read(tab)
	tab.Run(`window.alive = true; addEventListener('pageshow', event => { window.back = event.persisted })`)
	tab.Do(chromedp.Navigate(h.line.URL + "/other"))
	for end := time.Now().Add(20 * time.Second); h.Stats().Sessions > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the page did not leave")
		}
	}
	for i := range 100 {
		h.publish(fmt.Sprint(i))
	}
	tab.Run(`history.back()`)
	tab.Until(`document.title === 'reader' && window.fan?.state === 'connected'`)
	t.Logf("from the cache: %v", chromiumtest.Value[bool](tab, `!!window.alive && window.back`))
	h.read(tab)
}

// An iterator that is slower than the channel makes the subscription pause,
// and gets everything in the end.
func slowIterator(t *testing.T, open opener) {
	h := newHouse(t, fanfare.Config{}, map[string]string{"/page": `<!doctype html><title>slow</title><script type="module">
import { connect } from "/live/-/fanfare.js"
const fan = window.fan = connect()
let read = ''
for await (const { position, data } of fan.subscribe("stream", { since: "0" })) {
	if (data.n % 100 === 0) await new Promise(go => setTimeout(go, 20))
	read += position + ' '
	if (data.last) sessionStorage.read = read
}
</script>`})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`fan.state === 'connected'`)
	const n = 6000
	for i := range n {
		h.publish(fmt.Sprintf(`{"n":%d,"last":%t,"more":%q}`, i, i == n-1, strings.Repeat("x", 1000)))
	}
	h.read(tab)
}

// A page whose tokens last for two seconds reads on and on over one connection, and
// over others when that breaks. A revoked or a forged token is the end, which says so.
func shortLivedTokens(t *testing.T, open opener) {
	var tokens fanfaretest.Tokens
	give := func() string {
		return tokens.Give(auth.Identity{Subject: "alice", Expires: time.Now().Add(2 * time.Second)})
	}
	page := strings.Replace(reader, "connect()", `connect(undefined, { token: window.ask = async () => (await fetch("/token", { method: "POST" })).text() })`, 1)
	h := newHouse(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: &tokens}}, map[string]string{"GET /page": page})
	var forge atomic.Bool
	h.mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		if forge.Load() {
			io.WriteString(w, fmt.Sprint("forged-", time.Now().UnixNano()))
			return
		}
		io.WriteString(w, give())
	})
	tab := open(t, h.line.URL+"/page")
	tab.Until(`window.fan?.state === 'connected' && fan.subject === 'alice'`)
	session := chromiumtest.Value[string](tab, `fan.session`)
	stop := h.stream()
	defer stop()
	tab.Run(`window.states = []; fan.addEventListener('state', event => states.push(event.state + ' ' + event.error?.code)); window.n = 0; window.saying = setInterval(() => say('t' + ++n), 20)`)
	tab.Until(`n >= 250`) // five seconds at least
	if again := chromiumtest.Value[string](tab, `fan.session`); again != session {
		t.Errorf("it connected anew: %v", chromiumtest.Value[[]string](tab, `states`))
	}
	for range 3 {
		h.line.Cut()
		tab.Until(`fan.state === 'waiting'`)
		h.line.Mend()
		tab.Until(`fan.state === 'connected'`)
	}
	tab.Run(`clearInterval(saying)`)
	stop()
	h.read(tab)
	h.heard(tab)

	if n, err := h.Revoke(t.Context(), fanfare.Revocation{Session: chromiumtest.Value[string](tab, `fan.session`)}); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	tab.Until(`states.includes('waiting revoked') && fan.state === 'connected'`) // with a new token, which is good
	forge.Store(true)
	h.line.Cut()
	h.line.Mend()
	tab.Until(`fan.state === 'closed' && fan.error.code === 'unauthenticated'`) // as a bad token in a first message is answered
}

// In Node, with the package ws.
func TestNodeAgainstServer(t *testing.T) {
	h := newHouse(t, fanfare.Config{}, nil)
	h.Handle("add", func(_ context.Context, r *fanfare.Request) (any, error) {
		var terms []float64
		if err := json.Unmarshal(r.Data, &terms); err != nil {
			return nil, err
		}
		sum := 0.0
		for _, term := range terms {
			sum += term
		}
		return sum, nil
	})
	node, modules := partner.Node(t)
	cmd := exec.CommandContext(t.Context(), node, "--input-type=module", "-e", `
import { createRequire } from 'node:module'
import { webcrypto } from 'node:crypto'
import assert from 'node:assert/strict'
import { connect, FanfareError } from './fanfare.js'
globalThis.crypto ??= webcrypto
const { WebSocket } = createRequire(import.meta.url)('ws')
const fan = connect(process.env.URL, { WebSocket, name: 'node' })
const chat = fan.subscribe('chat', { presence: true })
const bytes = new Uint8Array(40_000).map((_, i) => i)
const values = ['Hello', '42', '{"a":1}', '', 42, null, true, { a: [1, { b: '你好 👋' }] }, [], bytes, bytes.buffer]
const positions = []
for (const value of values) positions.push(await fan.publish('chat', value, { key: 'k' }))
let i = 0
for await (const { channel, position, sender, key, data } of chat) {
	assert.deepEqual({ channel, position, sender, key, data }, { channel: 'chat', position: positions[i], sender: 'node', key: 'k', data: i < values.length - 1 ? values[i] : bytes })
	if (++i === values.length) break
}
const page = await fan.history('chat', { since: positions[0], limit: 3 })
assert.deepEqual(page.messages.map(m => m.data), values.slice(1, 4))
assert(page.more && !page.gap && page.position === positions[3])
assert.equal((await fan.presence('chat', { limit: 0 })).count, 0)
assert.equal(await fan.request('add', [1, 2, 3]), 6)
await assert.rejects(fan.request('nothing'), error => error instanceof FanfareError && error.code === 'unknown_method')
await assert.rejects(fan.publish('chat/*', 1), error => error.code === 'bad_channel')
for await (const { channel, pattern, data } of fan.subscribe('*', { since: positions[9] })) {
	assert.deepEqual([channel, pattern, data], ['chat', '*', bytes])
	break
}
fan.close()
console.log('done')
`)
	cmd.Env = append(cmd.Environ(), "NODE_PATH="+modules, "URL="+h.line.URL+"/live")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "done\n" {
		t.Fatalf("%v\n%s", err, out)
	}
}
