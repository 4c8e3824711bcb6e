package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

var errInterrupted = errors.New("it was interrupted")

// untilInterrupted returns a context that ends with the first SIGINT or
// SIGTERM; first, if not nil, is called then. The second signal ends the
// program at once, with code 1. Call stop when the command is over.
func untilInterrupted(first func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-over:
			return
		}
		if first != nil {
			first()
		}
		cancel(errInterrupted)
		select {
		case <-signals:
			os.Exit(exitOther)
		case <-over:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		cancel(nil)
	}
}
