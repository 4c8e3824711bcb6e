package main

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script run the real binary (this test binary as
// fanfare). Besides testscript's own commands they have
//
//	exits CODE program args…   runs it and checks the exit code
//	socket FILE                waits until somebody listens on the Unix socket
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process sleeps a second at its end
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				code := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					code = exit.ExitCode()
				}
				if code != want {
					ts.Fatalf("exit code %d, want %d", code, want)
				}
			},
			"socket": func(ts *testscript.TestScript, _ bool, args []string) {
				deadline := time.Now().Add(patience)
				for {
					conn, err := net.Dial("unix", ts.MkAbs(args[0]))
					if err == nil {
						conn.Close()
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("nobody listens on %s: %v", args[0], err)
					}
					time.Sleep(5 * time.Millisecond)
				}
			},
		},
	})
}
