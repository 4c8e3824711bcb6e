package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/net/http2"

	"fanfare/internal/chromiumtest"
	"fanfare/internal/partner"
)

// Clients of others that trust the authority in a file, hear one text, and say another. What
// follows -e and -c are URL and file.
const (
	pythonSecure = `
import asyncio, ssl, sys, websockets

async def main():
    trust = ssl.create_default_context(cafile=sys.argv[2])
    async with websockets.connect(sys.argv[1], ssl=trust) as ws:
        print("open", flush=True)
        print(await ws.recv(), flush=True)
        await ws.send("from Python 🐍")
        await ws.recv()

asyncio.run(main())
`
	nodeSecure = `
const WebSocket = require("ws");
const ws = new WebSocket(process.argv[1], { ca: require("fs").readFileSync(process.argv[2]) });
let heard = 0;
ws.on("open", () => console.log("open"));
ws.on("message", (data) => {
  if (heard++ > 0) return ws.close();
  console.log(String(data));
  ws.send("from Node 🟢");
});
`
)

// WebSockets over TLS, of clients that are none of ours.
func TestSecureClientsOfOthers(t *testing.T) {
	a, core, at := house(t, serveTimeouts())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	written(t, ca, a.pem)
	node, modules := partner.Node(t)
	for name, c := range map[string]struct {
		program, script, option, want string
	}{
		"Python": {partner.Python(t), pythonSecure, "-c", "from Python 🐍"},
		"Node":   {node, nodeSecure, "-e", "from Node 🟢"},
	} {
		t.Run(name, func(t *testing.T) {
			hear := listener(t, core, name)
			cmd := exec.CommandContext(t.Context(), c.program, c.option, c.script, "wss://"+at+"/"+name, ca)
			cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
			cmd.Stderr = os.Stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewScanner(stdout)
			for _, want := range []string{"open", "to all"} {
				if !out.Scan() || !strings.HasSuffix(out.Text(), want) {
					t.Errorf("it hears %q, want %q", out.Text(), want)
				}
				if want == "open" {
					publish(t, core, name, "to all")
				}
			}
			if got := hear(); !strings.HasSuffix(got, "to all") {
				t.Errorf("said was %q", got)
			}
			if got := hear(); !strings.HasSuffix(got, c.want) {
				t.Errorf("it says %q, want %q", got, c.want)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Chromium speaks fanfare.v1 over wss, by the channel's page and by the module that
// the server serves.
func TestSecureChromium(t *testing.T) {
	_, core, at := house(t, serveTimeouts())
	open := chromiumtest.Start(t, chromedp.Flag("ignore-certificate-errors", true))
	tab := open(t, "https://"+at+"/hall")
	tab.Online()
	hear := listener(t, core, "hall")
	tab.Say("by the page")
	if got := hear(); !strings.Contains(got, "by the page") {
		t.Errorf("the page says %q", got)
	}
	if got := chromiumtest.Value[string](tab, `import("/-/fanfare.js").then(async ({ connect }) => {
		const fan = connect();
		const heard = new Promise(done => fan.subscribe("hall", message => done(message.data)));
		await fan.publish("hall", "by the module");
		return location.protocol + " " + await heard;
	})`); got != "https: by the module" {
		t.Errorf("the module hears %q", got)
	}
	if got := hear(); got != "by the module" {
		t.Errorf("the module says %q", got)
	}
}

// A reader over HTTP/2 that takes nothing is gone after a while, and the others that the
// server has are unharmed.
func TestStuckOverHTTP2(t *testing.T) {
	a, core, at := house(t, serveTimeouts())
	conn, err := tls.Dial("tcp", at, a.trust("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, nil)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: readerHead(at), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	connected(t, core, 1)
	transport := &http2.Transport{TLSClientConfig: a.trust()}
	defer transport.CloseIdleConnections()
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+at+"/x", nil)
	request.Header.Set("Accept", "text/event-stream")
	resp, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	connected(t, core, 2)

	lines := bufio.NewReaderSize(resp.Body, 1<<20)
	text, worst, sent := strings.Repeat("x", 64<<10), time.Duration(0), 0
	for began := time.Now(); core.Stats().Sessions == 2; sent++ {
		if time.Since(began) > patience {
			t.Fatalf("after %d messages of 64 KiB and %v the reader that takes nothing is still there", sent, patience)
		}
		said := time.Now()
		publish(t, core, "x", text)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("the other reader is cut: %v", err)
			}
			if strings.Contains(line, text) {
				break
			}
		}
		worst = max(worst, time.Since(said))
	}
	t.Logf("cut after %d messages; another waited %v at most", sent, worst)
	if worst > 3*time.Second {
		t.Errorf("another waited %v", worst)
	}
}

// TLS within the PROXY protocol: what a proxy says comes first, and without it there
// is nothing.
func TestTLSBehindProxy(t *testing.T) {
	a, file := newAuthority(t), filepath.Join(t.TempDir(), "pem")
	cert, key := a.good(1)
	written(t, file, cert+key)
	_, at := secureDaemon(t, "--tls-cert", file, "--proxy-protocol", "--trusted-proxy", "127.0.0.1")
	ask := func(header string) (string, error) {
		raw, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(raw, header); err != nil {
			t.Fatal(err)
		}
		trust := a.trust()
		trust.ServerName = "localhost"
		conn := tls.Client(raw, trust)
		if _, err := io.WriteString(conn, "GET /-/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(conn)
		return string(answer), err
	}
	if answer, err := ask("PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"); err != nil || !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		t.Errorf("with a header it answers %q, %v", answer, err)
	}
	if answer, err := ask(""); err == nil {
		t.Errorf("without a header it answers %q", answer)
	}
}
